"""Bytes and Python objects to one raw tree: plain values, with an `Invalid` in place of every hazard.

A raw tree holds None, bool, int, Decimal, str, times, durations, addresses, EntityRef, Invalid, tuples and dicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from datetime import datetime, timedelta
from decimal import Decimal, DecimalException
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgpack  # type: ignore[import-untyped]

from policyengine.kinds import EntityRef
from policyengine.runtime.values import (
    EXACT,
    LARGEST_INT,
    MOST_ELEMENTS,
    SMALLEST_INT,
    TOO_LARGE_INT,
    TOO_MANY_DIGITS,
    TOO_MANY_ELEMENTS,
    Invalid,
    text_hazard,
)

DEEPEST = 32
DUPLICATE_KEY = Invalid("a duplicate key")
NOT_FINITE = "not a finite number"
JSON_MISTAKES = {
    "Expecting value": ": a value was expected",
    "Expecting ',' delimiter": ": `,` was expected",
    "Expecting ':' delimiter": ": `:` was expected",
    "Extra data": ": nothing more was expected",
    "Invalid control character at": ": a control character in a string",
}
TOO_DEEP = f"nested more than {DEEPEST} levels deep"


class WireError(Exception):
    """The bytes are no message at all."""


def from_json(data: bytes | str) -> object:
    return clean(json_tree(data))


def json_tree(data: bytes | str) -> object:
    """As decoded, hazards of text, size and depth still in it: for what holds several trees, each to be cleaned."""
    text = data if isinstance(data, str) else utf8(data)
    if text.startswith("\ufeff"):
        raise WireError("a byte order mark at the start of the JSON")
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise WireError(f"not valid JSON at line {error.lineno}, column {error.colno}{why_no_json(error)}") from None
    except RecursionError:
        raise WireError(TOO_DEEP) from None


def why_no_json(error: json.JSONDecodeError) -> str:
    """In words that do not depend on the version of Python; the commonest mistakes only."""
    if error.pos >= len(error.doc):
        return ": it ends too early"
    if error.msg.startswith(("Expecting property name", "Illegal trailing comma")):
        return ": a name in double quotes was expected"
    return JSON_MISTAKES.get(error.msg, "")


def utf8(data: bytes) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("not valid UTF-8") from None


def from_msgpack(data: bytes) -> object:
    return clean(msgpack_tree(data))


def msgpack_tree(data: bytes) -> object:
    """Sizes are bounded by the length of the data, so that a header cannot ask for memory."""
    try:
        return msgpack.unpackb(
            data, strict_map_key=True, raw=False, timestamp=3, object_pairs_hook=pairs, ext_hook=extension
        )
    except UnicodeDecodeError:
        raise WireError("not valid UTF-8") from None
    except (msgpack.UnpackException, ValueError, OverflowError, RecursionError):
        raise WireError("not valid MessagePack") from None


def from_python(data: object) -> object:
    return clean(data)


# ── Hooks: what only the decoder sees ─────────────────────────────────────────────────────────


def pairs(members: Iterable[tuple[object, object]]) -> dict[object, object]:
    """An object; which of two equal keys counts is anybody's guess, so neither does."""
    if type(members) is list:
        plain = dict(members)
        if len(plain) == len(members):
            return plain
    result: dict[object, object] = {}
    for key, value in members:
        result[key] = DUPLICATE_KEY if key in result else value
    return result


def json_int(text: str) -> int | Invalid:
    """Long digits are not converted at all: that would take quadratic time."""
    return int(text) if len(text) <= len(str(SMALLEST_INT)) else Invalid.in_place_of(text, TOO_LARGE_INT)


def json_float(text: str) -> Decimal | Invalid:
    try:
        return EXACT.create_decimal(text)
    except DecimalException:
        return Invalid.in_place_of(text, TOO_MANY_DIGITS)


def extension(code: int, data: bytes) -> Invalid:
    return Invalid("a MessagePack extension")


DECODER = json.JSONDecoder(  # made once: that takes longer than reading a line
    object_pairs_hook=pairs,
    parse_int=json_int,
    parse_float=json_float,
    parse_constant=lambda text: Invalid.in_place_of(text, NOT_FINITE),
)


# ── One tree for all ──────────────────────────────────────────────────────────────────────────


def clean(raw: object, depth: int = 0) -> object:
    """A copy that holds plain values only. Raises WireError where the structure itself is unusable."""
    match raw:
        case str():  # what is commonest comes first: each of these questions takes its time
            return clean_text(raw)
        case dict() | Mapping():
            return clean_object(raw, depth)
        case list() | tuple():
            return clean_list(raw, depth)
        case Set():
            return clean_list(sorted(raw, key=repr), depth)
        case _:
            return clean_leaf(raw)


def clean_object(raw: Mapping[object, object], depth: int) -> object:
    if depth >= DEEPEST:
        raise WireError(TOO_DEEP)
    if len(raw) > MOST_ELEMENTS:
        return Invalid("more than 10,000 members")
    return {member_name(key): clean(value, depth + 1) for key, value in raw.items()}


def member_name(key: object) -> str:
    if not isinstance(key, str):
        raise WireError("a member name that is no string")
    if text_hazard(key):
        raise WireError("a member name that is too long or not valid Unicode")
    return str.__str__(key)


def clean_list(raw: Iterable[object], depth: int) -> object:
    if depth >= DEEPEST:
        raise WireError(TOO_DEEP)
    items = tuple(raw)
    if len(items) > MOST_ELEMENTS:
        return Invalid(TOO_MANY_ELEMENTS)
    return tuple(clean(item, depth + 1) for item in items)


def clean_text(raw: str) -> str | Invalid:
    why = text_hazard(raw)
    return Invalid.in_place_of(str.__str__(raw), why) if why else str.__str__(raw)


def clean_leaf(raw: object) -> object:
    match raw:
        case str():
            return clean_text(raw)
        case None | bool() | Invalid() | EntityRef() | datetime() | timedelta():
            return raw
        case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():
            return raw
        case int():
            return int(raw) if SMALLEST_INT <= raw <= LARGEST_INT else Invalid.in_place_of(hex(raw), TOO_LARGE_INT)
        case float():
            return clean_decimal(Decimal(float.__repr__(raw)))
        case Decimal():
            return clean_decimal(raw)
        case bytes() | bytearray() | memoryview():
            return Invalid.in_place_of(bytes(raw), "bytes")
        case _:
            return Invalid("of no type that policies know")


def clean_decimal(raw: Decimal) -> Decimal | Invalid:
    """Floats arrive as the decimal that their shortest form shows."""
    if not raw.is_finite():
        return Invalid.in_place_of(str(raw), NOT_FINITE)
    try:
        return EXACT.create_decimal(raw)
    except DecimalException:
        return Invalid.in_place_of(str(raw), TOO_MANY_DIGITS)
