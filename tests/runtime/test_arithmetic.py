"""Calculating exactly, or not at all."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime import arithmetic
from policyengine.runtime.arithmetic import add, equal, mul, neg, sub
from policyengine.runtime.values import Unknown
from policyengine.typesystem import EntityRef

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
A_FACT_IS_AT_FAULT = Unknown.of("body.x", "pending")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (add(1, 2), 3),
        (add(Decimal("0.1"), Decimal("0.2")), Decimal("0.3")),
        (add(2**63 - 1, 1), 2**63),
        (add(NOON, HOUR), NOON + HOUR),
        (add(HOUR, NOON), NOON + HOUR),
        (add(HOUR, HOUR), 2 * HOUR),
        (sub(1, 2), -1),
        (sub(1, Decimal("0.9")), Decimal("0.1")),
        (sub(NOON, HOUR), NOON - HOUR),
        (sub(HOUR, 2 * HOUR), -HOUR),
        (mul(3, 4), 12),
        (mul(Decimal("1.5"), 2), Decimal("3.0")),
        (mul(HOUR, 3), 3 * HOUR),
        (mul(3, HOUR), 3 * HOUR),
        (neg(5), -5),
        (neg(Decimal("0.5")), Decimal("-0.5")),
        (neg(HOUR), -HOUR),
    ],
)
def test_known_values_give_exact_results(result, expected):
    assert result == expected


def test_arithmetic_on_ints_returns_ints():
    assert type(mul(3, 4)) is int
    assert type(add(1, Decimal(1))) is Decimal


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (add(Decimal("1E+33"), Decimal("0.1")), "beyond 34 digits"),
        (mul(Decimal("1." + "1" * 20), Decimal("1." + "1" * 20)), "beyond 34 digits"),
        (mul(2**62, 2**62), "beyond 34 digits"),
        (mul(Decimal("1E+6000"), Decimal("1E+6000")), "beyond 34 digits"),
        (add(timedelta.max, HOUR), "beyond the range of times and durations"),
        (mul(HOUR, 10**15), "beyond the range of times and durations"),
        (add(NOON, timedelta(days=3_000_000)), "beyond the range of times and durations"),
        (sub(NOON, timedelta(days=740_000)), "beyond the range of times and durations"),
        (add(NOON, NOON), "cannot add time and time"),
        (sub(HOUR, NOON), "cannot subtract duration and time"),
        (mul(HOUR, Decimal("1.5")), "cannot multiply duration and number"),
        (add("a", "b"), "cannot add string and string"),
        (add(True, 1), "cannot add bool and int"),
        (mul(HOUR, True), "cannot multiply duration and bool"),
        (neg(True), "cannot subtract int and bool"),
    ],
)
def test_a_result_that_cannot_be_exact_is_unknown(result, reason):
    assert isinstance(result, Unknown)
    assert {cause.why for cause in result.causes} == {reason}


@given(st.integers(-(2**63), 2**63 - 1), st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_a_sum_is_exact_or_unknown(left, right):
    result = add(left, right)
    assert isinstance(result, Unknown) or Fraction(result) == Fraction(left) + Fraction(right)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (1, Decimal("1.0"), True),
        ("a", "A", False),
        (ip_address("10.0.0.1"), ip_address("::1"), False),
        (EntityRef("user", "x"), EntityRef("team", "x"), False),
        (NOON, NOON, True),
        ((1, 2), (1, 2), True),
        ((1, 2), (2, 1), False),
        ((1,), (1, A_FACT_IS_AT_FAULT), False),
        ((1, A_FACT_IS_AT_FAULT), (2, 2), False),
        ((1, A_FACT_IS_AT_FAULT), (1, 2), A_FACT_IS_AT_FAULT),
        ((A_FACT_IS_AT_FAULT,), (A_FACT_IS_AT_FAULT,), A_FACT_IS_AT_FAULT),
    ],
)
def test_equality_of_values_of_one_kind(left, right, expected):
    assert equal(left, right) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [((1, 2), (2, 1), True), ((1,), (1, 2), False), ((1,), (A_FACT_IS_AT_FAULT,), A_FACT_IS_AT_FAULT)],
)
def test_sets_are_equal_in_any_order(left, right, expected):
    assert equal(left, right, ordered=False) == expected


@pytest.mark.parametrize(
    ("left", "right"),
    [(True, 1), ("1", 1), ({"a": 1}, {"a": 1}), (HOUR, 3600), (EntityRef("user", "x"), "x"), (NOON, "noon")],
)
def test_values_of_different_kinds_and_objects_are_not_compared(left, right):
    assert isinstance(equal(left, right), Unknown)


def test_sets_of_objects_are_not_compared():
    assert isinstance(equal(({"a": 1},), ({"a": 1},), ordered=False), Unknown)


def test_comparing_lists_stops_at_the_first_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "equal_elements", lambda *_: pytest.fail("it was read further"))
    assert equal((1, Decimal(2)), (2, Decimal(2))) is False
