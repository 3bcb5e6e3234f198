"""Decodes bytes and Python objects to a raw tree: plain values, with an `Invalid` in place of each hazard.

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
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]

from policyengine.runtime.values import (
    DECIMAL_CONTEXT,
    MAX_ELEMENTS,
    MAX_INT,
    MIN_INT,
    TOO_MANY_DIGITS,
    TOO_MANY_ELEMENTS,
    Invalid,
    MissingValue,
    PartialObject,
    text_hazard,
)
from policyengine.typesystem import EntityRef

MAX_DEPTH: Final = 32
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,5})?")
NUMBER_EXTENSION = (
    1  # MessagePack extension of `client/socket.py`: the text of a number that MessagePack cannot represent
)
MAX_NUMBER_LENGTH = 16_384
MAX_REASON_LENGTH = 400
DUPLICATE_KEY = Invalid("a duplicate key")
NOT_FINITE = "not a finite number"
NO_VALUE_EXTENSION = 2  # MessagePack extension of our clients: the reason why a value is missing
JSON_ERROR_HINTS = {
    "Expecting value": ": a value was expected",
    "Expecting ',' delimiter": ": `,` was expected",
    "Expecting ':' delimiter": ": `:` was expected",
    "Extra data": ": nothing more was expected",
    "Invalid control character at": ": a control character in a string",
}
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


class DecodeError(Exception):
    """The error for bytes that are not a valid message."""


def from_json(data: bytes | str) -> object:
    return clean(json_tree(data))


def json_tree(data: bytes | str, decoder: json.JSONDecoder | None = None) -> object:
    """Return decoded JSON without cleaning, for messages of several trees that are cleaned separately later. `decoder`
    may be stricter than the default. Raises DecodeError.
    """
    text = data if isinstance(data, str) else decode_utf8(data)
    if text.startswith("\ufeff"):
        raise DecodeError("the JSON begins with a byte order mark; send it without one")
    try:
        return (decoder or DECODER).decode(text)
    except json.JSONDecodeError as error:
        raise DecodeError(
            f"not valid JSON at line {error.lineno}, column {error.colno}{describe_json_error(error)}"
        ) from None
    except RecursionError:
        raise DecodeError(TOO_DEEP) from None


def describe_json_error(error: json.JSONDecodeError) -> str:
    """Return a description of the most common mistakes that does not depend on the Python version; "" for all
    others.
    """
    if error.pos >= len(error.doc):
        return ": the text ends too early"
    if error.msg.startswith(("Expecting property name", "Illegal trailing comma")):
        return ": a name in double quotes was expected"
    return JSON_ERROR_HINTS.get(error.msg, "")


def decode_utf8(data: bytes) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise DecodeError("not valid UTF-8") from None


def from_msgpack(data: bytes) -> object:
    return clean(msgpack_tree(data))


def msgpack_tree(data: bytes) -> object:
    """Return decoded MessagePack. All sizes are limited by the length of the data, so a header cannot make the decoder
    allocate more memory.

    Raises DecodeError.
    """
    try:
        return msgpack.unpackb(
            data,
            strict_map_key=True,
            raw=False,
            timestamp=3,
            object_pairs_hook=object_from_pairs,
            ext_hook=decode_extension,
        )
    except UnicodeDecodeError:
        raise DecodeError("not valid UTF-8") from None
    except (msgpack.UnpackException, ValueError, OverflowError, RecursionError):
        raise DecodeError("not valid MessagePack") from None


def from_python(data: object) -> object:
    """Return a raw tree from Python objects. Each object is read once and only the copy is used, so later changes have
    no effect.

    Raises DecodeError.
    """
    try:
        return clean(data)
    except DecodeError:
        raise
    except Exception as error:  # this runs code of a class that the caller supplies
        raise DecodeError(f"the data cannot be read: {type(error).__name__}") from error


# ── Hooks of the decoders ─────────────────────────────────────────────────────────


def object_from_pairs(members: Iterable[tuple[object, object]]) -> dict[object, object]:
    """Return an object; a duplicate key maps to `DUPLICATE_KEY`, because readers disagree about which value to use."""
    if type(members) is list:
        plain = dict(members)
        if len(plain) == len(members):
            return plain
    result: dict[object, object] = {}
    for key, value in members:
        result[key] = DUPLICATE_KEY if key in result else value
    return result


def parse_json_int(text: str) -> int | Decimal | Invalid:
    """Return a whole number. A long number becomes a Decimal, because converting it to int takes quadratic time; a
    number with too many digits becomes Invalid.
    """
    return int(text) if len(text) <= len(str(MIN_INT)) else parse_json_float(text)


def parse_json_float(text: str) -> Decimal | Invalid:
    try:
        return DECIMAL_CONTEXT.create_decimal(text)
    except DecimalException:
        return Invalid.in_place_of(text, TOO_MANY_DIGITS)


def decode_extension(code: int, data: bytes) -> Decimal | Invalid:
    """Return a number that MessagePack cannot represent, or an `Invalid` with the reason and digest that a client
    sent.
    """
    text = data.decode("utf-8", "replace")
    if code == NUMBER_EXTENSION and len(data) <= MAX_NUMBER_LENGTH and text.isascii() and NUMBER.fullmatch(text):
        return parse_json_float(text)
    why, _, digest = text.partition("\0")
    if code == NO_VALUE_EXTENSION and len(text) <= MAX_REASON_LENGTH and (why + digest).isprintable():
        return Invalid(why, digest or None)
    return Invalid("a MessagePack extension")


DECODER = json.JSONDecoder(  # created once, because creating it takes longer than decoding a short message
    object_pairs_hook=object_from_pairs,
    parse_int=parse_json_int,
    parse_float=parse_json_float,
    parse_constant=lambda text: Invalid.in_place_of(text, NOT_FINITE),
)


# ── The raw tree ──────────────────────────────────────────────────────────────────────────


def clean(raw: object, depth: int = 0) -> object:
    """Return a copy with plain values of exact types only. Raises DecodeError if the structure itself is unusable."""
    kind = type(raw)  # not `__class__`, which an object can falsify
    if kind is str:  # the most common types first, because each check costs time
        return clean_text(raw)  # type: ignore[arg-type]
    if kind is dict:
        return clean_object(raw, depth)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        return clean_list(raw, depth)  # type: ignore[arg-type]
    if kind in SCALAR_CLEANERS:
        return SCALAR_CLEANERS[kind](raw)
    if issubclass(kind, Mapping):
        return clean_object(raw, depth)  # type: ignore[arg-type]
    if issubclass(kind, list | tuple):
        return clean_list(raw, depth)  # type: ignore[arg-type]
    if issubclass(kind, Set):
        return clean_set(raw, depth)  # type: ignore[arg-type]
    return clean_scalar(raw)


def members_of(raw: Mapping[Any, object]) -> dict[str, object]:
    """Return the current members of a mapping of any class. Raises DecodeError, and any error of the class."""
    members = [(member_name(key), value) for key, value in islice(raw.items(), MAX_ELEMENTS + 1)]
    if len(members) > MAX_ELEMENTS:
        raise DecodeError("more than 10,000 members")
    return object_from_pairs(members)  # type: ignore[return-value]


def clean_object(raw: Mapping[object, object], depth: int) -> object:
    if depth >= MAX_DEPTH:
        raise DecodeError(TOO_DEEP)
    members = [(member_name(key), value) for key, value in islice(raw.items(), MAX_ELEMENTS + 1)]
    if len(members) > MAX_ELEMENTS:
        return Invalid("more than 10,000 members")
    return object_from_pairs([(name, clean(value, depth + 1)) for name, value in members])


def member_name(key: object) -> str:
    if not issubclass(type(key), str):
        raise DecodeError("a member name that is not a string")
    name = str.__str__(key)
    if text_hazard(name):
        raise DecodeError("a member name that is too long or not valid Unicode")
    return name


def clean_list(raw: Iterable[object], depth: int) -> object:
    if depth >= MAX_DEPTH:
        raise DecodeError(TOO_DEEP)
    items = tuple(islice(raw, MAX_ELEMENTS + 1))
    if len(items) > MAX_ELEMENTS:
        return Invalid(TOO_MANY_ELEMENTS)
    return tuple(clean(item, depth + 1) for item in items)


def clean_set(raw: Set[object], depth: int) -> object:
    items = clean_list(raw, depth)
    return tuple(sorted(items, key=repr)) if isinstance(items, tuple) else items


def clean_text(raw: str) -> str | Invalid:
    text = str.__str__(raw)
    why = text_hazard(text)
    return Invalid.in_place_of(text, why) if why else text


def clean_scalar(raw: object) -> object:
    """Return the plain value of an object without parts. A subclass of a known type is treated like the known type."""
    kind = type(raw)
    known = SCALAR_CLEANERS.get(kind) or next(
        (SCALAR_CLEANERS[base] for base in DERIVABLE if issubclass(kind, base)), reject_value
    )
    return known(raw)


def clean_int(raw: int) -> int | Decimal | Invalid:
    """Return a whole number: beyond 64 bits a Decimal, and beyond 34 significant digits an Invalid."""
    number = int.__int__(raw)
    if MIN_INT <= number <= MAX_INT:
        return number
    if number.bit_length() > MAX_INT_BITS:
        return Invalid.in_place_of(hex(number), TOO_MANY_DIGITS)
    return clean_decimal(Decimal(number))


def clean_float(raw: float) -> Decimal | Invalid:
    """Return a float as the decimal of its shortest form; Invalid if it is not finite."""
    return clean_decimal(Decimal(float.__repr__(raw)))


def clean_decimal(raw: Decimal) -> Decimal | Invalid:
    if not Decimal.is_finite(raw):
        return Invalid.in_place_of(Decimal.__str__(raw), NOT_FINITE)
    try:
        return DECIMAL_CONTEXT.create_decimal(raw)
    except DecimalException:
        return Invalid.in_place_of(Decimal.__str__(raw), TOO_MANY_DIGITS)


def clean_time(raw: datetime) -> datetime:
    """Return a plain datetime. The offset of a zone of another class is read once."""
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
    return EntityRef(type_, id_) if both else Invalid("not a reference to an entity")  # type: ignore[arg-type]


def clean_invalid(raw: Invalid) -> Invalid:
    plain = type(raw.why) is str and (raw.given is None or type(raw.given) is str)
    return raw if plain else reject_value(raw)


def keep_unchanged(raw: object) -> object:
    return raw


def reject_bytes(raw: bytes | bytearray | memoryview) -> Invalid:
    return Invalid.in_place_of(bytes(raw), "bytes")


def reject_value(raw: object) -> Invalid:
    return Invalid("of a type that policies do not support")


def is_clean(tree: object) -> bool:
    """Return whether a tree has only the types that `clean` produces, or pending values."""
    kind = type(tree)
    if kind is dict or kind is PartialObject:
        return all(type(name) is str and is_clean(one) for name, one in tree.items())  # type: ignore[attr-defined]
    if kind is tuple or kind is list:
        return all(map(is_clean, tree))  # type: ignore[call-overload]
    if kind is EntityRef:
        return type(tree.type) is type(tree.id) is str  # type: ignore[attr-defined]
    return kind in CLEAN_TYPES


MAX_INT_BITS = 20_500  # bits of a whole number with as many trailing zeros as a decimal may have
ZONES = (timezone, ZoneInfo)
SCALAR_CLEANERS: dict[type, Callable[[Any], object]] = {
    str: clean_text, bool: keep_unchanged, NoneType: keep_unchanged,
    int: clean_int, float: clean_float, Decimal: clean_decimal,
    datetime: clean_time, timedelta: clean_duration, IPv4Address: clean_address, IPv6Address: clean_address,
    IPv4Network: clean_network, IPv6Network: clean_network, EntityRef: clean_reference, Invalid: clean_invalid,
    bytes: reject_bytes, bytearray: reject_bytes, memoryview: reject_bytes,
}  # fmt: skip
CLEAN_TYPES = frozenset({*SCALAR_CLEANERS, MissingValue}) - {bytes, bytearray, memoryview}
DERIVABLE = (str, int, float, Decimal, datetime, timedelta)
