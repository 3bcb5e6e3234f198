"""The engine decides as the specification does: generated policies and questions, whatever their form and state.

Hypothesis chooses a policy and a question that fits it, then edits the question; what differs, it makes small. The same
comparison by the million is `tests/deep/test_equality.py`.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.runtime.decision import Gate, Outcome
from tests.compiler.equality import Pair, Tally, hold
from tests.generate import vocabulary as v
from tests.generate.asking import Asking, Setting, chosen, complete, setting
from tests.generate.cases import kernel_of
from tests.generate.expressions import Writer, atoms_at
from tests.generate.hazards import HAZARDS, IDS, OBJECTS, SHAPES, copied
from tests.generate.policies import ABOUT_USERS, File, Policy
from tests.generate.requests import NOW, NOWS, WRONG, Question, directory, rows

SHARDS, EXAMPLES, POLICIES = 4, 2_250, 30  # and 1,000 more with policies that hypothesis writes

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
    Pair.of(setting(seed), NOW).holds(Asking(edited(base, edits, spoiling), now), peeks)


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


@settings(max_examples=1_000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
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


@pytest.fixture(scope="module")
def tally() -> Tally:
    return hold(range(1_000, 1_025), questions=60)


REACHED = (
    *(f"outcome {one}" for one in Outcome if one is not Outcome.THROTTLE),
    *(f"gate {one}" for one in (None, *Gate) if one not in (Gate.RATE, Gate.BUDGET, Gate.FAILURE)),
    *(f"remedy {one}" for one in ("approval", "attestation", "scope")),
    *(f"obligation {one}" for one in (*v.OBLIGATIONS, "consume")),
    *(f"unknown {one}" for one in ("absent", "pending", "expected", "otherwise")),
    "effect spends", "effect opens",
)  # fmt: skip


@pytest.mark.parametrize("construct", sorted(REACHED))
def test_generated_questions_reach(construct: str, tally: Tally) -> None:
    assert tally.reached[construct], f"never came up:\n{tally}"
