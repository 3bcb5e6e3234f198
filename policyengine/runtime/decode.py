"""Bytes and Python objects to one raw tree: plain values, with an `Invalid` in place of every hazard.

A raw tree holds None, bool, int, Decimal, str, times, durations, addresses, EntityRef, Invalid, tuples and dicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime, timedelta, timezone
from decimal import Decimal, DecimalException
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from types import NoneType
from typing import Any
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]

from policyengine.runtime.values import (
    EXACT,
    LARGEST_INT,
    MOST_ELEMENTS,
    SMALLEST_INT,
    TOO_MANY_DIGITS,
    TOO_MANY_ELEMENTS,
    Invalid,
    Missing,
    PartialObject,
    text_hazard,
)
from policyengine.typesystem import EntityRef

DEEPEST = 32
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,5})?")
NUMBER_EXTENSION = (
    1  # of MessagePack, as `client/socket.py` sends it: the text of a number that MessagePack does not hold
)
LONGEST_NUMBER = 16_384
LONGEST_REASON = 400
DUPLICATE_KEY = Invalid("a duplicate key")
NOT_FINITE = "not a finite number"
NO_VALUE_EXTENSION = 2  # of MessagePack: why there is no value, as our clients say it
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


def json_tree(data: bytes | str, decoder: json.JSONDecoder | None = None) -> object:
    """As decoded, hazards of text, size and depth still in it: for what holds several trees, each to be cleaned.
    `decoder` may take less than ours does."""
    text = data if isinstance(data, str) else utf8(data)
    if text.startswith("\ufeff"):
        raise WireError("JSON after a byte order mark")
    try:
        return (decoder or DECODER).decode(text)
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
    """Objects of any class are read once, and only the copy is looked at: what they say later means nothing."""
    try:
        return clean(data)
    except WireError:
        raise
    except Exception as error:  # of a class that the caller brings
        raise WireError(f"it cannot be read: {type(error).__name__}") from error


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


def json_int(text: str) -> int | Decimal | Invalid:
    """Long digits are not converted to a whole number: that would take quadratic time."""
    return int(text) if len(text) <= len(str(SMALLEST_INT)) else json_float(text)


def json_float(text: str) -> Decimal | Invalid:
    try:
        return EXACT.create_decimal(text)
    except DecimalException:
        return Invalid.in_place_of(text, TOO_MANY_DIGITS)


def extension(code: int, data: bytes) -> Decimal | Invalid:
    """MessagePack itself has no number beyond 64 bits or the precision of a float: its text is such an extension. So is
    why there is no value, and a digest of what stood in its place."""
    text = data.decode("utf-8", "replace")
    if code == NUMBER_EXTENSION and len(data) <= LONGEST_NUMBER and text.isascii() and NUMBER.fullmatch(text):
        return json_float(text)
    why, _, digest = text.partition("\0")
    if code == NO_VALUE_EXTENSION and len(text) <= LONGEST_REASON and (why + digest).isprintable():
        return Invalid(why, digest or None)
    return Invalid("a MessagePack extension")


DECODER = json.JSONDecoder(  # made once: that takes longer than reading a line
    object_pairs_hook=pairs,
    parse_int=json_int,
    parse_float=json_float,
    parse_constant=lambda text: Invalid.in_place_of(text, NOT_FINITE),
)


# ── One tree for all ──────────────────────────────────────────────────────────────────────────


def clean(raw: object, depth: int = 0) -> object:
    """A copy that holds plain values only, each of exactly its type. Raises WireError where the structure itself is
    unusable."""
    kind = type(raw)  # what an object calls its class is not asked
    if kind is str:  # what is commonest comes first: each of these questions takes its time
        return clean_text(raw)  # type: ignore[arg-type]
    if kind is dict:
        return clean_object(raw, depth)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        return clean_list(raw, depth)  # type: ignore[arg-type]
    if kind in LEAVES:
        return LEAVES[kind](raw)
    if issubclass(kind, Mapping):
        return clean_object(raw, depth)  # type: ignore[arg-type]
    if issubclass(kind, list | tuple):
        return clean_list(raw, depth)  # type: ignore[arg-type]
    if issubclass(kind, Set):
        return clean_set(raw, depth)  # type: ignore[arg-type]
    return clean_leaf(raw)


def members_of(raw: Mapping[Any, object]) -> dict[str, object]:
    """The members of an object of any class, as they are now. Raises WireError, and what its class raises."""
    members = [(member_name(key), value) for key, value in islice(raw.items(), MOST_ELEMENTS + 1)]
    if len(members) > MOST_ELEMENTS:
        raise WireError("more than 10,000 members")
    return pairs(members)  # type: ignore[return-value]


def clean_object(raw: Mapping[object, object], depth: int) -> object:
    if depth >= DEEPEST:
        raise WireError(TOO_DEEP)
    members = [(member_name(key), value) for key, value in islice(raw.items(), MOST_ELEMENTS + 1)]
    if len(members) > MOST_ELEMENTS:
        return Invalid("more than 10,000 members")
    return pairs([(name, clean(value, depth + 1)) for name, value in members])


def member_name(key: object) -> str:
    if not issubclass(type(key), str):
        raise WireError("a member name that is no string")
    name = str.__str__(key)
    if text_hazard(name):
        raise WireError("a member name that is too long or not valid Unicode")
    return name


def clean_list(raw: Iterable[object], depth: int) -> object:
    if depth >= DEEPEST:
        raise WireError(TOO_DEEP)
    items = tuple(islice(raw, MOST_ELEMENTS + 1))
    if len(items) > MOST_ELEMENTS:
        return Invalid(TOO_MANY_ELEMENTS)
    return tuple(clean(item, depth + 1) for item in items)


def clean_set(raw: Set[object], depth: int) -> object:
    items = clean_list(raw, depth)
    return tuple(sorted(items, key=repr)) if isinstance(items, tuple) else items


def clean_text(raw: str) -> str | Invalid:
    text = str.__str__(raw)
    why = text_hazard(text)
    return Invalid.in_place_of(text, why) if why else text


def clean_leaf(raw: object) -> object:
    """A value that has no parts. One of a class derived from a known one is what it holds, not what it says."""
    kind = type(raw)
    known = LEAVES.get(kind) or next((LEAVES[base] for base in DERIVABLE if issubclass(kind, base)), no_value)
    return known(raw)


def clean_int(raw: int) -> int | Decimal | Invalid:
    """A whole number beyond 64 bits is a number like any other."""
    number = int.__int__(raw)
    if SMALLEST_INT <= number <= LARGEST_INT:
        return number
    if number.bit_length() > MOST_BITS:
        return Invalid.in_place_of(hex(number), TOO_MANY_DIGITS)
    return clean_decimal(Decimal(number))


def clean_float(raw: float) -> Decimal | Invalid:
    """Floats arrive as the decimal that their shortest form shows."""
    return clean_decimal(Decimal(float.__repr__(raw)))


def clean_decimal(raw: Decimal) -> Decimal | Invalid:
    if not Decimal.is_finite(raw):
        return Invalid.in_place_of(Decimal.__str__(raw), NOT_FINITE)
    try:
        return EXACT.create_decimal(raw)
    except DecimalException:
        return Invalid.in_place_of(Decimal.__str__(raw), TOO_MANY_DIGITS)


def clean_time(raw: datetime) -> datetime:
    """Zones of other classes are asked once for their offset."""
    if type(raw) is datetime and (raw.tzinfo is None or type(raw.tzinfo) in ZONES):
        return raw
    return datetime.fromisoformat(datetime.isoformat(raw))


def clean_duration(raw: timedelta) -> timedelta:
    return raw if type(raw) is timedelta else timedelta.__pos__(raw)


def clean_address(raw: IPv4Address | IPv6Address) -> object:
    return type(raw)(str(raw))


def clean_network(raw: IPv4Network | IPv6Network) -> object:
    return type(raw)(str(raw))


def clean_reference(raw: EntityRef) -> object:
    type_, id_ = clean(raw.type), clean(raw.id)
    both = isinstance(type_, str) and isinstance(id_, str)
    return EntityRef(type_, id_) if both else Invalid("no reference to an entity")  # type: ignore[arg-type]


def clean_invalid(raw: Invalid) -> Invalid:
    plain = type(raw.why) is str and (raw.given is None or type(raw.given) is str)
    return raw if plain else no_value(raw)


def as_it_is(raw: object) -> object:
    return raw


def no_bytes(raw: bytes | bytearray | memoryview) -> Invalid:
    return Invalid.in_place_of(bytes(raw), "bytes")


def no_value(raw: object) -> Invalid:
    return Invalid("of no type that policies know")


def is_plain(tree: object) -> bool:
    """Whether all of it is what `clean` makes of it, as far as types go, or is not known yet."""
    kind = type(tree)
    if kind is dict or kind is PartialObject:
        return all(type(name) is str and is_plain(one) for name, one in tree.items())  # type: ignore[attr-defined]
    if kind is tuple or kind is list:
        return all(map(is_plain, tree))  # type: ignore[call-overload]
    if kind is EntityRef:
        return type(tree.type) is type(tree.id) is str  # type: ignore[attr-defined]
    return kind in PLAIN


MOST_BITS = 20_500  # of a whole number with as many zeros at its end as a decimal may have
ZONES = (timezone, ZoneInfo)
LEAVES: dict[type, Callable[[Any], object]] = {
    str: clean_text, bool: as_it_is, NoneType: as_it_is, int: clean_int, float: clean_float, Decimal: clean_decimal,
    datetime: clean_time, timedelta: clean_duration, IPv4Address: clean_address, IPv6Address: clean_address,
    IPv4Network: clean_network, IPv6Network: clean_network, EntityRef: clean_reference, Invalid: clean_invalid,
    bytes: no_bytes, bytearray: no_bytes, memoryview: no_bytes,
}  # fmt: skip
PLAIN = frozenset({*LEAVES, Missing}) - {bytes, bytearray, memoryview}
DERIVABLE = (str, int, float, Decimal, datetime, timedelta)
