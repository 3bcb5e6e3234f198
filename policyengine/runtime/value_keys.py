"""Hash keys of values: equal if the values are equal, and safe against forced collisions."""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Context, Decimal, Inexact
from ipaddress import IPv4Network, IPv6Network
from typing import Any

NORMAL_FORM = Context(prec=34, Emin=-6143, Emax=6144, traps=[Inexact])
INT64_END = 2**63


def value_key(value: Any) -> Hashable:
    """Return a key: two values of one family have equal keys if and only if they are equal.

    Python's own hashes of large numbers and of networks can be made to collide, which makes sets slow.
    """
    match value:
        case bool():
            return bool, value
        case int() | Decimal():
            return number_key(value)
        case IPv4Network() | IPv6Network():
            return value.network_address.packed, value.prefixlen
        case tuple():
            return repr(nested_key(value))
        case _:
            key: Hashable = value
            return key


def nested_key(elements: tuple[Any, ...]) -> Hashable:
    """Return the keys of the elements of a list. Callers use the text of the keys, because hashes of tuples can be made
    to collide.
    """
    return tuple(nested_key(one) if isinstance(one, tuple) else value_key(one) for one in elements)


def number_key(number: int | Decimal) -> int | str:
    """Return a whole number of up to 64 bits unchanged, and any other number as the text of its shortest form."""
    if -INT64_END <= number < INT64_END and number == (whole := int(number)):
        return whole
    return str(NORMAL_FORM.normalize(Decimal(number)))
