"""Values without parts to plain data and back: places, times, constants, types. What is read is checked.

`codec.py` makes coders for classes of them.
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
from policyengine.runtime.literals import parse_cidr, parse_ip
from policyengine.runtime.values import Value
from policyengine.runtime.windows import ZoneError, load_zone
from policyengine.source import Source, Span
from policyengine.typesystem import EntityRef

DEEPEST_TYPE = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
WORDS = frozenset(str(scalar) for scalar in typesystem.Scalar)

Item = TypeVar("Item")
Check: TypeAlias = Callable[[Any, "Reading"], None]


class Unreadable(Exception):
    """What was read is nothing that the compiler writes; the text says why."""


@dataclass(slots=True)
class Writing:
    """What values refer to by number, in the order of their first use: the sources, and the types of expressions."""

    sources: dict[Source, int] = field(default_factory=dict)
    types: dict[typesystem.Type, int] = field(default_factory=dict)
    rows: list[object] = field(default_factory=list)  # the types as they are written, each after those within it


@dataclass(slots=True)
class Reading:
    """What values refer to, and what they may speak of; `unbound` are variables that no quantifier has bound yet."""

    sources: Sequence[Source]
    types: Sequence[typesystem.Type]
    entities: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    attesters: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)  # how many blocks of each kind there are, and so on
    unbound: list[tuple[str, typesystem.Type]] = field(default_factory=list)
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Coder:
    """How values of one declared type are written and read. `shape` is that type, in the same words on every Python."""

    shape: str
    write: Callable[[Any, Writing], object]
    read: Callable[[Any, Reading], Any]


def unreadable(wanted: str, raw: object) -> Unreadable:
    return Unreadable(f"{wanted} is expected where {type(raw).__name__} stands")


# ── Values without parts ──────────────────────────────────────────────────────────────────────


def plain(kind: type) -> Coder:
    """What MessagePack can say itself. A bool is no int here."""

    def read(raw: object, _: Reading) -> object:
        if type(raw) is not kind:
            raise unreadable(kind.__name__, raw)
        return raw

    return Coder(kind.__name__, lambda value, _: value, read)


def word(choices: tuple[str, ...]) -> Coder:
    def read(raw: object, _: Reading) -> object:
        if type(raw) is not str or raw not in choices:
            raise unreadable(f"one of {', '.join(choices)}", raw)
        return raw

    return Coder(f"word({','.join(choices)})", lambda value, _: value, read)


def write_span(span: Span, writing: Writing) -> object:
    source = writing.sources.setdefault(span.source, len(writing.sources))
    return [source, span.start, span.end - span.start]


def read_span(raw: object, reading: Reading) -> Span:
    """Every part has one, so this is the most frequent of all: tests by hand take half as long as `match`."""
    if type(raw) is not list or len(raw) != 3:
        raise unreadable("a place", raw)
    number, start, length = raw
    if not (type(number) is type(start) is type(length) is int and 0 <= number < len(reading.sources)):
        raise unreadable("a place", raw)
    source = reading.sources[number]
    if start < 0 or length < 0 or start + length > len(source.text):
        raise Unreadable("a place outside of its source")
    return Span(source, start, start + length)


def write_duration(value: timedelta, _: Writing) -> object:
    return [value.days, value.seconds, value.microseconds]


def read_duration(raw: object, _: Reading) -> timedelta:
    match raw:
        case [int(days), int(seconds), int(micros)] if 0 <= seconds < 86_400 and 0 <= micros < 1_000_000:
            if -999_999_999 <= days <= 999_999_999:
                return timedelta(days, seconds, micros)
    raise unreadable("a duration", raw)


def write_time(value: datetime, _: Writing) -> object:
    return (value - EPOCH) // MICROSECOND


def read_time(raw: object, _: Reading) -> datetime:
    if type(raw) is int:
        try:
            return EPOCH + raw * MICROSECOND
        except OverflowError:
            pass
    raise unreadable("a time", raw)


def read_zone(raw: object, _: Reading) -> ZoneInfo:
    try:
        return load_zone(raw if isinstance(raw, str) else "")
    except ZoneError as error:
        raise Unreadable(error.message) from None


# ── Constants: their values say themselves what they are ──────────────────────────────────────


def write_value(value: Any, writing: Writing) -> object:
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


def read_value(raw: object, reading: Reading) -> Value:
    match raw:
        case bool() | int() | str():
            return raw
        case ["items", *items]:
            return tuple(read_item(item, reading) for item in items)
        case _:
            return read_item(raw, reading)


def read_item(raw: object, reading: Reading) -> Value:
    """No constant is a list of lists."""
    found: Value | None = None
    match raw:
        case bool() | int() | str():
            return raw
        case ["number", str(text)] if len(text) <= 64:
            found = number(text)
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
        raise unreadable("a constant", raw)
    return found


def number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


# ── Types of expressions: few, so they stand in a table ───────────────────────────────────────


def write_type(type_: typesystem.Type, writing: Writing) -> object:
    known = writing.types.get(type_)
    if known is None:
        row = type_row(type_, writing)
        known = writing.types[type_] = len(writing.rows)
        writing.rows.append(row)
    return known


def type_row(type_: typesystem.Type, writing: Writing) -> object:
    match type_:
        case typesystem.Scalar():
            return str(type_)
        case typesystem.Enum(name, values, ordered):
            return ["enum", name, list(values), ordered]
        case typesystem.Ref(entities):
            return ["ref", *sorted(entities)]
        case typesystem.Set(element):
            return ["set", write_type(element, writing)]
        case typesystem.List(element):
            return ["list", write_type(element, writing)]
        case typesystem.Record(members):
            return ["record", *([f.name, write_type(f.type, writing), f.optional, f.inherited] for f in members)]
        case typesystem.Unresolved():
            return "unresolved"


def read_type(raw: object, reading: Reading) -> typesystem.Type:
    if type(raw) is int and 0 <= raw < len(reading.types):
        return reading.types[raw]
    raise unreadable("a type", raw)


def read_types(rows: object) -> tuple[typesystem.Type, ...]:
    """The table: each row speaks of rows before it only, so that no type holds itself."""
    if not isinstance(rows, list):
        raise unreadable("a table of types", rows)
    found: list[typesystem.Type] = []
    depths: list[int] = []
    reading = Reading((), found)
    for row in rows:
        made, inner = read_row(row, reading)
        depth = 1 + max((depths[number] for number in inner), default=0)
        if depth > DEEPEST_TYPE:
            raise Unreadable("types within types without end")
        found.append(made)
        depths.append(depth)
    return tuple(found)


def read_row(row: object, reading: Reading) -> tuple[typesystem.Type, list[int]]:
    """The type, and the numbers of those within it."""
    match row:
        case "unresolved":
            return typesystem.Unresolved(), []
        case str() if row in WORDS:
            return typesystem.Scalar(row), []
        case ["enum", str(name), [*values], bool(ordered)]:
            return typesystem.Enum(name, names(values), ordered), []
        case ["ref", *entities]:
            return typesystem.Ref(frozenset(names(entities))), []
        case ["set", int(element)]:
            return typesystem.Set(read_type(element, reading)), [element]
        case ["list", int(element)]:
            return typesystem.List(read_type(element, reading)), [element]
        case ["record", *members]:
            made = [read_member(member, reading) for member in members]
            return typesystem.Record(tuple(one for one, _ in made)), [number for _, number in made]
        case _:
            raise unreadable("a type", row)


def read_member(raw: object, reading: Reading) -> tuple[typesystem.Field, int]:
    match raw:
        case [str(name), int(number), bool(optional), bool(inherited)]:
            return typesystem.Field(name, read_type(number, reading), optional, inherited), number
        case _:
            raise unreadable("a member of a record", raw)


def names(raw: list[object]) -> tuple[str, ...]:
    """At least one, and none twice."""
    found = tuple(one for one in raw if isinstance(one, str))
    if not found or len(set(found)) < len(raw):
        raise unreadable("names", raw)
    return found


SPAN = Coder("place", write_span, read_span)
TYPE = Coder("type", write_type, read_type)
VALUE = Coder("constant", write_value, read_value)
SCALARS: Mapping[object, Coder] = {
    bool: plain(bool),
    int: plain(int),
    str: plain(str),
    Span: SPAN,
    timedelta: Coder("duration", write_duration, read_duration),
    datetime: Coder("time", write_time, read_time),
    ZoneInfo: Coder("zone", lambda zone, _: zone.key, read_zone),
}
