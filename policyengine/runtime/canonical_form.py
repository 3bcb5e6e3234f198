"""Canonical bytes of raw facts and values, to which approvals are bound.

The bytes are equal if and only if the values are the same. Values that two readers could distinguish have different
bytes: `1`, `1.0` and `"1"`; null and absent; texts with different code points. `1.0` and `1.00` are the same number.
Members of an object are unordered, elements of a list are ordered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType, NoneType
from typing import Any, Final, TypeAlias

import msgspec

from policyengine.runtime.values import MAX_INT, MIN_INT, Invalid, MissingValue, Unknown
from policyengine.typesystem import EntityRef

# The members of an object to omit. Each name maps to the parts of the member to omit; an empty mapping omits the whole
# member.
LeftOut: TypeAlias = Mapping[str, "LeftOut"]
OMIT_NOTHING: LeftOut = MappingProxyType({})
PLAIN: Final = b"plain:"  # no other kind has this name
SORTED: Final = msgspec.msgpack.Encoder(order="sorted").encode
# Other Python types have no canonical form: two different objects could share one.
CANONICAL_TYPES = (
    NoneType, str, bool, int, Decimal, Mapping, tuple, list, MissingValue, Invalid, Unknown, Set, bytes,
    datetime, timedelta, IPv4Address, IPv6Address, IPv4Network, IPv6Network, EntityRef,
)  # fmt: skip


def canonical_bytes(value: object, left_out: LeftOut = OMIT_NOTHING) -> bytes:
    """Return the canonical form of a raw fact or a value without the members in `left_out`.

    A plain tree, which most values are, is written as sorted MessagePack, which has exactly one form for each tree and
    is fast to encode. The form of any other value begins with its kind and its length or number of parts, and so does
    each of its parts. So no two values share a form.
    """
    kept = without_members(value, left_out) if left_out else value
    if is_plain_tree(kept):
        return PLAIN + SORTED(kept)
    parts: list[bytes] = []
    write_value(value, left_out, parts)
    return b"".join(parts)


def binding_form(value: object) -> object:
    """Return a value for `binding_digest`: the value itself if it is a plain text, a whole number, a bool or null,
    otherwise its canonical bytes.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value if is_plain_tree(value) else canonical_bytes(value)
    return canonical_bytes(value)


def binding_digest(parts: tuple[object, ...]) -> str:
    """Return the SHA-256 digest, `sha256:…`, of nested tuples of texts, whole numbers, bools, nulls and bytes."""
    return f"sha256:{hashlib.sha256(SORTED(parts)).hexdigest()}"


def is_plain_tree(value: object) -> bool:
    """Return whether a value consists of ASCII texts, 64-bit whole numbers, bools, nulls, lists and objects only."""
    kind = type(value)
    if kind is str:
        return value.isascii()  # type: ignore[attr-defined, no-any-return]  # a text
    if kind is int:
        return MIN_INT <= value <= MAX_INT  # type: ignore[operator]
    if kind is bool or value is None:
        return True
    if kind is dict:
        for name, member in value.items():  # type: ignore[attr-defined]
            if type(name) is not str or not name.isascii() or not is_plain_tree(member):
                return False
        return True
    if kind is tuple or kind is list:
        for item in value:  # type: ignore[attr-defined]  # noqa: SIM110  # a generator takes longer
            if not is_plain_tree(item):
                return False
        return True
    return False


def without_members(value: Any, left_out: LeftOut) -> Any:
    """Return an object without the members in `left_out`; any other value unchanged."""
    if type(value) is not dict:
        return value
    return {
        name: without_members(one, left_out.get(name, OMIT_NOTHING))
        for name, one in value.items()
        if left_out.get(name) != OMIT_NOTHING
    }


def write_value(value: object, left_out: LeftOut, parts: list[bytes]) -> None:
    kind = type(value)
    if kind is tuple or kind is list:
        parts.append(b"list%d:" % len(value))  # type: ignore[arg-type]
        for item in value:  # type: ignore[attr-defined]
            write_value(item, OMIT_NOTHING, parts)
    elif value is None:
        parts.append(b"null:")
    elif kind is dict:
        write_members(value, left_out, parts)  # type: ignore[arg-type]
    else:
        write_other_class(value, left_out, parts)


def write_other_class(value: object, left_out: LeftOut, parts: list[bytes]) -> None:
    match value:
        case str():
            write_text(b"text", str.__str__(value), parts)
        case bool():
            parts.append(b"true:" if value else b"false:")
        case int():
            write_bytes(b"int", int.__repr__(value).encode(), parts)
        case Decimal():
            write_bytes(b"decimal", canonical_decimal(value), parts)
        case Mapping():
            write_members(value, left_out, parts)
        case tuple() | list():
            parts.append(b"list%d:" % len(value))
            for item in value:
                write_value(item, OMIT_NOTHING, parts)
        case _:
            write_other(value, parts)


def write_members(value: Mapping[str, object], left_out: LeftOut, parts: list[bytes]) -> None:
    kept = [name for name in value if left_out.get(name) != OMIT_NOTHING] if left_out else list(value)
    parts.append(b"object%d:" % len(kept))
    for name in sorted(kept):
        write_text(b"", name, parts)
        write_value(value[name], left_out.get(name, OMIT_NOTHING), parts)


def write_other(value: object, parts: list[bytes]) -> None:
    """Write a value that JSON cannot represent."""
    match value:
        case MissingValue():
            write_text(b"missing", value.value, parts)
        case Invalid(why, given):
            write_text(b"invalid", why, parts)
            write_value(given, OMIT_NOTHING, parts)
        case Unknown():
            write_all(b"unknown", sorted((one.fact, one.why) for one in value.causes), parts)
        case Set():
            forms = sorted(map(canonical_bytes, value))
            parts += [b"set%d:" % len(forms), *forms]
        case bytes():
            write_bytes(b"bytes", value, parts)
        case datetime():
            write_text(b"time", value.isoformat(), parts)
        case timedelta():
            write_text(b"duration", str(value // timedelta(microseconds=1)), parts)
        case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            write_text(type(value).__name__.encode(), str(value), parts)
        case EntityRef():
            write_all(b"entity", (value.type, value.id), parts)
        case _:
            write_text(b"other", type(value).__name__, parts)


def write_all(kind: bytes, items: object, parts: list[bytes]) -> None:
    parts.append(kind)
    write_value(tuple(items), OMIT_NOTHING, parts)  # type: ignore[arg-type]


def write_text(kind: bytes, text: str, parts: list[bytes]) -> None:
    write_bytes(kind, text.encode("utf-8", "surrogatepass"), parts)


def write_bytes(kind: bytes, content: bytes, parts: list[bytes]) -> None:
    parts.append(b"%b%d:%b" % (kind, len(content), content))


def canonical_decimal(number: Decimal) -> bytes:
    """Return the number without trailing zeros, in scientific notation, never rounded and never expanded."""
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        return str(number).encode()
    text = "".join(map(str, digits)).lstrip("0")
    kept = text.rstrip("0")
    exponent += len(text) - len(kept)
    return f"{'-' * sign}{kept}e{exponent if kept else 0}".encode()
