"""What values are hashed by: keys that are equal where values are, and that nobody can make collide."""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Context, Decimal, Inexact
from ipaddress import IPv4Network, IPv6Network
from typing import Any

NORMAL_FORM = Context(prec=34, Emin=-6143, Emax=6144, traps=[Inexact])
INT64_END = 2**63


def value_key(value: Any) -> Hashable:
    """Equal for two values of one family exactly when these are equal.

    Python's own hashes of large numbers and of networks can be made to collide, and a set of those is slow.
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
    """The keys of what a list holds. Nobody can make their text collide; hashes of tuples follow from the elements."""
    return tuple(nested_key(one) if isinstance(one, tuple) else value_key(one) for one in elements)


def number_key(number: int | Decimal) -> int | str:
    """A whole number of 64 bits as it is, any other as the text of its shortest form."""
    if -INT64_END <= number < INT64_END and number == (whole := int(number)):
        return whole
    return str(NORMAL_FORM.normalize(Decimal(number)))
