"""Approvals over many decisions: what one decision spends, the next cannot, on the engine as in the specification."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.runtime.decision import Outcome
from tests.compiler.equality import Pair
from tests.generate.asking import Asking, Setting
from tests.generate.cases import kernel_of
from tests.generate.policies import File, Policy
from tests.generate.requests import NOW, Question, directory
from tests.generate.specified import Said

POLICY = """
entity team in team
entity user { roles: set<string>   manager: user? } in team
issuer open { scopes none }
user any { may POST /pay/{id}   may GET /notes/** }
guard "pay" on POST /pay/{id} {
  confirm by role boss within 15m when context.amount > 100
  confirm by 2 of team "legal" when context.amount > 1_000
}
guard "manager" on POST /pay/{id} {
  confirm by user.manager unless context.amount < 5_000
  audit full when approval.granted
}
guard "all" { deny when context.amount > 9_000 and not approval.granted   warn when approval.granted }
facts { context.amount: number }
"""
LIMITS = """
rate "calls" per user.id on POST /pay/{id} { 9_000/1m cost context.amount }
rate "tries" per params.id on POST /pay/{id} { 12/1m counting denials }
rate "at work" per user.id on POST /pay/{id} { at most 3 at once for 1h }
budget "spending" per user.id on POST /pay/{id} { sum context.amount <= 16_000 within 1h }
"""
ROWS: list[dict[str, Any]] = [
    {"type": "user", "id": "alice", "attributes": {"roles": ["clerk"], "manager": "carol"}},
    {"type": "user", "id": "bob", "attributes": {"roles": ["boss"]}, "in": [{"type": "team", "id": "legal"}]},
    {"type": "user", "id": "carol", "attributes": {"roles": ["boss"]}, "in": [{"type": "team", "id": "legal"}]},
    {"type": "user", "id": "dave", "attributes": {"roles": []}, "in": [{"type": "team", "id": "legal"}]},
    {"type": "team", "id": "legal"},
]
AMOUNTS = (50, 500, 5_000, 10_000)


@lru_cache(maxsize=2)
def payments(limits: str = "") -> Setting:
    policy = Policy((File("package acme.pay", (POLICY + limits,)),))
    kernel = kernel_of(policy)
    assert kernel is not None
    return Setting(policy, ROWS, kernel, directory(ROWS))


def payment(amount: int, number: int) -> Question:
    return {
        "user": {"id": "alice"}, "credential": {"issuer": "open"}, "context": {"amount": amount},
        "request": {"method": "POST", "path": f"/pay/{number}"},
    }  # fmt: skip


def with_approvals(random: Random, asked: Question, bindings: list[str]) -> Question:
    """Some of few approvals, so that they come again, sometimes twice: fresh, old, or not yet granted."""
    chosen = [
        {
            "id": f"{by}-{random.randrange(12)}", "by": by, "binding": binding,
            "granted_at": (NOW - timedelta(minutes=random.choice([1, 1, 1, 15, 16, -1]))).isoformat(),
        }
        for binding in bindings
        for by in ("bob", "carol", "dave", "alice")
        if random.random() < 0.6
    ]  # fmt: skip
    return {**asked, "approvals": chosen}


def bindings_of(pair: Pair, asked: Question) -> list[str]:
    said = pair.holds(Asking(asked, NOW), peeks=True)
    assert isinstance(said, Said)
    return [one.binding for one in said.remedies if one.binding is not None]


def run(seed: int, length: int, limits: str = "") -> tuple[Pair, list[Said]]:
    """Payments in a row, decided or only evaluated, on one engine."""
    random, pair = Random(seed), Pair.of(payments(limits), NOW)
    said = []
    for _ in range(length):
        asked = payment(random.choice(AMOUNTS), random.choice([1, 2]))
        asked = with_approvals(random, asked, bindings_of(pair, asked))
        options = random.choice([{}, {}, {"options": {"consume": False}}])
        found = pair.holds(Asking({**asked, **options}, NOW), peeks=random.random() < 0.2)
        assert isinstance(found, Said)
        said.append(found)
    return pair, said


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_payments_in_a_row_are_decided_as_specified(seed: int) -> None:
    run(seed, 12)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_payments_that_count_are_decided_as_specified(seed: int) -> None:
    run(seed, 12, LIMITS)


def test_payments_that_count_meet_all_outcomes() -> None:
    found = {one.outcome for seed in range(12) for one in run(seed, 12, LIMITS)[1]}
    assert found == set(Outcome)


@pytest.fixture(scope="module")
def long_run() -> tuple[Pair, list[Said]]:
    return run(seed=5, length=400)


def test_a_long_run_spends_most_approvals(long_run: tuple[Pair, list[Said]]) -> None:
    pair, _ = long_run
    assert len(pair.specified.spent) >= 10


def test_a_long_run_meets_approvals_that_are_spent(long_run: tuple[Pair, list[Said]]) -> None:
    """What was allowed by an approval once is in need of a confirmation again."""
    _, said = long_run
    outcomes = [one.outcome for one in said if one.obligations or one.remedies]
    first = outcomes.index(Outcome.ALLOW)
    assert Outcome.CONFIRM in outcomes[first:]
    assert outcomes.count(Outcome.ALLOW) >= 20


def test_a_long_run_includes_consume_obligations_and_spent_approvals(long_run: tuple[Pair, list[Said]]) -> None:
    pair, _ = long_run
    assert pair.tally.reached["obligation consume"] >= 5
    assert pair.tally.reached["effect spends"] >= 10
