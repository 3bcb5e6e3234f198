"""Limits as whole numbers: the arithmetic of rates, budgets and places, beside exact fractions of plain words."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime.limits import (
    MAX_BUDGET_ENTRIES,
    MAX_UNITS,
    MICRO,
    BucketParameters,
    BudgetCharge,
    ClampCharge,
    ConcurrencyCharge,
    RateCharge,
    TokenBucket,
    acquire_slot,
    charge_budget,
    charge_rate,
    rate_unit,
    refuse_rate,
    uncharged_state,
)

SECOND = 1_000_000
START = 1_800_000_000 * SECOND
WINDOWS = [1_000, 7_000, SECOND, 3 * SECOND, 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND]
PACES = st.tuples(st.integers(1, 500), st.sampled_from(WINDOWS), st.integers(1, 50))


@dataclass
class Bath:
    """A bath that water leaks from, in exact fractions: so much of it per microsecond as when it was last filled."""

    level: Fraction = Fraction(0)
    at: int = 0
    leak: Fraction = Fraction(0)
    until: dict[int, int] = field(default_factory=dict)

    def pour(
        self, cost: int, pace: tuple[int, int, int], clamps: list[tuple[tuple[int, int, int], bool, int]], now: int
    ) -> bool:
        """Whether it holds that much more; each clamp is a pace, whether it acts, and for how long after."""
        now = max(now, self.at)
        level = max(Fraction(0), self.level - (now - self.at) * self.leak)
        for number, (_, acts, lasts) in enumerate(clamps):
            if acts and lasts:
                self.until[number] = max(self.until.get(number, 0), now + lasts)
        acting = [p for number, (p, acts, _) in enumerate(clamps) if acts or now < self.until.get(number, 0)]
        most = min(p[2] for p in (pace, *acting))
        leak = min(Fraction(p[0], p[1]) for p in (pace, *acting))
        if level + cost > most:
            return False
        self.level, self.at, self.leak = level + cost, now, leak
        return True


@given(
    pace=PACES,
    clamps=st.lists(PACES, max_size=2),
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 999, 1_000, SECOND, 59 * SECOND, 86_400 * SECOND]),
                  st.integers(0, 60), st.tuples(st.booleans(), st.booleans()), st.integers(0, 30)),
        max_size=40,
    ),
)  # fmt: skip
def test_a_rate_admits_the_same_as_an_exact_leaky_bucket(
    pace: tuple[int, int, int],
    clamps: list[tuple[int, int, int]],
    steps: list[tuple[int, int, int, tuple[bool, bool], int]],
) -> None:
    unit = rate_unit(tuple((count, within) for count, within, _ in (pace, *clamps)))
    bath, bucket, now = Bath(), None, START
    for times, pause, cost, acting, lasts in steps:
        now += times * pause
        moment = now // unit.tick * unit.tick  # a tick is the finest time that is told apart
        charge = RateCharge(
            "r", ("k",), cost, unit.flow(*pace), unit.token, unit.tick,
            tuple(
                ClampCharge(unit.flow(*one), acts, lasts if acts else 0)
                for one, acts in zip(clamps, acting, strict=False)
            ),
        )  # fmt: skip
        standing, after = charge_rate(bucket, charge, now)
        poured = bath.pour(
            cost, pace,
            [(one, acts, lasts * unit.tick) for one, acts in zip(clamps, acting, strict=False)], moment,
        )  # fmt: skip
        assert standing.admitted == poured
        bucket = after if poured else refuse_rate(bucket, charge, now)
        if poured:
            assert Fraction(bucket.level, unit.token) == bath.level
            assert standing.remaining == (standing.limit - bath.level) // 1
        elif standing.retry is not None:
            assert charge_rate(bucket, charge, now + standing.retry)[0].admitted
            # A clamp that has ended before leaves more room.
            assert any(bucket.latches) or not charge_rate(bucket, charge, now + standing.retry - unit.tick)[0].admitted
        assert bucket.level <= MAX_UNITS


@given(pace=PACES, clamps=st.lists(PACES, max_size=2))
def test_rate_units_represent_every_pace_exactly(
    pace: tuple[int, int, int], clamps: list[tuple[int, int, int]]
) -> None:
    unit = rate_unit(tuple((count, within) for count, within, _ in (pace, *clamps)))
    for count, within, burst in (pace, *clamps):
        flow = unit.flow(count, within, burst)
        assert Fraction(flow.drain, unit.token * unit.tick) == Fraction(count, within)
        assert flow.drain > 0


def plain(count: int, within: int, burst: int, **more: object) -> RateCharge:
    unit = rate_unit(((count, within),))
    return RateCharge("r", ("k",), 1, unit.flow(count, within, burst), unit.token, unit.tick, **more)  # type: ignore[arg-type]


def test_a_rate_admits_its_burst_and_then_one_request_per_interval() -> None:
    charge, bucket = plain(100, 60 * SECOND, 20), None
    for _ in range(20):
        standing, bucket = charge_rate(bucket, charge, START)
        assert standing.admitted
    standing, _ = charge_rate(bucket, charge, START)
    assert (standing.admitted, standing.remaining, standing.retry) == (False, 0, 600_000)
    assert not charge_rate(bucket, charge, START + 599_999)[0].admitted
    assert charge_rate(bucket, charge, START + 600_000)[0].admitted


def test_a_clock_set_back_refills_nothing() -> None:
    charge = plain(1, SECOND, 1)
    _, bucket = charge_rate(None, charge, START)
    assert not charge_rate(bucket, charge, START - 10 * SECOND)[0].admitted
    assert not charge_rate(bucket, charge, START + SECOND - 1)[0].admitted
    assert charge_rate(bucket, charge, START + SECOND)[0].admitted


def test_counted_denials_spend_at_most_the_remaining_rate() -> None:
    charge, bucket = plain(3, SECOND, 3, counts=True), None
    for _ in range(10):
        bucket = refuse_rate(bucket, charge, START)
    assert bucket is not None
    assert bucket.level == 3 * charge.token
    assert charge_rate(bucket, charge, START)[0].retry == 333_334


def test_uncounted_denials_change_only_the_clamps() -> None:
    slow = ClampCharge(plain(1, SECOND, 1).flow, True, 10)
    assert refuse_rate(None, plain(1, SECOND, 1), START) == TokenBucket(0, START, 1, ())
    assert refuse_rate(None, plain(1, SECOND, 1, clamps=(slow,)), START).latches == (START + 10,)


def test_a_cost_over_the_burst_has_no_retry_time() -> None:
    assert charge_rate(None, plain(5, SECOND, 5)._replace(cost=6), START)[0].retry is None


@pytest.mark.parametrize(
    "bucket", [TokenBucket(0, 5, 1), TokenBucket(7, 5, 2), TokenBucket(7, 5, 2, (9, 2)), TokenBucket(7, 5, 2, (99, 2))]
)
def test_a_full_bucket_is_equivalent_to_no_bucket(bucket: TokenBucket) -> None:
    tick = bucket.full_at()
    clamps = tuple(ClampCharge(BucketParameters(1, 1), False, 0) for _ in bucket.latches)
    charge = RateCharge("r", ("k",), 1, BucketParameters(10, 2), 1, 1, clamps)
    assert charge_rate(bucket, charge, tick)[0] == charge_rate(None, charge, tick)[0]
    assert tick == 5 or charge_rate(bucket, charge, tick - 1)[0] != charge_rate(None, charge, tick - 1)[0]


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────


@given(
    bound=st.integers(0, 20),
    steps=st.lists(
        st.tuples(st.sampled_from([0, 1, 5, 10, 11]), st.integers(0, 9), st.sampled_from([None, "a", "b", "c"])),
        max_size=40,
    ),
    distinct=st.booleans(),
)
def test_a_budget_admits_the_same_as_an_exact_sliding_window(
    bound: int, steps: list[tuple[int, int, str | None]], distinct: bool
) -> None:
    """The window is half-open: what came just so long ago counts no more."""
    within, now, entries = 10, START, ()
    admitted: list[tuple[int, int, str | None]] = []
    for pause, amount, value in steps:
        now += pause
        live = [one for one in admitted if now - one[0] < within]
        if distinct:
            charge = BudgetCharge("b", ("k",), bound * MICRO, within, value=value or "")
            fits = len({one[2] for one in live} | {value or ""}) <= bound
        else:
            charge = BudgetCharge("b", ("k",), bound * MICRO, within, amount * MICRO)
            fits = sum(one[1] for one in live) + amount <= bound
        standing, after = charge_budget(entries, charge, now, f"d{len(admitted)}")
        assert standing.admitted == fits
        if fits:
            admitted.append((now, amount, value or ""))
            entries = after
        elif standing.retry is not None:
            assert charge_budget(entries, charge, now + standing.retry, "later")[0].admitted
            assert not charge_budget(entries, charge, now + standing.retry - 1, "later")[0].admitted


def test_a_budget_merges_its_entries_beyond_the_maximum_and_keeps_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    most = MAX_BUDGET_ENTRIES // 20  # each sum looks at all before it
    monkeypatch.setattr("policyengine.runtime.limits.MAX_BUDGET_ENTRIES", most)
    charge = BudgetCharge("b", ("k",), 10**9 * MICRO, 10**9, 1)
    entries: tuple = ()  # type: ignore[type-arg]
    for number in range(most + 50):
        _, entries = charge_budget(entries, charge, START + number, "d")
    assert len(entries) == most
    assert sum(one.amount for one in entries) == most + 50
    assert [one.at for one in entries] == sorted(one.at for one in entries)


# ── At once ───────────────────────────────────────────────────────────────────────────────────


def test_concurrency_slots_are_freed_after_their_time() -> None:
    charge, held = ConcurrencyCharge("h", ("k",), 2, 10), ()
    for name, now in (("a", START), ("b", START + 5)):
        standing, held = acquire_slot(held, charge, now, name)
        assert standing.admitted
    standing, _ = acquire_slot(held, charge, START + 9, "c")
    assert (standing.admitted, standing.retry) == (False, 1)
    assert acquire_slot(held, charge, START + 10, "c")[0].admitted


FOUR_OF_NINE = BudgetCharge("b", ("k",), 9 * MICRO, 10, 4 * MICRO)


@pytest.mark.parametrize(("charge", "state", "left"), [
    (plain(5, SECOND, 5), TokenBucket(2 * plain(5, SECOND, 5).token, START, 5), 3),
    (FOUR_OF_NINE, charge_budget((), FOUR_OF_NINE, START, "d")[1], 5),
    (ConcurrencyCharge("h", ("k",), 2, 10), (("a", START + 5),), 1),
    (ConcurrencyCharge("h", ("k",), 2, 10), None, 2),
])  # fmt: skip
def test_an_uncharged_limit_shows_its_remaining_amount(charge: RateCharge, state: TokenBucket, left: int) -> None:
    assert uncharged_state(state, charge, START).remaining == left
