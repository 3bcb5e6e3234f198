"""Encode and decode values without parts: places, times, constants and types. Decoded values are checked. `codec.py`
builds the coders of classes from these coders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

from policyengine import typesystem
from policyengine.runtime.calendar_windows import ZoneError, load_zone
from policyengine.runtime.literals import parse_cidr, parse_ip
from policyengine.runtime.values import Value
from policyengine.source import Source, Span
from policyengine.typesystem import EntityRef

MAX_TYPE_DEPTH = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SCALAR_WORDS = frozenset(str(scalar) for scalar in typesystem.Scalar)

Item = TypeVar("Item")
Check: TypeAlias = Callable[[Any, "DecodeContext"], None]


class BundleDataError(Exception):
    """Data that the compiler did not write; the text gives the reason."""


@dataclass(slots=True)
class EncodeContext:
    """Tables that values refer to by number, in the order of first use: sources, and types of expressions."""

    sources: dict[Source, int] = field(default_factory=dict)
    types: dict[typesystem.Type, int] = field(default_factory=dict)
    rows: list[object] = field(default_factory=list)  # encoded types, each after the types in it


@dataclass(slots=True)
class DecodeContext:
    """Tables that values refer to, and the names that they may use; `unbound` are variables whose quantifier is not
    decoded yet."""

    sources: Sequence[Source]
    types: Sequence[typesystem.Type]
    entities: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    attesters: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)  # the number of blocks of each kind, and so on
    unbound: list[tuple[str, typesystem.Type]] = field(default_factory=list)
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Coder:
    """Encodes and decodes values of one declared type. `shape` describes that type in the same way on every Python
    version.
    """

    shape: str
    write: Callable[[Any, EncodeContext], object]
    read: Callable[[Any, DecodeContext], Any]


def data_error(wanted: str, raw: object) -> BundleDataError:
    return BundleDataError(f"expected {wanted}, got {type(raw).__name__}")


# ── Values without parts ──────────────────────────────────────────────────────────────────────


def msgpack_coder(kind: type) -> Coder:
    """Return the coder of values that MessagePack encodes itself. A bool is not an int here."""

    def read(raw: object, _: DecodeContext) -> object:
        if type(raw) is not kind:
            raise data_error(kind.__name__, raw)
        return raw

    return Coder(kind.__name__, lambda value, _: value, read)


def word_coder(choices: tuple[str, ...]) -> Coder:
    def read(raw: object, _: DecodeContext) -> object:
        if type(raw) is not str or raw not in choices:
            raise data_error(f"one of {', '.join(choices)}", raw)
        return raw

    return Coder(f"word({','.join(choices)})", lambda value, _: value, read)


def write_span(span: Span, writing: EncodeContext) -> object:
    source = writing.sources.setdefault(span.source, len(writing.sources))
    return [source, span.start, span.end - span.start]


def read_span(raw: object, reading: DecodeContext) -> Span:
    """Decode a span. Every part has one, so the checks are optimised: they take half the time of `match`."""
    if type(raw) is not list or len(raw) != 3:
        raise data_error("a place", raw)
    number, start, length = raw
    if not (type(number) is type(start) is type(length) is int and 0 <= number < len(reading.sources)):
        raise data_error("a place", raw)
    source = reading.sources[number]
    if start < 0 or length < 0 or start + length > len(source.text):
        raise BundleDataError("a place outside its source")
    return Span(source, start, start + length)


def write_duration(value: timedelta, _: EncodeContext) -> object:
    return [value.days, value.seconds, value.microseconds]


def read_duration(raw: object, _: DecodeContext) -> timedelta:
    match raw:
        case [int(days), int(seconds), int(micros)] if 0 <= seconds < 86_400 and 0 <= micros < 1_000_000:
            if -999_999_999 <= days <= 999_999_999:
                return timedelta(days, seconds, micros)
    raise data_error("a duration", raw)


def write_time(value: datetime, _: EncodeContext) -> object:
    return (value - EPOCH) // MICROSECOND


def read_time(raw: object, _: DecodeContext) -> datetime:
    if type(raw) is int:
        try:
            return EPOCH + raw * MICROSECOND
        except OverflowError:
            pass
    raise data_error("a time", raw)


def read_zone(raw: object, _: DecodeContext) -> ZoneInfo:
    try:
        return load_zone(raw if isinstance(raw, str) else "")
    except ZoneError as error:
        raise BundleDataError(error.message) from None


# ── Constants, which are self-describing ──────────────────────────────────────


def write_value(value: Any, writing: EncodeContext) -> object:
    match value:
        case bool() | int() | str():
            return value
        case Decimal():
            return ["number", str(value)]
        case timedelta():
            return ["duration", write_duration(value, writing)]
        case datetime():
            return ["time", write_time(value, writing)]
        case IPv4Address() | IPv6Address():
            return ["ip", str(value)]
        case IPv4Network() | IPv6Network():
            return ["cidr", str(value)]
        case EntityRef():
            return ["entity", value.type, value.id]
        case tuple():
            return ["items", *(write_value(item, writing) for item in value)]
        case _:
            raise TypeError(f"no constant is {type(value).__name__}")


def read_value(raw: object, reading: DecodeContext) -> Value:
    match raw:
        case bool() | int() | str():
            return raw
        case ["items", *items]:
            return tuple(read_item(item, reading) for item in items)
        case _:
            return read_item(raw, reading)


def read_item(raw: object, reading: DecodeContext) -> Value:
    """Decode an element of a constant collection. No constant is a list of lists."""
    found: Value | None = None
    match raw:
        case bool() | int() | str():
            return raw
        case ["number", str(text)] if len(text) <= 64:
            found = read_number(text)
        case ["duration", inner]:
            return read_duration(inner, reading)
        case ["time", inner]:
            return read_time(inner, reading)
        case ["ip", str(text)]:
            found = parse_ip(text)
        case ["cidr", str(text)]:
            found = parse_cidr(text)
        case ["entity", str(kind), str(id_)]:
            return EntityRef(kind, id_)
    if found is None:
        raise data_error("a constant", raw)
    return found


def read_number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


# ── Types of expressions: there are few, so they are in a table ───────────────────────────────────────


def write_type(type_: typesystem.Type, writing: EncodeContext) -> object:
    known = writing.types.get(type_)
    if known is None:
        row = write_type_row(type_, writing)
        known = writing.types[type_] = len(writing.rows)
        writing.rows.append(row)
    return known


def write_type_row(type_: typesystem.Type, writing: EncodeContext) -> object:
    match type_:
        case typesystem.Scalar():
            return str(type_)
        case typesystem.EnumType(name, values, ordered):
            return ["enum", name, list(values), ordered]
        case typesystem.RefType(entities):
            return ["ref", *sorted(entities)]
        case typesystem.SetType(element):
            return ["set", write_type(element, writing)]
        case typesystem.ListType(element):
            return ["list", write_type(element, writing)]
        case typesystem.RecordType(members):
            return ["record", *([f.name, write_type(f.type, writing), f.optional, f.inherited] for f in members)]
        case typesystem.UnresolvedType():
            return "unresolved"


def read_type(raw: object, reading: DecodeContext) -> typesystem.Type:
    if type(raw) is int and 0 <= raw < len(reading.types):
        return reading.types[raw]
    raise data_error("a type", raw)


def read_types(rows: object) -> tuple[typesystem.Type, ...]:
    """Decode the table of types. Each row refers only to earlier rows, so no type contains itself."""
    if not isinstance(rows, list):
        raise data_error("a table of types", rows)
    found: list[typesystem.Type] = []
    depths: list[int] = []
    reading = DecodeContext((), found)
    for row in rows:
        made, inner = read_type_row(row, reading)
        depth = 1 + max((depths[number] for number in inner), default=0)
        if depth > MAX_TYPE_DEPTH:
            raise BundleDataError("an infinitely nested type")
        found.append(made)
        depths.append(depth)
    return tuple(found)


def read_type_row(row: object, reading: DecodeContext) -> tuple[typesystem.Type, list[int]]:
    """Return a type, and the numbers of the types in it."""
    match row:
        case "unresolved":
            return typesystem.UnresolvedType(), []
        case str() if row in SCALAR_WORDS:
            return typesystem.Scalar(row), []
        case ["enum", str(name), [*values], bool(ordered)]:
            return typesystem.EnumType(name, read_names(values), ordered), []
        case ["ref", *entities]:
            return typesystem.RefType(frozenset(read_names(entities))), []
        case ["set", int(element)]:
            return typesystem.SetType(read_type(element, reading)), [element]
        case ["list", int(element)]:
            return typesystem.ListType(read_type(element, reading)), [element]
        case ["record", *members]:
            made = [read_member(member, reading) for member in members]
            return typesystem.RecordType(tuple(one for one, _ in made)), [number for _, number in made]
        case _:
            raise data_error("a type", row)


def read_member(raw: object, reading: DecodeContext) -> tuple[typesystem.FieldType, int]:
    match raw:
        case [str(name), int(number), bool(optional), bool(inherited)]:
            return typesystem.FieldType(name, read_type(number, reading), optional, inherited), number
        case _:
            raise data_error("a member of a record", raw)


def read_names(raw: list[object]) -> tuple[str, ...]:
    """Decode a non-empty list of unique names."""
    found = tuple(one for one in raw if isinstance(one, str))
    if not found or len(set(found)) < len(raw):
        raise data_error("names", raw)
    return found


SPAN = Coder("place", write_span, read_span)
TYPE = Coder("type", write_type, read_type)
VALUE = Coder("constant", write_value, read_value)
SCALARS: Mapping[object, Coder] = {
    bool: msgpack_coder(bool),
    int: msgpack_coder(int),
    str: msgpack_coder(str),
    Span: SPAN,
    timedelta: Coder("duration", write_duration, read_duration),
    datetime: Coder("time", write_time, read_time),
    ZoneInfo: Coder("zone", lambda zone, _: zone.key, read_zone),
}
