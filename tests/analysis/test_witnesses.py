"""What changed is shown by a request wherever one can be built, and both policies answer it as is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest

from policyengine import kernel as k
from policyengine.analysis import Diff, compare
from policyengine.analysis.diff.describe import REQUIREMENT_FACTS
from policyengine.analysis.diff.oracle import PolicyOracle
from policyengine.analysis.diff.render import render_text
from policyengine.engine import Engine
from policyengine.solver.witness.texts import TextQuestion, sample_text

BASE = """
enum plan = free < team < enterprise
entity user { roles: set<string>   tenant: string   level: int }
entity doc { tags: set<string>   owner: user }
facts on TOOL fs/* { args.path: string   args.to: list<string>   args.amount: number   args.currency: string }
facts on POST /pay { body.amount: number   body.parts: list<{ to: string   sum: number? }>?   body.to: string? }
facts { context.at: time?   context.risk: number? }
scope docs { GET /docs/{id: doc} }
scope pay { POST /pay }
issuer acme { scopes none }
user any { may TOOL fs/*, docs, pay }
agent "bot-*" { issued by acme   acts for any user   may TOOL fs/*, docs, pay }
guard "task" on TOOL fs/* { require task.tools is present }
guard "path" on TOOL fs/* {
  require args.path like "/project/*" and not contains(args.path, "..")
  deny when args.path like "*.env" or contains(args.path, "id_rsa")
  deny when size(args.to) > 20
  deny when args.currency not in ["EUR", "USD"] and args.amount > 100
}
guard "mail" on TOOL fs/* { deny when any a in args.to: domain(a) != "acme.example" }
guard "parts" on POST /pay { deny when any p in (body.parts else []): (p.sum > 100 and p.to != "me") }
guard "late" on POST /pay { deny when (context.at else time) + 1h < time   deny when user.level * 2 - 3 > 10 }
guard "docs" on docs { deny when resource.tags == ["a", "b"]   require user.roles overlaps ["x", "y"] }
guard "debug" on POST /pay { deny when request.headers["x-t"] matches "[a-c]{2,3}" }
guard "large" on POST /pay { confirm by role boss within 15m when body.amount > 500 message "pay {body.amount}" }
rate "calls" per (user.tenant, request.ip) on POST /pay, TOOL fs/* { 100/1m cost body.amount }
budget "spent" per user.id on pay { sum body.amount <= 1_000 within 24h }
""".replace(" cost body.amount", "")


def changed(old: str, new: str) -> Diff:
    """Each request that is told is answered as is told, by both policies."""
    assert BASE.count(old) == 1, old
    kernels = [Engine.from_text(text).kernel for text in (BASE, BASE.replace(old, new))]
    found = compare(*kernels, samples=0)
    for difference in found.differences:
        for witness in difference.witnesses:
            traced = [PolicyOracle(kernel).traced(witness.question, witness.at) for kernel in kernels]
            outcomes = [decision.outcome for decision, _, _ in traced]
            assert outcomes == [difference.old.outcome, difference.new.outcome]
    return found


DEEP = pytest.mark.deep
OPENING = [
    pytest.param('agent "bot-*"', 'agent "bot*"', id="a wider glob, where limits read the body"),
    pytest.param('contains(args.path, "..")', 'contains(args.path, "../")', id="another part of a text", marks=DEEP),
    pytest.param('args.path like "*.env"', 'args.path like "*/.env"', id="a narrower pattern beside another"),
    pytest.param(
        'contains(args.path, "id_rsa")', 'ends_with(args.path, "id_rsa")', id="an end instead of a part", marks=DEEP
    ),
    pytest.param("size(args.to) > 20", "size(args.to) > 200", id="a larger size", marks=DEEP),
    pytest.param('["EUR", "USD"]', '["EUR", "USD", "eur"]', id="one item more in a list, behind a task"),
    pytest.param("any a in args.to: domain(a)", "all a in args.to: domain(a)", id="all for any", marks=DEEP),
    pytest.param("p.sum > 100 and", "p.sum > 200 and", id="a larger bound for elements", marks=DEEP),
    pytest.param('p.to != "me"', '(p.to != "me" and p.to != "you")', id="one name more for elements"),
    pytest.param("+ 1h < time", "+ 2h < time", id="a longer time between two facts"),
    pytest.param("user.level * 2 - 3 > 10", "user.level * 2 - 3 > 12", id="a larger bound of a sum", marks=DEEP),
    pytest.param('resource.tags == ["a", "b"]', 'resource.tags == ["a", "c"]', id="another set", marks=DEEP),
    pytest.param('overlaps ["x", "y"]', 'overlaps ["x", "y", "z"]', id="one item more in what overlaps"),
    pytest.param('"[a-c]{2,3}"', '"[a-b]{2,3}"', id="a smaller class of letters", marks=DEEP),
    pytest.param('"[a-c]{2,3}"', '"[a-c]{3}"', id="a shorter repeat"),
]


