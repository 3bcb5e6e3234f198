"""The description of a program: every distinct endpoint, with the rules that decide there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.description import endpoint_walk
from policyengine.compiler.description.endpoint_walk import EndpointWalk
from policyengine.compiler.description.model import ProgramDescription, ProgramItem
from policyengine.compiler.description.node_words import TEST_WORDS, describe_test
from policyengine.compiler.graph.box import BoxKind
from policyengine.compiler.graph.draw import draw
from policyengine.compiler.graph.selection import read_endpoint
from policyengine.compiler.tree import tree_of
from policyengine.engine import Engine
from policyengine.evaluator.conditions import Condition, Connective, Equal
from policyengine.evaluator.history_nodes import AggregateValue, HistoryNode
from policyengine.evaluator.nodes import Slot
from policyengine.evaluator.relation_nodes import Binary, PendingIdTest
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint, MalformedEndpoint
from policyengine.typesystem import Scalar
from tests.depth import examples, scaled
from tests.generate import cases

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
POLICY = """\
package shop
entity order { owner: user }
facts { context.depth: int   context.tenant: string }
issuer acme {}
scope orders.read as "read:orders" { GET /orders/{id: order} }
define nearby = context.depth <= 3
user any { may orders.read }
agent "bot" {
  issued by acme
  acts for any user
  may orders.read when nearby and context.tenant == "acme"
}
delegation { depth <= 2 }
guard "own" on GET /orders/{id: order} { require user == resource.owner   audit full when context.depth > 1 }
rate "calls" per user.id on /orders/** { 10/1m }
"""
TEXT = """\
program of shop, revision REVISION
2 endpoints, 19 slots
every other request is denied by default
  every chain: delegation { depth <= 2 }                                                              shop.policy:13

/orders
  matches /orders/** in any letter case
  rate "calls" per user.id                                                                            shop.policy:15
    10/1m

GET /orders/*
  matches GET /orders/{id: order}
  matches GET /orders/* in any letter case
  matches /orders/** in any letter case
  binds params.id to segment 2
  binds resource to order of segment 2
  agent "bot"   # by name                                                                             shop.policy:8
    issued by acme   # issuer test                                                                    shop.policy:9
    acts for any user   # slot 17, user test                                                          shop.policy:10
    may orders.read, scope "read:orders"                                                              shop.policy:11
      when nearby and context.tenant == "acme"
        all of
          context.depth <= 3   # slot 12, order test                                                  shop.policy:6
          context.tenant == "acme"   # slot 18, equality test
  user any   # always                                                                                 shop.policy:7
    may orders.read, without an agent, the credential needs scope "read:orders"
  bounds of task.entities   # slots 13, 9, all of
  guard "own"                                                                                         shop.policy:14
    require user == resource.owner
      stops unless
        user == resource.owner   # slots 6, 11, equality test
    audit full when context.depth > 1
      context.depth > 1   # slot 12, order test
  rate "calls" per user.id                                                                            shop.policy:15
    10/1m
"""


def program_of(text: str) -> ProgramDescription:
    return Engine.from_text(text, "shop.policy").describe_program()


def items_of(description: ProgramDescription) -> list[ProgramItem]:
    found: list[ProgramItem] = []
    pending = [item for endpoint in description.endpoints for item in endpoint.rules]
    while pending:
        item = pending.pop()
        found.append(item)
        pending += item.parts
    return found


def places_of(description: ProgramDescription, example: str, *kinds: str) -> set[str]:
    (endpoint,) = (one for one in description.endpoints if one.endpoint == example)
    return {item.at for item in items_of(replace(description, endpoints=(endpoint,))) if item.kind in kinds}


# ── Text and data ─────────────────────────────────────────────────────────────────────────────


def test_a_description_shows_each_endpoint_with_its_rules_and_their_places() -> None:
    description = program_of(POLICY)
    assert description.render() == TEXT.replace("REVISION", description.revision)


def test_the_data_of_a_description_has_the_same_content_as_the_text() -> None:
    described = program_of(POLICY).to_dict()
    endpoint = described["endpoints"][1]
    assert (described["packages"], described["slots"], described["omitted"]) == (["shop"], 19, 0)
    assert (endpoint["endpoint"], endpoint["patterns"][0]) == ("GET /orders/*", "GET /orders/{id: order}")
    grant = endpoint["rules"][2]["parts"][2]
    assert grant["words"] == 'may orders.read, scope "read:orders"'
    assert grant["parts"][0]["parts"][0]["parts"][0] == {
        "kind": "test", "words": "context.depth <= 3", "test": "slot 12, order test", "at": "shop.policy:6",
    }  # fmt: skip


def test_a_description_is_the_same_in_every_process() -> None:
    script = (
        "from policyengine.engine import Engine\n"
        f"for name in {NAMES}: print(Engine.load({str(EXAMPLES)!r} + '/' + name).describe_program().render())"
    )
    there = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert os.environ.get("PYTHONHASHSEED") != "77"
    assert there == "".join(f"{Engine.load(EXAMPLES / name).describe_program().render()}\n" for name in NAMES)


def test_a_description_does_not_depend_on_earlier_decisions() -> None:
    engine = Engine.from_text(POLICY, "shop.policy")
    before = engine.describe_program()
    engine.decide({"request": {"method": "GET", "path": "/orders/7"}, "user": {"id": "ann"}})
    assert engine.describe_program() == before


def test_no_text_of_a_policy_adds_a_line() -> None:
    quoted = r'"a\nagent \"b\""'
    text = program_of(
        f"issuer acme {{ scopes none }}\nagent {quoted} {{ issued by acme  acts alone  may GET /x }}"
    ).render()
    assert len([line for line in text.splitlines() if "agent" in line]) == 1


# ── All rules that decide ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_of_an_endpoint_has_the_rules_of_the_program(name: str) -> None:
    engine = Engine.load(EXAMPLES / name)
    description, tree = engine.describe_program(), tree_of(engine.kernel)
    drawn_kinds = (BoxKind.MAY, BoxKind.DELEGATE, BoxKind.GUARD, BoxKind.RATE, BoxKind.BUDGET)
    checked = 0
    for endpoint in description.endpoints:
        method, _, path = endpoint.endpoint.partition(" ")
        if not path or path.endswith("**") or method == "any":
            continue
        concrete = f"{method.partition('|')[0]} {path.replace('*', 'x1')}"
        drawing = draw(engine.kernel, tree, read_endpoint(concrete))
        drawn = {box.at for box in drawing.walk() if box.kind in drawn_kinds}
        described = places_of(description, endpoint.endpoint, "grant", "delegation", "guard", "rate", "budget")
        assert drawn == described, concrete
        checked += 1
    assert checked > 0


@scaled
@settings(max_examples=examples(8, 200))
@given(st.integers(0, 2**32 - 1))
def test_the_walk_finds_the_rules_of_every_request_in_the_same_letter_case(seed: int) -> None:
    for case in cases(seed, questions=4):
        endpoint = case.request.endpoint
        if isinstance(endpoint, MalformedEndpoint):
            continue
        builder = ProgramBuilder(case.kernel, tree_of(case.kernel))
        walk = EndpointWalk(builder)
        sets = {(one.patterns, one.loose) for one in walk.endpoints()}
        rules = builder.rules_at(endpoint)
        (key,) = (key[1:] for key, one in builder.rules.items() if one is rules)
        assert walk.omitted == 0
        assert key in sets or is_in_another_case(builder, endpoint)


def is_in_another_case(builder: ProgramBuilder, endpoint: Endpoint) -> bool:
    """Whether a pattern matches the path only in another letter case."""
    if not isinstance(endpoint, HttpEndpoint):
        return False
    branch = builder.paths.root
    for segment in endpoint.segments:
        then = builder.paths.step(branch, segment)
        if then is None:
            return False
        branch = then
        if any(folding for _, folding in branch.places):
            return True
    return False


OVERLAPPING = """
anyone {
  may GET /a/r{id}, GET /a/{name}:run, GET /a/rx:run
  may TOOL mail/*, TOOL */send, TOOL mail/send
}
"""


@pytest.mark.parametrize(
    ("endpoint", "patterns"),
    [
        ("GET /a/r*:run", ["GET /a/r{id}", "GET /a/{name}:run"]),
        ("GET /a/r*", ["GET /a/r{id}"]),
        ("GET /a/rx:run", ["GET /a/r{id}", "GET /a/{name}:run", "GET /a/rx:run"]),
        ("TOOL mail/*", ["TOOL mail/*"]),
        ("TOOL mail/send", ["TOOL mail/*", "TOOL */send", "TOOL mail/send"]),
    ],
)
def test_patterns_that_match_together_are_an_endpoint(endpoint: str, patterns: list[str]) -> None:
    (found,) = (one for one in program_of(OVERLAPPING).endpoints if one.endpoint == endpoint)
    assert sorted(found.patterns) == sorted(patterns)


def test_a_description_says_how_many_branches_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_walk, "MAX_BRANCHES", 4)
    grants = ", ".join(f"GET /a{number}" for number in range(10))
    description = program_of(f"anyone {{ may {grants} }}")
    assert [endpoint.endpoint for endpoint in description.endpoints] == ["GET /a0", "GET /a1", "GET /a2"]
    assert description.omitted == 7
    *_, omitted, hint = description.lines()
    assert omitted == "left out: the endpoints below 7 more branches of paths"
    assert hint == "`policyengine graph --endpoint PATH/**` draws their rules"


# ── How conditions are tested ─────────────────────────────────────────────────────────────────

FACTS = """
enum plan = free < team
entity team
entity user { plan: plan   tags: set<string>   age: int } in team
facts { context.n: int   context.s: string   context.t: string   context.on: bool   context.list: list<string> }
"""


@pytest.mark.parametrize(
    ("condition", "tests"),
    [
        ("context.n <= 40", ["order test"]),
        ("context.n < user.age", ["order test"]),
        ('context.s == "a"', ["equality test"]),
        ("context.s == context.t", ["equality test"]),
        ('context.s in ["a", "b"]', ["string set test"]),
        ('context.list has "a"', ["element test"]),
        ("context.list has context.s", ["element test"]),
        ('context.list overlaps ["a"]', ["set test"]),
        ("context.s is present", ["presence test"]),
        ("context.on", ["truth test"]),
        ('context.s like "a*"', ["function test"]),
        ("user is known", ["row test"]),
        ('user in team "a"', ["hierarchy test"]),
        ("user.plan >= team", ["order test"]),
        ('any x in context.list: x == "a"', ["loop", "equality test"]),
        ('context.on and not (context.n == 1 or context.s == "a")', ["truth test", "equality test", "equality test"]),
    ],
)
def test_a_condition_is_described_by_the_nodes_that_test_it(condition: str, tests: list[str]) -> None:
    found = items_of(program_of(f"{FACTS}anyone {{ may GET /x when {condition} }}"))
    assert sorted(item.test.rpartition(", ")[2] for item in found if item.test) == sorted(tests)
    assert [item.words for item in found if item.kind == "when"] == [f"when {condition}"]


def test_a_fact_has_the_same_slot_in_every_condition() -> None:
    found = items_of(program_of(f"{FACTS}anyone {{ may GET /x when context.n > 1   may GET /x when context.n < 9 }}"))
    (slot,) = {item.test.partition(",")[0] for item in found if item.test}
    assert re.fullmatch(r"slot \d+", slot)


def test_every_kind_of_condition_has_words() -> None:
    bases = {Condition, Connective, Binary, HistoryNode, AggregateValue}
    bases.add(PendingIdTest)  # described as its relation
    pending, found = [Condition], set()
    while pending:
        kind = pending.pop()
        found.add(kind)
        pending += kind.__subclasses__()
    assert found - bases == TEST_WORDS.keys()


def test_a_relation_of_a_resource_id_is_described_like_any_other() -> None:
    relation = Equal(Slot(3, ("resource", "id"), Scalar.STRING, "resource.id", 1, 0, "", False), "x", False)
    assert describe_test(PendingIdTest(relation, "==", "x")) == "slot 3, equality test"
