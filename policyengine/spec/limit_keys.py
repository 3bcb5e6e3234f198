"""Keys of counters and histories: all spellings of a value that a caller may choose map to one key."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from policyengine import kernel as k
from policyengine.runtime.letter_case import fold_case
from policyengine.runtime.values import Value
from policyengine.spec.path_texts import is_path_text
from policyengine.typesystem import Scalar

HOST_BITS = 64  # bits of an IPv6 address that the subscriber chooses freely (RFC 4291, section 2.5.4)


def count_key(key: k.Expr, known: Value) -> Value:
    """Return the value by which requests are counted: a path in folded case, and the network of an IPv6 address."""
    if isinstance(known, str) and is_path_text(key):
        return fold_case(known)
    return host_network(known) if is_address(key) else known


def is_address(key: k.Expr) -> bool:
    """Return whether the key is an address that is counted by its network. An address computed by
    `address(…)` is not.
    """
    match key:
        case k.DefinitionRef(_, inner):
            return is_address(inner)
        case k.Call("address"):
            return False
        case _:
            return key.type is Scalar.IP


def host_network(address: Value) -> Value:
    """Return the /64 of an IPv6 address; any other value unchanged."""
    if not isinstance(address, IPv6Address):
        return address
    return IPv6Network((int(address) >> HOST_BITS << HOST_BITS, 128 - HOST_BITS))
