"""Sample values of every type, their neighbors, and values for states of facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from policyengine import kernel as k
from policyengine.runtime.format_values import format_value
from policyengine.runtime.values import Unknown, coerce
from policyengine.solver.value_partition import EPOCH, AbstractValue
from policyengine.typesystem import EntityRef, EnumType, ListType, RecordType, RefType, Scalar, SetType, Type

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)
# The first value is used where any value fits.
SAMPLE_VALUES: Mapping[Scalar, tuple[Any, ...]] = {
    Scalar.BOOL: (True, False),
    Scalar.INT: (1, 0, 10),
    Scalar.NUMBER: (1, 0, 10),
    Scalar.STRING: ("a", "b"),
    Scalar.DURATION: (MINUTE, timedelta(0)),
    Scalar.TIME: (MONDAY, datetime(2026, 6, 1, 12, tzinfo=UTC)),
    Scalar.IP: (IPv4Address("203.0.113.9"), IPv4Address("10.0.0.1")),
    Scalar.CIDR: (IPv4Network("203.0.113.0/24"), IPv4Network("10.0.0.0/8")),
}
SAMPLE_IDS = ("1", "2")


# ── Values by type ────────────────────────────────────────────────────────────────────────────


def default_value(type_: Type) -> Any:
    """Return a neutral value of a type: an unlikely string, an empty collection, an empty record."""
    match type_:
        case Scalar.STRING:
            return "other"
        case Scalar():
            return SAMPLE_VALUES[type_][0]
        case EnumType(_, values):
            return values[0]
        case RefType(entities):
            return EntityRef(min(entities), "other")
        case SetType() | ListType():
            return ()
        case RecordType():
            return {}
        case _:
            return "other"


def sample_values(type_: Type, preferred: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """Return sample values of a type, fitting preferred values first."""
    match type_:
        case EnumType(_, values):
            return values
        case RefType(entities):
            named = tuple(one for one in preferred if isinstance(one, EntityRef) and one.type in entities)
            return named + tuple(EntityRef(name, id_) for name in sorted(entities) for id_ in SAMPLE_IDS)
        case SetType(element) | ListType(element):
            items = sample_values(element, preferred)
            return ((items[0],), (), items[:2], items[1:2]) if items else ((),)
        case RecordType(fields):
            return ({field.name: sample_values(field.type)[0] for field in fields if not field.optional},)
        case Scalar():
            fitting = tuple(one for one in preferred if has_type(one, type_))
            return tuple(dict.fromkeys((*fitting, *SAMPLE_VALUES[type_])))
        case _:
            return ("a",)


def sample_elements(type_: Type, count: int) -> tuple[Any, ...]:
    """Return `count` elements for a collection, all different if the type has enough values."""
    element = type_.element if isinstance(type_, SetType | ListType) else Scalar.STRING
    match element:
        case RefType(entities):
            return tuple(EntityRef(min(entities), f"item-{place}") for place in range(count))
        case Scalar.STRING:
            return tuple(f"item-{place}" for place in range(count))
        case Scalar.INT | Scalar.NUMBER:
            return tuple(range(count))
        case EnumType(_, words):
            return words[:count]
        case _:
            return (default_value(element),) * count


def typed_value(raw: object, type_: Type) -> Any:
    """Return the value of a raw fact, or None if it is unknown."""
    value = coerce(raw, type_, "")
    return None if isinstance(value, Unknown) else value


def has_type(value: object, type_: Type) -> bool:
    if isinstance(value, bool) and type_ is not Scalar.BOOL:
        return False
    return type(coerce(value, type_, "")) is type(value)


def unique_values(values: Iterable[Any]) -> list[Any]:
    """Return each value once; `1` and `True` are different."""
    unique: dict[str, Any] = {}
    for value in values:
        unique.setdefault(format_value(value), value)
    return list(unique.values())


# ── Values next to a value ──────────────────────────────────────────────────────────────────


def adjacent_values(value: Any, step: timedelta = SECOND) -> tuple[Any, ...]:
    """Return the neighbors of an ordered value, where an off-by-one error would show."""
    match value:
        case bool():
            return (not value,)
        case int() | Decimal():
            return (value + 1, value - 1)
        case timedelta():
            return (value + step, value - step) if value >= step else (value + step,)
        case datetime():
            return (value + step, value - step)
        case IPv4Network() | IPv6Network():
            return (value.network_address, value.broadcast_address)
        case _:
            return ()


def other_values(value: Any) -> tuple[Any, ...]:
    """Return other values of the type, for types whose values have no neighbors."""
    match value:
        case str():
            return (f"{value}-other", f"!{value}")
        case EntityRef(type_, id_):
            return (EntityRef(type_, f"{id_}-other"),)
        case tuple():
            return ((*value, "other"),)
        case _:
            return ()


def compute(operator: str, left: Any, right: Any) -> Any:
    """Return the result of the arithmetic, or None if it has no result."""
    numbers = (int, Decimal, timedelta, datetime)
    if not isinstance(left, numbers) or not isinstance(right, numbers):
        return None
    try:
        result = left + right if operator == "+" else left - right if operator == "-" else left * right  # type: ignore[operator]
    except (TypeError, ArithmeticError):
        return None
    return result if type(result) in numbers else None


def relation_holds(row: k.RelationRow, left: Any, right: Any, type_: Type) -> bool:
    """Return whether the relation is true for two values of the type; it is false for values without an order."""
    if row.operator not in ("==", "!=") and isinstance(type_, EnumType):
        ranks = type_.values
        return left in ranks and right in ranks and row.holds(ranks.index(left), ranks.index(right))
    try:
        return row.holds(left, right)
    except TypeError:
        return False


# ── Values for states ─────────────────────────────────────────────────────────────────────────


def state_value(state: Fraction, type_: Type) -> Any:
    match type_:
        case EnumType(_, values):
            return values[int(state)]
        case Scalar.DURATION:
            return timedelta(microseconds=int(state))
        case Scalar.TIME:
            return EPOCH + timedelta(microseconds=int(state))
        case _ if state.denominator == 1:
            return int(state)
        case _:
            return Decimal(state.numerator) / Decimal(state.denominator)


def rounded_state(state: Fraction, constants: Sequence[AbstractValue], type_: Type) -> Fraction:
    """Return a rounder number between the same constants, such as the next minute instead of the next microsecond."""
    if type_ not in (Scalar.DURATION, Scalar.TIME) or state in constants:
        return state
    minute = microseconds(MINUTE)
    limits = sorted(one for one in constants if isinstance(one, Fraction))
    below = max((one for one in limits if one < state), default=None)
    above = min((one for one in limits if one > state), default=None)
    usual = microseconds(MONDAY - EPOCH)
    if type_ is Scalar.TIME and (below is None or below < usual) and (above is None or usual < above):
        return usual
    if below is not None:
        return below + (minute if above is None else min(minute, (above - below) / 2))
    if above is None:
        return state
    return above - minute if type_ is Scalar.TIME else max(above - minute, above / 2)


def microseconds(duration: timedelta) -> Fraction:
    return Fraction(duration // timedelta(microseconds=1))


def constants_in(node: k.Expr) -> Iterator[Any]:
    """Yield the constants of an expression, and the items of collections one by one."""
    for inner in k.walk(node):
        if isinstance(inner, k.Constant):
            yield from inner.value if isinstance(inner.value, tuple) else (inner.value,)
