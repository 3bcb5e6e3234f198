"""Exact comparison and arithmetic of known values; the result is unknown if it is not exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal, DecimalException
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from policyengine.runtime.value_keys import value_key
from policyengine.runtime.values import DECIMAL_CONTEXT, TOO_MANY_DIGITS, Known, Unknown, Value, describe_raw_value
from policyengine.time_formats import to_utc

SCALAR_TYPES = frozenset(
    {str, int, bool}
)  # values of one of these classes are compared directly with values of the same class
EXACT_INT_END = 10**34  # a larger int has more digits than a number may have


def equal(left: Known, right: Known, ordered: bool = True, fact: str = "a comparison") -> bool | Unknown:
    """Return whether two values of one family are equal. `ordered` is False for sets. Values of different families, and
    objects, are not comparable: the result is Unknown.
    """
    match left, right:
        case tuple(), tuple():
            return equal_lists(left, right, fact) if ordered else equal_sets(left, right, fact)
        case _ if value_family(left) == value_family(right) and not isinstance(left, Mapping):
            return left == right
        case _:
            return undefined_operation("compare", left, right, fact)


def equal_lists(left: tuple[Value, ...], right: tuple[Value, ...], fact: str) -> bool | Unknown:
    """Return whether two lists are equal. If one pair differs, the lists differ, even if other pairs are unknown."""
    if len(left) != len(right):
        return False
    unknown: list[Value] = []
    for a, b in zip(left, right, strict=True):
        if a.__class__ is b.__class__ and a.__class__ in SCALAR_TYPES:
            same: bool | Unknown = a == b
        else:
            same = equal_elements(a, b, fact)
        if same is False:
            return False
        if same is not True:
            unknown.append(same)
    return collect_unknown(unknown) or True


def equal_elements(left: Value, right: Value, fact: str) -> bool | Unknown:
    match left, right:
        case (Unknown(), _) | (_, Unknown()):
            return Unknown.merge(*(side for side in (left, right) if isinstance(side, Unknown)))
        case _:
            return equal(left, right, fact=fact)


def equal_sets(left: tuple[Value, ...], right: tuple[Value, ...], fact: str) -> bool | Unknown:
    if any(isinstance(element, tuple | Mapping) for element in (*left, *right)):
        return undefined_operation("compare", left, right, fact)
    return collect_unknown((*left, *right)) or frozenset(map(value_key, left)) == frozenset(map(value_key, right))


def collect_unknown(values: Iterable[Value]) -> Unknown | None:
    """Return an Unknown with the causes of all unknown values; None if every value is known."""
    unknowns = [value for value in values if isinstance(value, Unknown)]
    return Unknown.merge(*unknowns) if unknowns else None


def value_family(value: Known) -> type[object]:
    """Return the family of a value: numbers, addresses and networks form one family each; the family of any other value
    is its type.
    """
    match value:
        case bool():
            return bool
        case int() | Decimal():
            return Decimal
        case IPv4Address() | IPv6Address():
            return IPv4Address
        case IPv4Network() | IPv6Network():
            return IPv4Network
        case _:
            return type(value)


def add(left: Known, right: Known, fact: str = "a sum") -> Known | Unknown:
    """Return the sum of numbers, of durations, or of a time and a duration. Return Unknown for other values and for a
    result out of range; `fact` names the result in the reason.
    """
    match left, right:
        case (bool(), _) | (_, bool()):
            return undefined_operation("add", left, right, fact)
        case (int() | Decimal(), int() | Decimal()):
            return exact_number(DECIMAL_CONTEXT.add, left, right, fact)
        case timedelta(), timedelta():
            return within_range(lambda: left + right, fact)
        case (datetime() as time, timedelta() as span) | (timedelta() as span, datetime() as time):
            return within_range(lambda: time + span, fact)
        case _:
            return undefined_operation("add", left, right, fact)


def sub(left: Known, right: Known, fact: str = "a difference") -> Known | Unknown:
    """Return the difference of numbers, of durations, or of a time and a duration. Return Unknown for other values and
    for a result out of range.
    """
    match left, right:
        case (bool(), _) | (_, bool()):
            return undefined_operation("subtract", left, right, fact)
        case (int() | Decimal(), int() | Decimal()):
            return exact_number(DECIMAL_CONTEXT.subtract, left, right, fact)
        case timedelta(), timedelta():
            return within_range(lambda: left - right, fact)
        case datetime(), timedelta():
            return within_range(lambda: left - right, fact)
        case _:
            return undefined_operation("subtract", left, right, fact)


def mul(left: Known, right: Known, fact: str = "a product") -> Known | Unknown:
    """Return the product of numbers, or of a duration and a whole number. Return Unknown for other values and for a
    result out of range.
    """
    match left, right:
        case (bool(), _) | (_, bool()):
            return undefined_operation("multiply", left, right, fact)
        case (int() | Decimal(), int() | Decimal()):
            return exact_number(DECIMAL_CONTEXT.multiply, left, right, fact)
        case (timedelta() as span, int() as count) | (int() as count, timedelta() as span):
            return within_range(lambda: span * count, fact)
        case _:
            return undefined_operation("multiply", left, right, fact)


def neg(value: Known, fact: str = "a negative") -> Known | Unknown:
    match value:
        case timedelta():
            return within_range(lambda: -value, fact)
        case _:
            return sub(0, value, fact)


def exact_number(
    operation: Callable[[Decimal, Decimal], Decimal], left: int | Decimal, right: int | Decimal, fact: str
) -> int | Decimal | Unknown:
    """Return the exact result: an int if both operands are ints and the result has at most 34 digits. Unknown if
    inexact."""
    try:
        result = operation(Decimal(left), Decimal(right))
    except DecimalException:
        return Unknown.of(fact, TOO_MANY_DIGITS)
    whole = isinstance(left, int) and isinstance(right, int) and abs(result) < EXACT_INT_END
    return int(result) if whole else result


def within_range(calculate: Callable[[], datetime | timedelta], fact: str) -> datetime | timedelta | Unknown:
    try:
        result = calculate()
        return to_utc(result) if isinstance(result, datetime) else result
    except OverflowError:
        return Unknown.of(fact, "beyond the range of times and durations")


def undefined_operation(verb: str, left: Known, right: Known, fact: str) -> Unknown:
    return Unknown.of(fact, f"cannot {verb} {describe_raw_value(left)} and {describe_raw_value(right)}")
