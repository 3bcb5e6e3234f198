"""What every store does, on each of them: one test body for the memory of a process and for real servers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policyengine.engine import Engine
from policyengine.runtime.limits import Charge, ChargeResult
from policyengine.runtime.values import Value
from policyengine.spec import limits as spending
from policyengine.spec.trace import LimitTrace
from policyengine.stores.base import Store
from tests.stores.charges import SECOND, START, asks, budget, places, rate
from tests.stores.conftest import Fresh, fresh_everywhere, with_another_number

fresh = fresh_everywhere
HOUR = 3_600 * SECOND


def ask(store: Store, *charges: Charge, at: int = START, name: str = "one", peek: bool = False) -> ChargeResult:
    told = store.commit(asks(*charges), name, at, peek=peek)
    assert told is not None
    return told


def admitted(store: Store, charge: Charge, many: int, at: int = START) -> int:
    """How many of so many are let through."""
    return sum(ask(store, charge, at=at, name=f"{at}-{one}").admitted for one in range(many))


# ── Rates ─────────────────────────────────────────────────────────────────────────────────────


def test_a_burst_admits_exactly_its_size(store: Store) -> None:
    assert admitted(store, rate(10, burst=7), 20) == 7


def test_a_rate_refills_one_token_at_a_time(store: Store) -> None:
    assert admitted(store, rate(10), 11) == 10
    assert admitted(store, rate(10), 2, at=START + SECOND // 10 - 1) == 0
    assert admitted(store, rate(10), 2, at=START + SECOND // 10) == 1
    assert admitted(store, rate(10), 20, at=START + HOUR) == 10


def test_a_request_is_charged_its_cost(store: Store) -> None:
    [stands] = ask(store, rate(10, cost=7)).standings
    assert (stands.remaining, stands.reset) == (3, 7 * SECOND // 10)
    [stands] = ask(store, rate(10, cost=4)).standings
    assert (stands.admitted, stands.remaining, stands.retry) == (False, 3, SECOND // 10)
    [stands] = ask(store, rate(10, cost=11)).standings
    assert stands.retry is None


@pytest.mark.parametrize("cost", [2**52, 2**63, 2**80])
def test_an_excessive_cost_is_refused(store: Store, cost: int) -> None:
    assert not ask(store, rate(10, cost=cost)).admitted
    assert admitted(store, rate(10), 11) == 10


BY_FACT = """
entity user { quota: number }
facts on POST /pay { body.amount: number }
anyone { may POST /pay }
budget "b" per user.id on POST /pay { sum body.amount <= user.quota within 1h }
"""
MOST = 4_503_599_627  # that a budget counts exactly in every store


@pytest.mark.parametrize(
    ("bound", "amounts", "admitted"),
    [
        (10**30, (MOST, 1), [True, False]), (10**30, (12345678901234567890, MOST), [False, True]),
        (Decimal("1E+6144"), (Decimal("1E+6144"), 1), [False, True]),
        (1, (Decimal("0.9999990000000000000000000000000001"), 0), [True, True]),
        (1, (Decimal("0.9999990000000000000000000000000001"), Decimal("0.000001")), [True, False]),
    ],
)  # fmt: skip
def test_a_budget_sum_is_exact_for_very_large_and_small_numbers(
    store: Store, bound: Value, amounts: tuple[Value, ...], admitted: list[bool]
) -> None:
    """What is finer than a millionth is rounded up; a bound beyond what every store counts is the most that it does."""
    (rule,) = Engine.from_text(BY_FACT).kernel.limits
    read = (spending.limit_charges(LimitTrace(rule, True, True, ("alice",), quotas=((bound, one),))) for one in amounts)
    assert [ask(store, one.charge).standings[0].admitted for found in read for one in found] == admitted


def test_keys_and_rules_are_counted_separately(store: Store) -> None:
    assert admitted(store, rate(3), 5) == admitted(store, rate(3, key="bob"), 5) == 3
    assert admitted(store, rate(3, rule="other"), 5) == 3


def test_a_raise_applies_to_the_refill_of_a_rate(store: Store) -> None:
    assert admitted(store, rate(10, raised=20), 11) == 10
    assert admitted(store, rate(10, raised=20), 20, at=START + SECOND // 4) == 5


def test_a_clamp_lasts_for_its_duration(store: Store) -> None:
    clamped = rate(10, clamp=(2, 2), acts=True, lasts=5 * SECOND)
    later = rate(10, clamp=(2, 2))
    assert admitted(store, clamped, 5) == 2
    assert admitted(store, later, 20, at=START + 4 * SECOND) == 2
    assert admitted(store, later, 20, at=START + 9 * SECOND) == 10


def test_a_clamp_latches_even_if_another_limit_refuses_the_request(store: Store) -> None:
    clamped = rate(10, clamp=(2, 2), acts=True, lasts=5 * SECOND)
    assert not ask(store, clamped, budget(0)).admitted
    assert admitted(store, rate(10, clamp=(2, 2)), 20, at=START + SECOND) == 2


def test_denied_requests_are_charged_if_the_rule_counts_denials(store: Store) -> None:
    store.commit(asks(rate(10, counts=True, cost=4), rate(10, rule="plain"), denied=True), "one", START)
    assert admitted(store, rate(10, counts=True), 20) == 6
    assert admitted(store, rate(10, rule="plain"), 20) == 10


def test_throttled_requests_are_charged_if_the_rule_counts_denials(store: Store) -> None:
    assert not ask(store, rate(10, counts=True, cost=4), budget(0)).admitted
    assert admitted(store, rate(10, counts=True), 20) == 6


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────


def test_a_budget_sum_never_exceeds_its_bound(store: Store) -> None:
    assert [ask(store, budget(10, amount=4), name=str(one)).admitted for one in range(3)] == [True, True, False]
    [stands] = ask(store, budget(10, amount=2), name="rest").standings
    assert (stands.admitted, stands.limit, stands.remaining) == (True, 10, 0)


def test_a_window_is_half_open(store: Store) -> None:
    """What was added is counted until the window is over, and at that moment no more."""
    assert ask(store, budget(1)).admitted
    [stands] = ask(store, budget(1), at=START + 60 * SECOND - 1).standings
    assert (stands.admitted, stands.retry) == (False, 1)
    assert ask(store, budget(1), at=START + 60 * SECOND).admitted


def test_a_distinct_budget_counts_each_value_once(store: Store) -> None:
    found = [ask(store, budget(2, value=one), name=f"{n}").admitted for n, one in enumerate("aabbcab")]
    assert found == [True, True, True, True, False, True, True]


def test_a_refunded_amount_can_be_spent_again(store: Store) -> None:
    assert ask(store, budget(10, amount=10), name="first").admitted
    assert not ask(store, budget(10), name="second").admitted
    assert store.finish("first", START, refund=True) == "first"
    assert ask(store, budget(10, amount=10), name="third").admitted
    assert store.finish("first", START, refund=True) == "again"
    assert not ask(store, budget(10), name="fourth").admitted


def test_a_distinct_value_added_by_several_requests_is_not_refunded(store: Store) -> None:
    for name, value in (("first", "a"), ("second", "a"), ("third", "b")):
        assert ask(store, budget(2, value=value), name=name).admitted
    for name in ("first", "second"):
        assert store.finish(name, START, refund=True)
        assert not ask(store, budget(2, value="c"), name=f"after {name}").admitted
    assert store.finish("third", START, refund=True)
    assert ask(store, budget(2, value="c"), name="last").admitted


def test_merged_budget_entries_are_not_refunded(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.runtime.limits.MAX_BUDGET_ENTRIES", 3)
    with_another_number("redis.store", "STEP", "MOST_ENTRIES = 1, 2, 10000", "MOST_ENTRIES = 1, 2, 3", monkeypatch)
    store = fresh()
    for number in range(5):
        assert ask(store, budget(5), name=f"{number}").admitted
    assert store.finish("4", START, refund=True)
    assert not ask(store, budget(5), name="more").admitted
    assert store.finish("0", START, refund=True)
    assert ask(store, budget(5), name="one more").admitted


def test_a_request_finished_without_a_refund_stays_spent(store: Store) -> None:
    assert ask(store, budget(10, amount=10), name="first").admitted
    assert store.finish("first", START) == "first"
    assert store.finish("first", START, refund=True) == "again"
    assert not ask(store, budget(10), name="second").admitted


# ── At once ───────────────────────────────────────────────────────────────────────────────────


def test_finishing_a_request_frees_its_slot_in_the_store(store: Store) -> None:
    assert [ask(store, places(2), name=name).admitted for name in "abc"] == [True, True, False]
    assert store.finish("a", START)
    assert [ask(store, places(2), name=name).admitted for name in "de"] == [True, False]


def test_an_expired_lease_frees_its_concurrency_slot(store: Store) -> None:
    assert ask(store, places(1), name="a").admitted
    [stands] = ask(store, places(1), name="b", at=START + 60 * SECOND - 1).standings
    assert (stands.admitted, stands.retry) == (False, 1)
    assert ask(store, places(1), name="c", at=START + 60 * SECOND).admitted


def test_finishing_an_unknown_decision_returns_nothing(store: Store) -> None:
    assert not store.finish("nobody", START)


# ── One step ──────────────────────────────────────────────────────────────────────────────────


def test_a_commit_charges_all_limits_or_none(store: Store) -> None:
    limits = [rate(10), rate(10, key="acme", rule="tenant"), budget(1), places(5)]
    assert ask(store, *limits, name="first").admitted
    for number in range(5):
        told = ask(store, *limits, name=f"again {number}")
        assert [one.admitted for one in told.standings] == [True, True, False, True]
    assert [one.remaining for one in told.standings] == [9, 9, 0, 4]
    assert admitted(store, limits[0], 20) == admitted(store, limits[1], 20) == 9


def test_an_approval_can_be_spent_only_once(store: Store) -> None:
    assert store.commit(asks(spends=("a",)), "one", START) is not None
    assert store.commit(asks(spends=("b", "a")), "two", START) is None
    assert store.spent_among(["a", "b", "c"]) == {"a"}


def test_a_commit_with_a_spent_approval_charges_no_limit(store: Store) -> None:
    assert store.commit(asks(rate(10), rate(10, rule="x"), spends=("a",)), "one", START) is not None
    assert store.commit(asks(rate(10), rate(10, rule="x"), spends=("b", "a")), "two", START) is None
    assert admitted(store, rate(10), 20) == admitted(store, rate(10, rule="x"), 20) == 9


def test_a_throttled_request_spends_no_approval(store: Store) -> None:
    told = store.commit(asks(budget(0), spends=("a",)), "one", START)
    assert told is not None
    assert not told.admitted
    assert store.spent_among(["a"]) == frozenset()


def test_a_confirm_charges_rates_once_and_no_other_limits(store: Store) -> None:
    limits = [rate(3), budget(5, amount=3), places(1)]
    for number in range(5):
        told = store.commit(asks(*limits, opens=("bound",)), f"{number}", START)
        assert told is not None
        assert [(one.admitted, one.remaining) for one in told.standings] == [(True, 2), (True, 5), (True, 1)]
    assert not store.spent_among(["bound"])
    assert not store.finish("0", START)


def test_the_allow_charges_what_the_confirm_did_not(store: Store) -> None:
    limits = [rate(3), budget(5, amount=3), places(1)]
    store.commit(asks(*limits, opens=("bound",)), "asked", START)
    told = store.commit(asks(*limits, spends=("a",), confirms=("bound",)), "done", START)
    assert told is not None
    assert [(one.admitted, one.remaining) for one in told.standings] == [(True, 2), (True, 2), (True, 0)]
    assert store.finish("done", START)


def test_the_charge_of_a_confirm_counts_for_a_single_allow(store: Store) -> None:
    store.commit(asks(rate(5), opens=("bound",)), "asked", START)
    for number, left in enumerate([4, 3, 2]):
        told = store.commit(asks(rate(5), spends=(f"{number}",), confirms=("bound",)), f"{number}", START)
        assert told is not None
        assert told.standings[0].remaining == left


@pytest.mark.parametrize("spends", [(), ("a",)])
def test_a_confirm_charges_nothing_if_any_limit_has_no_room(store: Store, spends: tuple[str, ...]) -> None:
    limits = [rate(3), rate(3, rule="other"), budget(5, amount=6)]
    effects = asks(*limits, spends=spends, opens=() if spends else ("bound",), confirms=("bound",))
    told = store.commit(effects, "asked", START)
    assert told is not None
    assert [(one.admitted, one.remaining) for one in told.standings] == [(True, 3), (True, 3), (False, 5)]
    assert store.spent_among(["a"]) == frozenset()
    assert admitted(store, limits[0], 5) == admitted(store, limits[1], 5) == 3


def test_a_throttled_allow_keeps_the_charge_of_its_confirm(store: Store) -> None:
    limits = [rate(3), rate(3, rule="other"), budget(5, amount=5)]
    store.commit(asks(*limits, opens=("bound",)), "asked", START)
    assert ask(store, budget(5), name="another").admitted
    for number in range(3):
        told = store.commit(asks(*limits, spends=("a",), confirms=("bound",)), f"{number}", START)
        assert told is not None
        assert [(one.admitted, one.remaining) for one in told.standings] == [(True, 2), (True, 2), (False, 4)]
    later = START + 60 * SECOND
    told = store.commit(asks(*limits, spends=("a",), confirms=("bound",)), "later", later)
    assert told is not None
    assert told.admitted
    assert store.spent_among(["a"]) == {"a"}
    assert admitted(store, limits[0], 5, at=later) == 3


def test_a_higher_cost_after_a_confirm_charges_the_difference(store: Store) -> None:
    store.commit(asks(rate(10, cost=3), opens=("bound",)), "asked", START)
    told = store.commit(asks(rate(10, cost=5), opens=("bound",)), "asked", START)
    assert told is not None
    assert told.standings[0].remaining == 5
    told = store.commit(asks(rate(10, cost=9), spends=("a",), confirms=("bound",)), "done", START)
    assert told is not None
    assert told.standings[0].remaining == 1
    told = store.commit(asks(rate(10, cost=1), spends=("b",), confirms=("bound",)), "done", START)
    assert told is not None
    assert told.standings[0].remaining == 0


def test_a_lower_cost_after_a_confirm_refunds_nothing(store: Store) -> None:
    store.commit(asks(rate(10, cost=3), opens=("bound",)), "asked", START)
    told = store.commit(asks(rate(10, cost=1), spends=("a",), confirms=("bound",)), "done", START)
    assert told is not None
    assert told.standings[0].remaining == 7


def test_rates_that_did_not_apply_at_the_confirm_are_charged_by_the_allow(store: Store) -> None:
    store.commit(asks(rate(3), opens=("bound",)), "asked", START)
    both = asks(rate(3), rate(3, rule="new"), rate(3, key="bob"), spends=("a",), confirms=("bound",))
    told = store.commit(both, "done", START)
    assert told is not None
    assert [one.remaining for one in told.standings] == [2, 2, 2]


def test_different_sets_of_confirms_are_charged_separately(store: Store) -> None:
    for number, confirms in enumerate([("v",), ("v", "w"), ("w",), ("v",)]):
        store.commit(asks(rate(10), opens=("v",), confirms=confirms), f"{number}", START)
    assert admitted(store, rate(10), 20) == 7


def test_a_prepaid_charge_needs_no_room_under_a_later_clamp(store: Store) -> None:
    usual, clamped = rate(10, cost=6, clamp=(2, 2)), rate(10, cost=6, clamp=(2, 2), acts=True, lasts=5 * SECOND)
    store.commit(asks(usual, opens=("bound",)), "asked", START)
    told = store.commit(asks(clamped, spends=("a",), confirms=("bound",)), "done", START)
    assert told is not None
    assert told.admitted
    assert not ask(store, rate(10, clamp=(2, 2)), at=START + SECOND // 10).admitted  # and the clamp goes on


def test_the_charge_of_a_confirm_expires_after_its_approval_time(store: Store) -> None:
    day = 24 * HOUR
    for within, lasts in ((86_400.0, 2 * day), (900.0, day + 900 * SECOND), (90 * 86_400.0, 31 * day)):
        store.commit(asks(rate(10, key=f"{within}"), opens=("bound",), within=within), "asked", START)
        for at, left in ((START + lasts - 1, 10), (START + lasts, 9)):
            asked = asks(rate(10, key=f"{within}"), opens=("bound",), within=within)
            told = store.commit(asked, "again", at, peek=True)
            assert told is not None
            assert told.standings[0].remaining == left


def test_the_charge_of_a_confirm_lasts_until_a_slow_rate_has_refilled(store: Store) -> None:
    slow = rate(1, 100 * 24 * HOUR)
    store.commit(asks(slow, opens=("bound",)), "asked", START)
    told = store.commit(asks(slow, spends=("a",), confirms=("bound",)), "done", START + 99 * 24 * HOUR)
    assert told is not None
    assert told.admitted


def test_excess_receipts_of_a_rate_key_evict_the_oldest(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("memory.prepaid_tokens", "sql.state"):
        monkeypatch.setattr(f"policyengine.stores.{module}.MAX_RECEIPTS_PER_RATE", 3)
    with_another_number("redis.store", "STEP", "MOST_RECEIPTS, MOST = 1000", "MOST_RECEIPTS, MOST = 3", monkeypatch)
    store = fresh()
    for number in range(4):
        store.commit(asks(rate(100), opens=(f"{number}",)), f"{number}", START + number)
    store.commit(asks(rate(100, key="bob"), opens=("0",)), "bob", START + 4)
    left = [
        one.standings[0].remaining
        for number in (0, 1, 3)
        if (one := store.commit(asks(rate(100), opens=(f"{number}",)), "look", START + 4, peek=True)) is not None
    ]
    assert left == [95, 96, 96]


def test_a_throttle_charges_a_prepaid_rate_nothing_more(store: Store) -> None:
    counts = rate(10, cost=3, counts=True)
    store.commit(asks(counts, opens=("bound",)), "asked", START)
    for _ in range(3):
        store.commit(asks(counts, budget(0), spends=("a",), confirms=("bound",)), "late", START)
    assert admitted(store, rate(10, counts=True), 20) == 7


def test_a_peek_changes_nothing(store: Store) -> None:
    limits = [rate(2, counts=True), budget(2), places(2), rate(9, rule="c", clamp=(1, 1), acts=True, lasts=99)]
    first = ask(store, *limits, peek=True)
    assert [ask(store, *limits, peek=True, name=f"{n}").standings for n in range(3)] == [first.standings] * 3
    assert ask(store, *limits).standings == first.standings
    assert not store.finish("0", START)


def test_the_time_of_a_store_never_decreases(store: Store) -> None:
    assert admitted(store, rate(10), 10, at=START + SECOND) == 10
    assert admitted(store, rate(10), 5, at=START) == 0
    assert ask(store, budget(1), at=START, name="b").now == START + SECOND
    assert not ask(store, budget(1), at=START - HOUR, name="c").admitted


def test_a_full_budget_frees_only_the_entries_that_left_its_window(store: Store) -> None:
    for number in range(30):
        assert ask(store, budget(30), at=START + number, name=f"{number}").admitted
    [stands] = ask(store, budget(30), at=START + 30, name="full").standings
    assert (stands.admitted, stands.retry) == (False, 60 * SECOND - 30)
    for freed in (0, 1):
        found = [ask(store, budget(30), at=START + 60 * SECOND + freed, name=f"{freed} {one}") for one in range(2)]
        assert [one.standings[0].admitted for one in found] == [True, False]
    assert admitted(store, budget(30), 40, at=START + 60 * SECOND + 29) == 28


def test_limit_keys_can_have_any_length_and_script(store: Store) -> None:
    for key in ("é" * 5_000, "a:1", "1:a", "", "\x00"):
        assert admitted(store, rate(2, key=key), 5) == 2
