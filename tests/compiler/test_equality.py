"""The engine decides as the specification does: generated policies and questions, whatever their form and state.

Hypothesis chooses a policy and a question that fits it, then edits the question; what differs, it makes small. The same
comparison by the million is `tests/deep/test_equality.py`.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.engine import Engine
from policyengine.engine.question import parse_request
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.request import RequestError
from policyengine.testing.slices import Slices
from tests.compiler.equality import Pair, hold
from tests.generate import vocabulary as v
from tests.generate.asking import Asking, Setting, askings, chosen, complete, setting
from tests.generate.cases import kernel_of
from tests.generate.expressions import Writer, atoms_at
from tests.generate.hazards import HAZARDS, IDS, OBJECTS, SHAPES, Agreeing, copied
from tests.generate.policies import ABOUT_USERS, File, Policy
from tests.generate.requests import NOW, NOWS, WRONG, Question, directory, rows
from tests.generate.specified import said
from tests.security.test_generated import conditions

SHARDS, EXAMPLES, POLICIES = 6, 200, 14  # `make test-deep` asks a million
SMALL = 100  # more, with policies that hypothesis writes

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
def pair(seed: int) -> Pair:
    """One for all questions: none of them brings an approval that counts, so nothing is ever spent."""
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


@pytest.mark.parametrize("shard", range(SHARDS))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(choices=CHOICES)
def test_any_question_to_a_generated_policy_is_decided_as_specified(shard: int, choices: Choices) -> None:
    number, which, edits, spoiling, now, peeks = choices
    seed = shard * POLICIES + number
    base = bases(seed)[which % len(bases(seed))]
    pair(seed).holds(Asking(edited(base, edits, spoiling), now), peeks)


# ── Policies by hypothesis ────────────────────────────────────────────────────────────────────


REFUNDS = """
scope refunds {
  POST /v1/invoices/{id: invoice}/refunds
  TOOL billing/refund with resource = invoice(args.invoice), body.amount = args.amount
}"""  # the vocabulary speaks of it


@st.composite
def small_settings(draw: st.DrawFn) -> Setting | None:
    """One door and one guard, a condition at each: hypothesis makes all choices, and makes what fails small."""
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


@settings(max_examples=SMALL, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(asked=small_settings(), seed=st.integers(0, 15), edits=EDITS, now=TIMES)
def test_any_small_policy_decides_as_specified(
    asked: Setting | None, seed: int, edits: list[Any], now: datetime
) -> None:
    if asked is not None:
        Pair.of(asked, NOW).holds(Asking(edited(fitted_to_users(seed), edits, []), now))


@lru_cache(maxsize=16)
def fitted_to_users(seed: int) -> Question:
    """A user asks to read a note, and every fact is given."""
    asked = complete(Random(seed))
    return {**asked, "request": {**asked["request"], "method": "GET", "path": "/notes"}, "user": {"id": "alice"}}


# ── What the generator reaches ────────────────────────────────────────────────────────────────


REACHED = (  # but for what needs approvals, which `test_sequences.py` sees to
    *(f"outcome {one}" for one in Outcome if one is not Outcome.THROTTLE),
    *(f"gate {one}" for one in (None, *Gate) if one not in (Gate.RATE, Gate.BUDGET, Gate.FAILURE)),
    *(f"remedy {one}" for one in ("approval", "attestation", "scope", "task")),
    *(f"obligation {one}" for one in v.OBLIGATIONS),
    *(f"unknown {one}" for one in ("absent", "pending", "expected", "otherwise")),
    "effect opens",
)  # fmt: skip


# The last are of policies where something is negated, where a better attestation would help, and where a warning is an
# obligation: all are rare.
SEEDS, QUESTIONS = (*range(1_000, 1_036), 1_053, 1_057, 1_078), 30


def test_generated_questions_reach_all_that_a_decision_can_say_and_many_are_answered_quickly() -> None:
    tally = hold(SEEDS, QUESTIONS)
    assert not [name for name in REACHED if not tally.reached[name]], f"never came up, of:\n{tally}"
    assert tally.quickly >= 0.2, str(tally)
    assert min(tally.quick[outcome] for outcome in (Outcome.ALLOW, Outcome.DENY)) >= 50, str(tally)


def test_generated_questions_are_about_rules_with_every_form_of_a_condition() -> None:
    """Counted are only the rules that can matter to a question."""
    met: Counter[str] = Counter()
    for seed in SEEDS:
        slices = Slices(pair(seed).tested.evaluator)
        for asking in askings(seed, 10):
            met.update(type(part).__name__ for one in rules_for(slices, asking) for part in k.walk(one))
    forms = {form.__name__ for form in k.Expr.__args__}  # type: ignore[attr-defined]
    # Whatever is remembered is decided with care: see tests/history.
    forms -= {"PastFact", "HistoryCondition", "Aggregate"}
    assert not {name for name in forms if not met[name]}, str(met)


def rules_for(slices: Slices, asking: Asking) -> list[k.Expr]:
    try:
        return conditions(slices.of(parse_request(asking.question)))
    except RequestError:
        return []


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
    """The million found it: whose scope would do had been told before the other blocks were asked for their doubts."""
    engine = Engine.from_text(TWO_BLOCKS.replace("BLOCK", block))
    agent = {"id": "bot", "issuer": "acme"} | ({} if groups is None else {"groups": groups})
    question = {"agent": agent, "credential": {"scopes": ["b"]}, "request": {"method": "GET", "path": "/a"}, **more}
    assert said(engine.decide(question)) == said(engine.explain(question).decision)


@pytest.mark.parametrize("member", ["groups", "scopes"])
def test_a_text_whose_equality_is_always_true_grants_nothing(member: str) -> None:
    """The million found it in a group: such a text can come from the caller's own process only."""
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
