"""Rates of a constant pace: the memory store charges them without the general step, and answers what that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import Charge, ChargeResult, LimitCharge
from policyengine.stores.base import StoreError, StoreFullError
from policyengine.stores.memory.store import MemoryStore
from tests.depth import examples, scaled
from tests.stores.charges import SECOND, START, asks, budget, places, rate

HOUR = 3_600 * SECOND


class GeneralStore(MemoryStore):
    """A memory store that takes the general step for every decision."""

    def _charge_steady_rates(self, *_: object, **__: object) -> ChargeResult | None:
        return None

    def _charge_known_rates(self, *_: object, **__: object) -> ChargeResult | None:
        return None


class CountingStore(MemoryStore):
    """A memory store that counts the decisions that did not take the general step."""

    skipped = 0

    def _charge_steady_rates(self, limits: Sequence[LimitCharge], now: int, *, peek: bool = False) -> Any:
        found = super()._charge_steady_rates(limits, now, peek=peek)
        self.skipped += found is not None
        return found


class KnownStore(MemoryStore):
    """A memory store that counts the decisions about known rates that did not take the general step."""

    skipped = 0

    def _charge_known_rates(self, limits: Sequence[LimitCharge], now: int, *, peek: bool = False) -> Any:
        found = super()._charge_known_rates(limits, now, peek=peek)
        self.skipped += found is not None
        return found


KEYS = st.sampled_from([("ann",), ("ann",), ("ann",), ("bob",), ("ann", "bob"), ("ann, bob",)])
STEADY = st.sampled_from([
    rate(3, SECOND, rule="a"),
    rate(3, SECOND, 7, rule="a"),  # the same levels at another burst
    rate(1_000_000, SECOND, 2, rule="quick"),  # a level of one unit
    rate(4, SECOND, rule="a"),
    rate(5, 7 * SECOND, 2, rule="b"),
    rate(60, HOUR, 4, rule="c"),
])  # fmt: skip
OTHERS = st.sampled_from([
    rate(3, SECOND, rule="a", cost=2),
    rate(3, SECOND, rule="a", cost=0),
    rate(3, SECOND, rule="a", counts=True),
    rate(9, SECOND, rule="clamped", clamp=(2, 3), acts=True, lasts=5),
    rate(9, SECOND, rule="clamped", clamp=(2, 3), acts=True),
    rate(9, SECOND, rule="clamped", clamp=(2, 3)),
    rate(9, SECOND, rule="clamped", clamp=(2, 3), cost=3),
    rate(9, SECOND, rule="clamped", clamp=(2, 3), counts=True),
    rate(6, HOUR, rule="raised", raised=12),
    rate(6, HOUR, rule="raised", raised=12, cost=2),
    rate(6, HOUR, rule="raised", clamp=(12, 12)),  # the same unit without a raise, and with a clamp that is no tighter
    budget(2, HOUR, rule="budget"),
    places(2, HOUR, rule="places"),
])  # fmt: skip
CHARGES = st.builds(lambda charge, key: charge._replace(key=key), STEADY, KEYS)
OTHER_CHARGES = st.builds(lambda charge, key: charge._replace(key=key), OTHERS, KEYS)
LIMITS = st.one_of(
    CHARGES.map(lambda charge: [charge]),
    st.lists(CHARGES, min_size=1, max_size=3),
    st.lists(st.one_of(CHARGES, OTHER_CHARGES), max_size=3),
)
STEPS = st.sampled_from([0, 0, 0, 1, 999, 1_000, SECOND // 3, SECOND, 9 * SECOND, HOUR, -1, -999, -SECOND, -6 * SECOND])
ASKED = st.lists(st.tuples(LIMITS, STEPS, st.sampled_from([False, False, True])), min_size=1, max_size=50)


def answer(store: MemoryStore, effects: Effects, number: int, now: int, *, peek: bool) -> object:
    try:
        return store.commit(effects, f"d{number}", now, peek=peek)
    except StoreError as error:
        return type(error), str(error)


def content(store: MemoryStore) -> object:
    return store._clock, store._keys, {rule: dict(of.states) for rule, of in store._rules.items()}


@scaled
@settings(max_examples=examples(100, 3_000))
@given(asked=ASKED, most_keys=st.sampled_from([2, 5, 1_000_000]), sweep_at=st.sampled_from([0, 10_000]))
def test_steady_rates_are_charged_as_by_the_general_step(
    asked: list[tuple[list[Charge], int, bool]], most_keys: int, sweep_at: int
) -> None:
    stores = MemoryStore(most_keys=most_keys), GeneralStore(most_keys=most_keys)
    now = START
    for store in stores:
        store._sweep_at = sweep_at
    for number, (charges, step, peek) in enumerate(asked):
        now += step
        first, second = (answer(store, asks(*charges), number, now, peek=peek) for store in stores)
        assert first == second
        assert content(stores[0]) == content(stores[1])


@pytest.mark.parametrize("peek", [False, True])
def test_only_steady_rates_that_cost_one_skip_the_general_step(peek: bool) -> None:
    store = CountingStore()
    for charges in ((rate(rule="a"),), (rate(rule="a"), rate(rule="b", key="x"))):
        for _ in range(20):
            store.commit(asks(*charges), "d", START, peek=peek)
    assert store.skipped == 40
    others = (rate(cost=2), rate(counts=True), rate(clamp=(2, 3)), rate(raised=12), budget(2), places(2))
    for one in others:
        store.commit(asks(rate(rule="a"), one), "d", START, peek=peek)
    assert store.skipped == 40


@pytest.mark.parametrize(
    "charge",
    [
        rate(cost=2), rate(counts=True), rate(clamp=(2, 3)), rate(clamp=(2, 3), acts=True, lasts=5),
        rate(clamp=(2, 3), cost=3), rate(raised=12),
    ],
)  # fmt: skip
@pytest.mark.parametrize("peek", [False, True])
def test_a_rate_that_is_known_and_admits_the_request_skips_the_general_step(charge: Charge, peek: bool) -> None:
    store, general = KnownStore(), GeneralStore()
    for number in range(3):
        now, peeks = START + number * 2 * SECOND, peek and number > 0
        first, second = (each.commit(asks(charge), "d", now, peek=peeks) for each in (store, general))
        assert first == second
    assert store.skipped == 2
    assert content(store) == content(general)


def test_a_known_rate_that_does_not_admit_the_request_or_is_beside_other_limits_takes_the_general_step() -> None:
    store, clamped = KnownStore(), rate(clamp=(2, 1), acts=True)
    for others in ((), (), (budget(2),), (places(2),)):
        store.commit(asks(clamped, *others), "d", START)
    assert store.skipped == 0


@pytest.mark.parametrize(
    "effects",
    [
        asks(rate(), denied=True),
        asks(rate(), spends=("x",)),
        asks(rate(), opens=("x",)),
        asks(rate(), confirms=("x",)),
        Effects(limits=asks(rate()).limits, relied=((("w", "k"), 7),)),
    ],
    ids=["denied", "spends", "opens", "confirms", "relied"],
)
def test_a_decision_with_other_effects_takes_the_general_step(effects: Effects) -> None:
    store, general = CountingStore(), GeneralStore()
    for number in range(3):
        assert store.commit(effects, f"d{number}", START) == general.commit(effects, f"d{number}", START)
    assert content(store) == content(general)
    assert store.skipped == 0


def test_a_refused_charge_shows_the_other_rates_without_it() -> None:
    store = MemoryStore()
    store.commit(asks(rate(1, HOUR, rule="full")), "d", START)
    told = store.commit(asks(rate(5, SECOND, rule="free"), rate(1, HOUR, rule="full")), "d", START)
    assert told is not None
    free, full = told.standings
    assert (free.admitted, free.remaining, free.reset, free.retry) == (True, 5, 0, 0)
    assert (full.admitted, full.remaining, full.reset, full.retry) == (False, 0, HOUR, HOUR)


def test_a_level_above_a_smaller_burst_leaves_nothing() -> None:
    stores = MemoryStore(), GeneralStore()
    for number in range(7):
        for store in stores:
            store.commit(asks(rate(3, SECOND, 7)), f"d{number}", START)
    first, second = (store.commit(asks(rate(3, SECOND)), "d", START) for store in stores)
    assert first == second
    assert first is not None
    assert first.standings[0].remaining == 0


def test_a_full_store_rejects_a_new_key_and_charges_nothing() -> None:
    store = MemoryStore(most_keys=2)
    first, second = rate(3, SECOND, rule="first"), rate(5, 7 * SECOND, 2, rule="second")
    store.commit(asks(first, second), "d", START)
    before = content(store)
    with pytest.raises(StoreFullError):
        store.commit(asks(first, second._replace(key=("bob",))), "d", START)
    assert content(store) == before
    told = store.commit(asks(first), "d", START)
    assert told is not None
    assert told.standings[0].remaining == 1
