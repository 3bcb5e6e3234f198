"""The engine decides as the specification does: generated policies and questions, in every form and state.

`sources.py` generates the questions of the first test. Hypothesis chooses and edits those of the others, and shrinks
what differs. `tests/deep/test_equality.py` asks a million questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.analysis.slices import Slices
from policyengine.engine import Engine
from policyengine.engine.question import parse_request
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.request import RequestError
from tests.depth import examples, scaled
from tests.evaluator.equality import Pair
from tests.evaluator.sources import SOURCES, hold
from tests.evaluator.tallies import LEAST, SHARES, Share, cases_of
from tests.generate import vocabulary as v
from tests.generate.asking import Asking, Setting, askings, chosen, complete, setting
from tests.generate.cases import kernel_of
from tests.generate.expressions import Writer, atoms_at
from tests.generate.hazards import HAZARDS, IDS, OBJECTS, SHAPES, Agreeing, copied
from tests.generate.policies import ABOUT_USERS, File, Policy
from tests.generate.requests import NOW, NOWS, WRONG, Question, directory, rows
from tests.generate.specified import said
from tests.security.test_generated import conditions

ELSEWHERE = (Gate.FAILURE, Gate.HALTED)  # gates that tests/compiler/test_work.py and tests/halts/test_gate.py reach
EXAMPLES, SHARDS, POLICIES = examples(120, 400), 2, examples(7, 14)
SMALL = examples(50, 200)  # questions to policies that hypothesis writes
HOSTILE = examples(3, 6)  # policies that are asked questions with each hazard

# ── Generated questions ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("source", "share"), cases_of(SHARES), ids=lambda one: str(one))
def test_generated_questions_are_decided_as_specified(
    source: str, share: Share, record_property: Callable[[str, object], None]
) -> None:
    tally = hold(SOURCES[source], share.seeds, share.questions)
    record_property("equality", json.dumps(tally.to_dict()))
    assert tally.decisions >= len(share.seeds) * share.questions
    assert not tally.lacking(LEAST[source]), f"hardly occurred:\n{tally}"


def test_at_least_five_thousand_questions_are_compared_and_every_case_occurs() -> None:
    assert sum(len(share.seeds) * share.questions for _, share in cases_of(SHARES)) >= 5_000
    named = {name for least in LEAST.values() for name in least}
    gates = {f"gate {one}" for one in (None, *Gate) if one not in ELSEWHERE}
    kinds = {f"obligation {one}" for one in (*v.OBLIGATIONS, "consume")}
    effects = {f"effect {one}" for one in ("opens", "spends", "records", "charges a confirm", "counts a denial")}
    assert not {*gates, *kinds, *effects, *(f"outcome {one}" for one in Outcome)} - named


@scaled
@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda hazard: hazard.__name__)
def test_hostile_questions_are_decided_as_specified(hazard: Callable[[Random, Question], object]) -> None:
    for seed in range(HOSTILE):
        pair, random = Pair.of(setting(seed), NOW), Random(seed)
        for asking in islice(askings(seed, 10), 10):
            if type(asking.question) is dict:
                pair.compare(Asking(hazard(random, copied(asking.question)), NOW))


# ── Questions by hypothesis ───────────────────────────────────────────────────────────────────

NAMES = sorted({(root, name) for root, members in v.GIVEN.items() for name in members})
MEMBERS = st.sampled_from([*NAMES, ("user", "id"), ("agent", "id"), ("agent", "issuer"), ("chain", "hops")])
VALUES = (
    st.sampled_from([*WRONG, *SHAPES, *OBJECTS, *IDS])
    | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.decimals()
    | st.lists(st.sampled_from(["acme", "clerk", 7, None]), max_size=3)
)  # fmt: skip
EDITS = st.lists(st.tuples(MEMBERS, VALUES), max_size=2)
TIMES = st.sampled_from(NOWS)
SPOILING = st.lists(st.tuples(st.sampled_from(HAZARDS), st.integers(0, 2**16)), max_size=1)


Choices: TypeAlias = tuple[int, int, list[Any], list[Any], datetime, bool]
CHOICES = st.tuples(st.integers(0, POLICIES - 1), st.integers(0, 40), EDITS, SPOILING, TIMES, st.booleans())


@lru_cache(maxsize=POLICIES * SHARDS)
def bases(seed: int) -> list[Question]:
    return chosen(Random(seed), seed)


@lru_cache(maxsize=POLICIES * SHARDS)
def pair_of(seed: int) -> Pair:
    """Return one pair for all questions: none of them has an approval that counts, so nothing is spent."""
    return Pair.of(setting(seed), NOW)


def edited(base: Question, edits: list[tuple[tuple[str, str], Any]], spoiling: list[tuple[Any, int]]) -> Any:
    found: Any = copied(base)
    for (root, name), value in edits:
        found.setdefault(root, {})
        if type(found[root]) is dict:
            found[root][name] = copied(value)
    for hazard, seed in spoiling:
        found = hazard(Random(seed), found)
    return found


@scaled
@pytest.mark.parametrize("shard", range(SHARDS))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(choices=CHOICES)
def test_any_question_to_a_generated_policy_is_decided_as_specified(shard: int, choices: Choices) -> None:
    number, which, edits, spoiling, now, peeks = choices
    seed = shard * POLICIES + number
    base = bases(seed)[which % len(bases(seed))]
    pair_of(seed).compare(Asking(edited(base, edits, spoiling), now), peeks)


# ── Policies by hypothesis ────────────────────────────────────────────────────────────────────


REFUNDS = """
scope refunds {
  POST /v1/invoices/{id: invoice}/refunds
  TOOL billing/refund with resource = invoice(args.invoice), body.amount = args.amount
}"""  # the vocabulary names it


@st.composite
def small_settings(draw: st.DrawFn) -> Setting | None:
    """Return a policy with one grant and one guard, each with a condition. Hypothesis makes all choices."""
    random = draw(st.randoms(use_true_random=False))
    may = Writer(random, atoms_at(()), None, 2).condition()
    where = Writer(random, atoms_at((), ABOUT_USERS), ABOUT_USERS, 1, definitions=False).condition()
    acts = random.choice(["deny when", "deny unless", "require", "confirm by role boss when", "audit full when"])
    guard = Writer(random, atoms_at(()), None, 2, approvals=acts.startswith(("deny", "require"))).condition()
    declarations = (
        v.ENTITIES, REFUNDS, "issuer open { scopes none }", *(f"define {name} = context.flag" for name in v.DEFINED),
        f"user where {where} {{ may GET /notes }}", f"user any {{ may GET /notes when {may} }}",
        f'guard "g" {{ {acts} {guard} }}',
    )  # fmt: skip
    policy = Policy((File("package acme.small", declarations),))
    kernel = kernel_of(policy)
    return None if kernel is None else Setting(policy, known_rows(), kernel, directory(known_rows()))


@lru_cache(maxsize=1)
def known_rows() -> list[dict[str, Any]]:
    return rows(Random(3))


@scaled
@settings(max_examples=SMALL, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(asked=small_settings(), seed=st.integers(0, 15), edits=EDITS, now=TIMES)
def test_any_small_policy_decides_as_specified(
    asked: Setting | None, seed: int, edits: list[Any], now: datetime
) -> None:
    if asked is not None:
        Pair.of(asked, NOW).compare(Asking(edited(fitted_to_users(seed), edits, []), now))


@lru_cache(maxsize=16)
def fitted_to_users(seed: int) -> Question:
    """Return a question of a user who reads a note, with every fact."""
    asked = complete(Random(seed))
    return {**asked, "request": {**asked["request"], "method": "GET", "path": "/notes"}, "user": {"id": "alice"}}


# ── What the generators reach ─────────────────────────────────────────────────────────────────


def test_generated_questions_are_about_rules_with_every_form_of_a_condition() -> None:
    """Look only at the rules that can affect the decision of a question."""
    lacking = {form.__name__ for form in k.Expr.__args__}  # type: ignore[attr-defined]
    lacking -= {"PastFact", "HistoryCondition", "Aggregate"}  # `test_history.py` counts them
    for seed in (1_057, 1_053, *range(1_000, 1_036)):  # the first negate a number, which is rare
        slices = Slices(pair_of(seed).tested.evaluator)
        for asking in askings(seed, 10):
            lacking -= {type(part).__name__ for one in rules_for(slices, asking) for part in k.walk(one)}
        if not lacking:
            return
    raise AssertionError(f"no rule that was asked about has {lacking}")


def rules_for(slices: Slices, asking: Asking) -> list[k.Expr]:
    try:
        return conditions(slices.of(parse_request(asking.question)))
    except RequestError:
        return []


# ── Differences that generated questions found ────────────────────────────────────────────────

TWO_BLOCKS = """
scope a { GET /a }
issuer acme {}
agent "bot" { issued by acme   acts alone   may a }
agent BLOCK { issued by acme   acts alone   may a when context.risk < 5 }
facts { context.risk: number? }
"""


@pytest.mark.parametrize("block", ['group "night"', 'where agent.groups has "night"', '"b*"'])
@pytest.mark.parametrize("more", [{}, {"context": {"risk": 7}}, {"context": {"risk": "7"}}])
@pytest.mark.parametrize("groups", [None, [], ["night"], ["night", "night"], "night"])
def test_an_unknown_fact_of_one_block_is_reported_with_the_scopes_of_another(
    block: str, more: object, groups: object
) -> None:
    engine = Engine.from_text(TWO_BLOCKS.replace("BLOCK", block))
    agent = {"id": "bot", "issuer": "acme"} | ({} if groups is None else {"groups": groups})
    question = {"agent": agent, "credential": {"scopes": ["b"]}, "request": {"method": "GET", "path": "/a"}, **more}
    assert said(engine.decide(question)) == said(engine.explain(question).decision)


@pytest.mark.parametrize("member", ["groups", "scopes"])
def test_a_text_whose_equality_is_always_true_grants_nothing(member: str) -> None:
    engine = Engine.from_text(TWO_BLOCKS.replace("BLOCK", 'group "night"'))
    agent = {"id": "bot" if member == "scopes" else "cat", "issuer": "acme", "groups": ["day"]}
    question = {"agent": agent, "credential": {"scopes": ["a"]}, "request": {"method": "GET", "path": "/a"}}
    question["context"] = {"risk": 1}
    odd = agent if member == "groups" else question["credential"]
    odd[member] = ["b", Agreeing("x")]
    assert engine.decide(question).outcome is Outcome.DENY
    assert said(engine.decide(question)) == said(engine.explain(question).decision)


def test_a_string_that_is_equal_to_any_scope_opens_nothing_and_hides_no_reason() -> None:
    policy = """
    scope one { GET /one }
    issuer acme { }
    user "bob" { may one }
    agent "bot" { issued by acme   acts for any user   may one }
    """
    question = {
        "request": {"method": "GET", "path": "/one"}, "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "carol"},
        "credential": {"issuer": "acme", "scopes": [Agreeing("x")]},
    }  # fmt: skip
    decision = Engine.from_text(policy).decide(question)
    assert [str(one.gate) for one in decision.reasons] == ["default", "user"]
