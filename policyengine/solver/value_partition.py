"""Partitions a fact's values into cells: within a cell, the result of every test in the condition is the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from math import ceil, floor
from typing import TypeAlias

from policyengine import typesystem
from policyengine.typesystem import EntityRef, Scalar, Type

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SpecialValue(Enum):
    """The state of a fact without a value, or with a value that the condition does not name."""

    ABSENT = "absent"
    BROKEN = "broken"  # wrong type, failed or pending: even its presence is unknown
    OTHER = "other"


AbstractValue: TypeAlias = (
    bool | Fraction | str | EntityRef | IPv4Address | IPv6Address | IPv4Network | IPv6Network | SpecialValue
)


def to_abstract_value(value: object, type: Type) -> AbstractValue | None:
    """Return a constant in a form with the language's equality and order. Numbers, times and enum ranks become
    fractions. Return None for a value without such a form.
    """
    match value:
        case bool() | EntityRef() | IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            return value
        case int() | Decimal():
            return Fraction(value)
        case str() if isinstance(type, typesystem.EnumType):
            return Fraction(type.values.index(value)) if value in type.values else None
        case str():
            return value
        case timedelta():
            return Fraction(value // timedelta(microseconds=1))
        case datetime():
            return Fraction((value - EPOCH) // timedelta(microseconds=1))
        case _:
            return None


def is_comparable_constant(value: AbstractValue, type: Type, operator: str) -> bool:
    """Return whether the solver understands a comparison of this constant with a fact of this type."""
    match type:
        case Scalar.INT | Scalar.NUMBER | Scalar.DURATION | Scalar.TIME | typesystem.EnumType():
            return isinstance(value, Fraction)
        case Scalar.STRING:
            return isinstance(value, str)
        case Scalar.BOOL:
            return operator in ("==", "!=") and isinstance(value, bool)
        case Scalar.IP | Scalar.CIDR | typesystem.RefType():
            return operator in ("==", "!=") and not isinstance(value, Fraction | str | bool)
        case _:
            return False


def values_of_type(type: Type, constants: set[AbstractValue]) -> tuple[AbstractValue, ...]:
    match type:
        case Scalar.BOOL:
            return (True, False)
        case typesystem.EnumType():
            return tuple(Fraction(rank) for rank in range(len(type.values)))
        case Scalar.INT | Scalar.DURATION | Scalar.TIME:  # the last two count microseconds
            return tuple(sorted(whole_numbers(constants))) or (SpecialValue.OTHER,)
        case Scalar.NUMBER:
            return tuple(numbers_between(constants)) or (SpecialValue.OTHER,)
        case Scalar.STRING:
            return tuple(sorted(texts_between(constants)))
        case _:
            return (*constants, SpecialValue.OTHER)


def whole_numbers(constants: Iterable[AbstractValue]) -> set[Fraction]:
    """Return the neighbors of each constant; any other integer behaves like one of them."""
    limits = [c for c in constants if isinstance(c, Fraction)]
    return {Fraction(n) for c in limits for n in (floor(c) - 1, floor(c), ceil(c), ceil(c) + 1)}


def numbers_between(constants: Iterable[AbstractValue]) -> Iterator[Fraction]:
    limits = sorted(c for c in constants if isinstance(c, Fraction))
    if limits:
        yield limits[0] - 1
        yield from limits
        yield from ((a + b) / 2 for a, b in pairwise(limits))
        yield limits[-1] + 1


def texts_between(constants: Iterable[AbstractValue]) -> set[str]:
    """Return the smallest string, each constant, and the string that follows each."""
    texts = [c for c in constants if isinstance(c, str)]
    return {"", *texts, *(text + "\0" for text in texts)}
