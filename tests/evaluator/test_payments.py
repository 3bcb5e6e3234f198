"""Approvals and limits over many decisions: what one decision spends, the next cannot, as the specification says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.runtime.decision import Outcome
from tests.depth import examples, scaled
from tests.evaluator.equality import Pair
from tests.evaluator.sources import BUDGETS, LIMITS, pay
from tests.generate.specified import Said

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("limits", ["", LIMITS, BUDGETS], ids=["without limits", "limits", "budgets"])
@scaled
@settings(max_examples=examples(10, 400))
@given(seed=SEEDS)
def test_payments_in_a_row_are_decided_as_specified(limits: str, seed: int) -> None:
    pay(seed, 12, limits)


def test_payments_with_limits_meet_all_outcomes() -> None:
    found = {one.outcome for seed in range(3, 7) for one in pay(seed, 12, LIMITS)[1]}
    assert found == set(Outcome)


@pytest.fixture(scope="module")
def long_run() -> tuple[Pair, list[Said]]:
    return pay(seed=5, length=250)


def test_a_long_run_spends_most_approvals(long_run: tuple[Pair, list[Said]]) -> None:
    pair, _ = long_run
    assert len(pair.specified.spent) >= 10


def test_a_long_run_asks_again_for_approvals_that_are_spent(long_run: tuple[Pair, list[Said]]) -> None:
    _, answers = long_run
    outcomes = [one.outcome for one in answers if one.obligations or one.remedies]
    first = outcomes.index(Outcome.ALLOW)
    assert Outcome.CONFIRM in outcomes[first:]
    assert outcomes.count(Outcome.ALLOW) >= 20


def test_a_long_run_includes_consume_obligations_and_spent_approvals(long_run: tuple[Pair, list[Said]]) -> None:
    pair, _ = long_run
    assert pair.tally.reached["obligation consume"] >= 5
    assert pair.tally.reached["effect spends"] >= 10
