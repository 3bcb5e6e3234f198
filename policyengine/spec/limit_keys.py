"""Keys by which requests are counted and remembered: what one caller may spell in many ways is one key."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from policyengine import kernel as k
from policyengine.runtime.letter_case import fold_case
from policyengine.runtime.values import Value
from policyengine.spec.path_texts import is_path_text
from policyengine.typesystem import Scalar

HOST_BITS = 64  # of an IPv6 address, which its subscriber chooses at will: RFC 4291, section 2.5.4


def count_key(key: k.Expr, known: Value) -> Value:
    """The value that is counted: a path without the case of its letters, an IPv6 address by its network."""
    if isinstance(known, str) and is_path_text(key):
        return fold_case(known)
    return host_network(known) if is_address(key) else known


def is_address(key: k.Expr) -> bool:
    """Whether it is an address that counts by its network: `address(…)` does not."""
    match key:
        case k.DefinitionRef(_, inner):
            return is_address(inner)
        case k.Call("address"):
            return False
        case _:
            return key.type is Scalar.IP


def host_network(address: Value) -> Value:
    """The /64 of an IPv6 address; anything else as it is."""
    if not isinstance(address, IPv6Address):
        return address
    return IPv6Network((int(address) >> HOST_BITS << HOST_BITS, 128 - HOST_BITS))
