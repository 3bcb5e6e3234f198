"""Values of declared types to plain data and back, for bundles: nothing that is read is believed before it is checked.

The declared fields of the kernel's classes say how each value is written: a class is an array of its fields, headed by
its number where several classes are possible. The same declarations say what may stand there when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

from policyengine import kinds
from policyengine.kinds import EntityRef
from policyengine.runtime.literals import parse_cidr, parse_ip
from policyengine.runtime.values import Value
from policyengine.runtime.windows import ZoneError, load_zone
from policyengine.source import Source, Span

# The checker lets expressions nest 150 deep, and `not in` becomes two parts of the kernel. Reading takes three of
# Python's thousand frames for a level, which is why loops stand below where comprehensions would take one more.
DEEPEST = 250
DEEPEST_TYPE = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
WORDS = frozenset(str(scalar) for scalar in kinds.Scalar)

Item = TypeVar("Item")
Check: TypeAlias = Callable[[Any, "Reading"], None]


class Unreadable(Exception):
    """What was read is nothing that the compiler writes; the text says why."""


@dataclass(slots=True)
class Writing:
    """What values refer to by number, in the order of their first use: the sources, and the types of expressions."""

    sources: dict[Source, int] = field(default_factory=dict)
    types: dict[kinds.Type, int] = field(default_factory=dict)
    rows: list[object] = field(default_factory=list)  # the types as they are written, each after those within it


@dataclass(slots=True)
class Reading:
    """What values refer to, and what they may speak of; `unbound` are variables that no quantifier has bound yet."""

    sources: Sequence[Source]
    types: Sequence[kinds.Type]
    entities: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    attesters: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)  # how many blocks of each kind there are, and so on
    unbound: list[tuple[str, kinds.Type]] = field(default_factory=list)
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


def write_type(type_: kinds.Type, writing: Writing) -> object:
    known = writing.types.get(type_)
    if known is None:
        row = type_row(type_, writing)
        known = writing.types[type_] = len(writing.rows)
        writing.rows.append(row)
    return known


def type_row(type_: kinds.Type, writing: Writing) -> object:
    match type_:
        case kinds.Scalar():
            return str(type_)
        case kinds.Enum(name, values, ordered):
            return ["enum", name, list(values), ordered]
        case kinds.Ref(entities):
            return ["ref", *sorted(entities)]
        case kinds.Set(element):
            return ["set", write_type(element, writing)]
        case kinds.List(element):
            return ["list", write_type(element, writing)]
        case kinds.Record(members):
            return ["record", *([f.name, write_type(f.type, writing), f.optional, f.inherited] for f in members)]
        case kinds.Unresolved():
            return "unresolved"


def read_type(raw: object, reading: Reading) -> kinds.Type:
    if type(raw) is int and 0 <= raw < len(reading.types):
        return reading.types[raw]
    raise unreadable("a type", raw)


def read_types(rows: object) -> tuple[kinds.Type, ...]:
    """The table: each row speaks of rows before it only, so that no type holds itself."""
    if not isinstance(rows, list):
        raise unreadable("a table of types", rows)
    found: list[kinds.Type] = []
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


def read_row(row: object, reading: Reading) -> tuple[kinds.Type, list[int]]:
    """The type, and the numbers of those within it."""
    match row:
        case "unresolved":
            return kinds.Unresolved(), []
        case str() if row in WORDS:
            return kinds.Scalar(row), []
        case ["enum", str(name), [*values], bool(ordered)]:
            return kinds.Enum(name, names(values), ordered), []
        case ["ref", *entities]:
            return kinds.Ref(frozenset(names(entities))), []
        case ["set", int(element)]:
            return kinds.Set(read_type(element, reading)), [element]
        case ["list", int(element)]:
            return kinds.List(read_type(element, reading)), [element]
        case ["record", *members]:
            made = [read_member(member, reading) for member in members]
            return kinds.Record(tuple(one for one, _ in made)), [number for _, number in made]
        case _:
            raise unreadable("a type", row)


def read_member(raw: object, reading: Reading) -> tuple[kinds.Field, int]:
    match raw:
        case [str(name), int(number), bool(optional), bool(inherited)]:
            return kinds.Field(name, read_type(number, reading), optional, inherited), number
        case _:
            raise unreadable("a member of a record", raw)


def names(raw: list[object]) -> tuple[str, ...]:
    """At least one, and none twice."""
    found = tuple(one for one in raw if isinstance(one, str))
    if not found or len(set(found)) < len(raw):
        raise unreadable("names", raw)
    return found


# ── What holds others ─────────────────────────────────────────────────────────────────────────


def items(item: Coder) -> Coder:
    def read(raw: object, reading: Reading) -> tuple[object, ...]:
        if type(raw) is not list:
            raise unreadable("a list", raw)
        found = []
        for one in raw:
            found.append(item.read(one, reading))
        return tuple(found)

    return Coder(f"({item.shape}, …)", lambda value, writing: [item.write(one, writing) for one in value], read)


def pairing(parts: tuple[Coder, ...]) -> Coder:
    """A tuple of so many, each of its own type."""

    def read(raw: object, reading: Reading) -> tuple[object, ...]:
        if type(raw) is not list or len(raw) != len(parts):
            raise unreadable(f"a list of {len(parts)}", raw)
        return tuple([part.read(one, reading) for part, one in zip(parts, raw, strict=True)])

    def write(value: tuple[object, ...], writing: Writing) -> object:
        return [part.write(one, writing) for part, one in zip(parts, value, strict=True)]

    return Coder(f"({', '.join(part.shape for part in parts)})", write, read)


def distinct(item: Coder) -> Coder:
    """A set, in rising order."""

    def read(raw: object, reading: Reading) -> frozenset[object]:
        if type(raw) is not list:
            raise unreadable("a set", raw)
        found: list[Any] = [item.read(one, reading) for one in raw]
        if any(one >= other for one, other in pairwise(found)):
            raise Unreadable("a set whose elements are not in rising order")
        return frozenset(found)

    return Coder(f"{{{item.shape}}}", lambda value, writing: [item.write(one, writing) for one in sorted(value)], read)


@dataclass(slots=True)
class Record:
    """A class: an array of its fields; `number` goes first where other classes are possible.

    `check` says whether a value that was read is one that the checker could have made.
    """

    kind: type
    number: int
    names: tuple[str, ...] = ()
    coders: tuple[Coder, ...] = ()
    check: Check | None = None

    @property
    def shape(self) -> str:
        told = ", ".join(f"{name}: {coder.shape}" for name, coder in zip(self.names, self.coders, strict=True))
        return f"{self.number} {self.kind.__name__}({told})"

    def write(self, value: object, writing: Writing) -> list[object]:
        return [coder.write(getattr(value, name), writing) for name, coder in zip(self.names, self.coders, strict=True)]

    def read(self, raw: Any, reading: Reading, first: int = 0) -> Any:
        if type(raw) is not list or len(raw) - first != len(self.coders):
            raise unreadable(f"{self.kind.__name__} with {len(self.coders)} members", raw)
        members = {}
        for name, coder in zip(self.names, self.coders, strict=True):
            members[name] = coder.read(raw[first], reading)
            first += 1
        made = self.kind(**members)
        if self.check is not None:
            self.check(made, reading)
        return made


def either(absent: bool, other: Coder | None, records: Sequence[Record]) -> Coder:
    """One of several: what is written says which. With classes, `other` is nothing that is written as a list."""
    numbered = {record.number: record for record in records}
    by_class = {record.kind: record for record in records}

    def write(value: object, writing: Writing) -> object:
        record = by_class.get(type(value))
        if record is not None:
            return [record.number, *record.write(value, writing)]
        return None if value is None or other is None else other.write(value, writing)

    def read(raw: Any, reading: Reading) -> Any:
        if raw is None and absent:
            return None
        if not numbered or type(raw) is not list:
            if other is None:
                raise unreadable(told, raw)
            return other.read(raw, reading)
        record = numbered.get(raw[0]) if raw and type(raw[0]) is int else None
        if record is None:
            raise unreadable(told, raw[0] if raw else raw)
        reading.depth += 1
        if reading.depth > DEEPEST:
            raise Unreadable(f"parts nest more than {DEEPEST} levels deep")
        made = record.read(raw, reading, 1)
        reading.depth -= 1
        return made

    told = " | ".join([*["None"] * absent, *([other.shape] if other else []), *(one.__name__ for one in by_class)])
    return Coder(told, write, read)


# ── From declarations ─────────────────────────────────────────────────────────────────────────

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


class Codec:
    """The coders of some classes and of all they are made of, numbered in the order in which they are come upon."""

    def __init__(self, roots: Sequence[type], checks: Mapping[type, Check]) -> None:
        self.records: dict[type, Record] = {}
        self._checks = checks
        for root in roots:
            self._record(root)
        told = "\n".join(record.shape for record in self.records.values())
        # Two codecs that write alike have the same; another field, class or order makes it another.
        self.shape = hashlib.sha256(told.encode()).hexdigest()[:16]

    def write(self, value: object, writing: Writing) -> object:
        """A value of one of the roots."""
        return self.records[type(value)].write(value, writing)

    def read(self, kind: type[Item], raw: object, reading: Reading) -> Item:
        """A value of the root that is named. Raises Unreadable."""
        try:
            made: Item = self.records[kind].read(raw, reading)
        except RecursionError:
            raise Unreadable("parts within parts without end") from None
        return made

    def _record(self, kind: type) -> Record:
        known = self.records.get(kind)
        if known is None:
            known = self.records[kind] = Record(kind, len(self.records), check=self._checks.get(kind))
            hints = get_type_hints(kind)
            known.names = tuple(one.name for one in fields(kind))
            known.coders = tuple(self._coder(hints[name]) for name in known.names)
        return known

    def _coder(self, hint: Any) -> Coder:
        if hint in SCALARS:
            return SCALARS[hint]
        if hint == kinds.Type:
            return TYPE
        origin, inner = get_origin(hint), get_args(hint)
        if origin is Literal:
            return word(inner)
        if origin is frozenset:
            return distinct(self._coder(inner[0]))
        if origin is tuple:
            parts = tuple(self._coder(one) for one in inner if one is not ...)
            return items(parts[0]) if inner[-1] is ... else pairing(parts)
        if origin in (Union, UnionType):
            return self._union(inner)
        record = self._record(hint)
        return Coder(record.kind.__name__, record.write, record.read)

    def _union(self, members: tuple[Any, ...]) -> Coder:
        if Decimal in members:
            return VALUE
        records = [self._record(one) for one in members if isinstance(one, type) and is_dataclass(one)]
        others = [self._coder(one) for one in members if not is_dataclass(one) and one is not NoneType]
        if len(others) > 1:
            raise TypeError(f"what is written does not say which of {members} it is")
        return either(NoneType in members, others[0] if others else None, records)
