"""How values without parts are stored in bundles: places, times, constants, types. `schema.py` derives the forms of
classes from these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, TypeAlias
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from policyengine.compiler.bundle.tables import (
    BundleDataError,
    DecodeContext,
    EncodeContext,
    PatternWire,
    SpanWire,
    read_pattern,
    read_span,
    write_pattern,
    write_span,
)
from policyengine.runtime.calendar_windows import ZoneError, load_zone
from policyengine.runtime.literals import parse_cidr, parse_ip
from policyengine.typesystem import EntityRef, Type

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
Write: TypeAlias = Callable[[Any, EncodeContext], Any]
Read: TypeAlias = Callable[[Any, DecodeContext], Any]


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one declared type are stored. `wire` returns the type that msgspec checks; `write` and `read`
    convert to and from that type, and are None if no conversion is needed. `shape` describes the form in the same way
    on every Python version.
    """

    shape: str
    wire: Callable[[], Any]
    write: Write | None = None
    read: Read | None = None


def plain_form(kind: type) -> Form:
    """Return the form of values that MessagePack stores itself."""
    return Form(kind.__name__, lambda: kind)


def write_unchanged(value: Any, _: EncodeContext) -> Any:
    return value


def read_shared(raw: Any, context: DecodeContext) -> Any:
    """Return one shared object for all equal texts, or tuples of texts, because many rules repeat the same texts."""
    return context.shared.setdefault(raw, raw)


# ── Times ─────────────────────────────────────────────────────────────────────────────────────

DurationWire: TypeAlias = tuple[
    Annotated[int, Meta(ge=-999_999_999, le=999_999_999)],
    Annotated[int, Meta(ge=0, lt=86_400)],
    Annotated[int, Meta(ge=0, lt=1_000_000)],
]


def write_duration(value: timedelta, _: EncodeContext) -> tuple[int, int, int]:
    return value.days, value.seconds, value.microseconds


def read_duration(raw: tuple[int, int, int], _: DecodeContext) -> timedelta:
    return timedelta(*raw)


def write_time(value: datetime, _: EncodeContext) -> int:
    return (value - EPOCH) // MICROSECOND


def read_time(raw: int, _: DecodeContext) -> datetime:
    try:
        return EPOCH + raw * MICROSECOND
    except OverflowError:
        raise BundleDataError("a time outside of the calendar") from None


def read_zone(raw: str, _: DecodeContext) -> ZoneInfo:
    try:
        return load_zone(raw)
    except ZoneError as error:
        raise BundleDataError(error.message) from None


# ── Constants ─────────────────────────────────────────────────────────────────────────────────


class NumberItem(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="number"):
    text: Annotated[str, Meta(max_length=64)]


class DurationItem(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="duration"):
    duration: DurationWire


class TimeItem(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="time"):
    time: int


class IpItem(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="ip"):
    text: str


class CidrItem(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="cidr"):
    text: str


class EntityItem(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="entity"):
    kind: str
    id: str


ConstantItem: TypeAlias = bool | int | str | NumberItem | DurationItem | TimeItem | IpItem | CidrItem | EntityItem


class ItemList(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag="items"):
    """A constant collection. No constant is a list of lists."""

    items: tuple[ConstantItem, ...]


ConstantWire: TypeAlias = ConstantItem | ItemList


def write_constant(value: Any, context: EncodeContext) -> ConstantWire:
    if isinstance(value, tuple):
        return ItemList(tuple(write_item(item, context) for item in value))
    return write_item(value, context)


def write_item(value: Any, context: EncodeContext) -> ConstantItem:
    match value:
        case bool() | int() | str():
            return value
        case Decimal():
            return NumberItem(str(value))
        case timedelta():
            return DurationItem(write_duration(value, context))
        case datetime():
            return TimeItem(write_time(value, context))
        case IPv4Address() | IPv6Address():
            return IpItem(str(value))
        case IPv4Network() | IPv6Network():
            return CidrItem(str(value))
        case EntityRef(type=kind, id=id_):
            return EntityItem(kind, id_)
        case _:
            raise TypeError(f"{type(value).__name__} is not the type of a constant")


def read_constant(raw: ConstantWire, context: DecodeContext) -> Any:
    if isinstance(raw, ItemList):
        return tuple([read_item(item, context) for item in raw.items])
    return read_item(raw, context)


def read_item(raw: ConstantItem, context: DecodeContext) -> Any:
    found: Any = None
    match raw:
        case bool() | int() | str():
            return raw
        case NumberItem(text):
            found = read_number(text)
        case DurationItem(duration):
            return read_duration(duration, context)
        case TimeItem(time):
            return read_time(time, context)
        case IpItem(text):
            found = parse_ip(text)
        case CidrItem(text):
            found = parse_cidr(text)
        case EntityItem(kind, id_):
            return EntityRef(kind, id_)
    if found is None:
        raise BundleDataError("a constant with an invalid text")
    return found


def read_number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


# ── Types of expressions ──────────────────────────────────────────────────────────────────────


def read_type(raw: int, context: DecodeContext) -> Type:
    if raw >= len(context.types):
        raise BundleDataError("a reference to a missing type")
    return context.types[raw]


TEXT = Form("str", lambda: str, write_unchanged, read_shared)
TEXTS = Form("(str, …)", lambda: tuple[str, ...], lambda value, _: tuple(value), read_shared)
SPAN = Form("place", lambda: SpanWire, write_span, read_span)
PATTERN = Form("pattern", lambda: PatternWire, write_pattern, read_pattern)
CONSTANT = Form("constant", lambda: ConstantWire, write_constant, read_constant)
DURATION = Form("duration", lambda: DurationWire, write_duration, read_duration)
TIME = Form("time", lambda: int, write_time, read_time)
ZONE = Form("zone", lambda: str, lambda zone, _: zone.key, read_zone)
