"""Values for questions: what stands for a state of a fact, and texts, addresses and times that fit what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import quote

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime import windows
from policyengine.solver.symbolic import FactPair, Subject
from policyengine.solver.value_partition import EPOCH, AbstractValue
from policyengine.typesystem import EntityRef, Scalar

MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)
MINUTE = Fraction(60_000_000)
SAMPLE_ADDRESSES = ("203.0.113.9", "198.51.100.7", "10.1.2.3", "127.0.0.1", "2001:db8::9")
FRESH_VALUES: Mapping[str, Any] = {
    "bool": True, "int": 1, "number": 1, "string": "other", "duration": timedelta(minutes=1), "time": MONDAY,
    "ip": IPv4Address(SAMPLE_ADDRESSES[0]), "cidr": IPv4Network("203.0.113.0/24"),
}  # fmt: skip


def quote_segment(segment: str) -> str:
    return quote(segment, safe="!$&'()*+,=:@~-._")


def rounded_state(state: Fraction, constants: Sequence[AbstractValue], type_: typesystem.Type) -> Fraction:
    """A rounder number between the same constants: a minute beside a moment, where a microsecond would do."""
    if type_ not in (Scalar.DURATION, Scalar.TIME) or state in constants:
        return state
    limits = sorted(one for one in constants if isinstance(one, Fraction))
    below = max((one for one in limits if one < state), default=None)
    above = min((one for one in limits if one > state), default=None)
    usual = Fraction((MONDAY - EPOCH) // timedelta(microseconds=1))
    if type_ is Scalar.TIME and (below is None or below < usual) and (above is None or usual < above):
        return usual
    if below is not None:
        return below + (MINUTE if above is None else min(MINUTE, (above - below) / 2))
    if above is None:
        return state
    return above - MINUTE if type_ is Scalar.TIME else max(above - MINUTE, above / 2)


def state_value(value: Fraction, type_: typesystem.Type) -> Any:
    match type_:
        case typesystem.EnumType(_, values):
            return values[int(value)]
        case Scalar.DURATION:
            return timedelta(microseconds=int(value))
        case Scalar.TIME:
            return EPOCH + timedelta(microseconds=int(value))
        case _ if value.denominator == 1:
            return int(value)
        case _:
            return Decimal(value.numerator) / Decimal(value.denominator)


def shift_value(value: Any, step: int) -> Any:
    """A value before (-1), like (0) or after (1) the given one."""
    match value:
        case _ if step == 0:
            return value
        case bool():
            return not value
        case int() | Decimal():
            return value + step
        case timedelta():
            return max(value + step * timedelta(minutes=1), timedelta(0))
        case datetime():
            return value + step * timedelta(minutes=1)
        case str():
            return f"{value}-other" if step > 0 else f"!{value}"
        case EntityRef(type_, id_):
            return EntityRef(type_, f"{id_}-other")
        case list() | tuple():
            return [*value, "other"]
        case _:
            return value


def sample_address(networks: Any, wanted: bool) -> str:
    known = networks if isinstance(networks, list | tuple) else [networks]
    inside = [one for one in known if isinstance(one, IPv4Network | IPv6Network)]
    plain = [one for one in known if one is not None and one not in inside]
    if wanted:
        first = inside[0] if inside else None
        return str(
            first[1 if first.num_addresses > 1 else 0]
            if first is not None
            else plain[0]
            if plain
            else SAMPLE_ADDRESSES[0]
        )
    outside = (
        one
        for one in SAMPLE_ADDRESSES
        if not any(ip_address(one) in net for net in inside) and one not in map(str, plain)
    )
    return next(outside, SAMPLE_ADDRESSES[0])


def is_empty_by_default(collection: k.Expr) -> bool:
    """Whether it is empty where no row says what it holds: `inherited else []`."""
    return isinstance(collection, k.Attribute) and any(empty for _, empty in collection.levels)


def sample_elements(type_: typesystem.Type, count: int) -> list[Any]:
    """So many different ones, as far as the type has them."""
    element = type_.element if isinstance(type_, typesystem.SetType | typesystem.ListType) else Scalar.STRING
    match element:
        case typesystem.RefType(entities):
            return [EntityRef(min(entities), f"item-{place}") for place in range(count)]
        case Scalar.STRING:
            return [f"item-{place}" for place in range(count)]
        case Scalar.INT | Scalar.NUMBER:
            return list(range(count))
        case typesystem.EnumType(_, words):
            return list(words[:count])
        case typesystem.RecordType():
            return [{} for _ in range(count)]
        case _:
            return [FRESH_VALUES.get(str(element), "other")] * count


def compute(operator: str, left: Any, right: Any) -> Any:
    """None where nothing can be computed."""
    if left is None or right is None:
        return None
    try:
        return left + right if operator == "+" else left - right if operator == "-" else left * right
    except (TypeError, ArithmeticError):
        return None


def are_in_order(left: Any, right: Any, step: int) -> bool:
    """Whether two values that are known are so already: -1, the left one is less; 1, more; 0, equal."""
    if left is None or right is None:
        return False
    if step == 0 or isinstance(left, list | tuple | EntityRef):
        return (left == right or same_items(left, right)) is (step == 0)
    try:
        return bool(left < right if step < 0 else left > right)
    except TypeError:
        return False


def same_items(left: Any, right: Any) -> bool:
    return isinstance(left, list | tuple) and isinstance(right, list | tuple) and [*left] == [*right]


HALF_HOUR, HALF_HOURS_SEARCHED = timedelta(minutes=30), 24 * 2 * 8


def candidate_times(now: datetime, asked: Sequence[windows.Window]) -> Iterator[datetime]:
    """Now and the week after it; the minutes at which daily windows begin and end there; and the days about each window
    of dates."""
    days = [now + timedelta(days=day) for day in range(8)]
    dates = [edge + step for one in asked if isinstance(one, windows.Absolute)
             for edge in (one.start, one.end) for step in (timedelta(0), -timedelta(minutes=1))]  # fmt: skip
    starts = [now, *dates]
    for start in starts:
        yield from (start + HALF_HOUR * step for step in range(HALF_HOURS_SEARCHED if start is now else 24 * 2))
    for day in (*days, *dates):
        for window in asked:
            if isinstance(window, windows.Daily | windows.Weekly):
                local = day.astimezone(window.zone)
                for minute in (window.start_minute, window.end_minute):
                    at = local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(minutes=minute)
                    yield from (at.astimezone(UTC), (at - timedelta(minutes=1)).astimezone(UTC))


# ── In which order facts are given: first what others are made of ─────────────────────────────

FILL_ORDER: tuple[type, ...] = (
    k.Fact,
    k.Attribute,
    k.Member,
    k.Variable,
    k.Call,
    k.Arithmetic,
    k.Relation,  # of an element and what has it
    k.Quantifier,
    FactPair,
)


def fill_rank(subject: Subject) -> int:
    other = len(FILL_ORDER) - 2
    if isinstance(subject, k.Relation) and subject.row.operands is not k.Operands.ELEMENT:
        return other
    return next((number for number, kind in enumerate(FILL_ORDER) if isinstance(subject, kind)), other)


def must_differ(subject: Subject, state: AbstractValue) -> bool:
    """Whether two facts are to differ: what is to be equal is made so first."""
    return isinstance(subject, FactPair) and state != 0