@pytest.mark.parametrize(("old", "new"), OPENING)
def test_a_widening_change_has_a_witness_request(old: str, new: str) -> None:
    assert changed(old, new).opens


def test_a_confirm_message_with_a_new_fact_narrows_when_it_is_pending() -> None:
    found = changed('message "pay {body.amount}"', 'message "pay {body.amount} at {context.risk}"')
    assert [one.direction.value for one in found.differences] == ["narrowing"]
    assert found.differences[0].witnesses[0].request["pending"] == ["context.risk"]


CHAINS = """
enum plan = free < team
entity user { plan: plan }
scope docs { GET /docs }
issuer acme { records chains }
user any { may docs }
agent "planner" { issued by acme   acts for any user   may docs   may delegate docs to agent "reader" for 30m when user.plan >= team }
agent "reader" { issued by acme   acts for any user   may docs }
delegation { lifetime <= 2h }
"""  # noqa: E501


@pytest.mark.parametrize(
    ("old", "new"), [("for 30m", "for 45m"), (">= team", ">= free"), (" when user.plan >= team", "")]
)
def test_a_widened_delegation_has_a_witness_chain(old: str, new: str) -> None:
    kernels = [Engine.from_text(text).kernel for text in (CHAINS, CHAINS.replace(old, new))]
    assert compare(*kernels, samples=0).opens


@pytest.mark.parametrize(
    ("more", "title"), [("", "not proved:"), ("user any { may POST /a }", "not proved, in addition to the above:")]
)
def test_the_title_of_unproved_changes_mentions_other_changes_only_if_there_are_any(more: str, title: str) -> None:
    policy = """
    issuer acme { scopes none }
    user "alice" { may POST /a }
    guard "once" on POST /a { require no (POST /a where past.status < 400) within 1h }
    """
    kernels = [
        Engine.from_text(one).kernel for one in (policy, policy.replace("400", "500") + more.replace("/a", "/b"))
    ]
    assert title in render_text(compare(*kernels, samples=0)).splitlines()


# ── Texts ─────────────────────────────────────────────────────────────────────────────────────


def asked(words: str) -> Iterator[tuple[TextQuestion, bool]]:
    for one in words.split("; "):
        wanted, name, part = one.split(" ")
        yield TextQuestion(name, part), wanted == "+"


@pytest.mark.parametrize(
    "questions",
    [
        "+ like a*; - like ab*",
        "+ like /p/*; + like *.env; - like */.env",
        "+ contains ..; - contains ../; + like /p/*",
        "+ starts_with a; + ends_with z; + contains mm; - like *mm",
        "+ matches [a-z]+-x; - matches [a-m]+-x",
        "+ matches (a|b|c)d; - matches (a|b)d",
        "- like *; - contains x".replace("- like *; ", "- like x*; "),
    ],
)
def test_sample_text_finds_a_text_that_meets_all_conditions(questions: str) -> None:
    assert sample_text([*asked(questions)]) is not None


def test_sample_text_returns_none_for_contradictory_conditions() -> None:
    assert sample_text([*asked("+ like a*; - starts_with a")]) is None


def test_every_agent_requirement_lists_its_facts() -> None:
    assert set(REQUIREMENT_FACTS) == set(get_args(k.Requirement))
