"""Values that are worth trying: those a policy names, what lies beside them, and a few of every type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.runtime.values import coerce
from policyengine.typesystem import EntityRef, EnumType, ListType, RecordType, RefType, Scalar, SetType, Type

Leaf: TypeAlias = k.Fact | k.Attribute | k.Member
PoolKey: TypeAlias = tuple[str, ...]

SECOND = timedelta(seconds=1)
OUTSIDE_ADDRESS = IPv4Address("203.0.113.7")
DEFAULT_VALUES: Mapping[Scalar, tuple[object, ...]] = {
    Scalar.BOOL: (True, False),
    Scalar.INT: (1, 0, 10),
    Scalar.NUMBER: (1, 0, 10),
    Scalar.STRING: ("a", "b"),
    Scalar.DURATION: (timedelta(minutes=1), timedelta(0)),
    Scalar.TIME: (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, 12, tzinfo=UTC)),
    Scalar.IP: (OUTSIDE_ADDRESS, IPv4Address("10.0.0.1")),
    Scalar.CIDR: (IPv4Network("10.0.0.0/8"),),
}


def pool_key(leaf: Leaf) -> PoolKey:
    """What constants are remembered by: attributes by their name, whosever they are."""
    return leaf.path if isinstance(leaf, k.Fact) else ("", leaf.name)


def underlying_fact(node: k.Expr) -> Leaf | None:
    """The fact that an operand is, or is made of in a way that keeps its values."""
    match node:
        case k.Fact() | k.Attribute() | k.Member():
            return node
        case k.DefinitionRef(_, inner) | k.Default(inner) | k.UnaryMinus(inner):
            return underlying_fact(inner)
        case k.Arithmetic(_, left, right):
            return underlying_fact(left) or underlying_fact(right)
        case k.Call(_, arguments) if arguments:
            return underlying_fact(arguments[0])
        case _:
            return None


@dataclass(frozen=True, slots=True)
class ValuePools:
    """`by_slot` are the values that the policy holds against a fact, and those beside them."""

    by_slot: Mapping[PoolKey, tuple[object, ...]]

    @classmethod
    def of(cls, conditions: Iterable[k.Expr]) -> ValuePools:
        slots: dict[PoolKey, dict[object, None]] = {}
        for condition in conditions:
            for node in k.walk(condition):
                for leaf, value in compared_constants(node):
                    slots.setdefault(pool_key(leaf), {}).update(dict.fromkeys((value, *adjacent_values(value))))
        return cls({slot: tuple(found) for slot, found in slots.items()})

    def values(self, leaf: Leaf) -> tuple[object, ...]:
        """Values of the leaf's own type, those that its conditions name first."""
        return self.of_type(leaf.type, self.by_slot.get(pool_key(leaf), ()))

    def of_type(self, type_: Type, preferred: tuple[object, ...] = ()) -> tuple[object, ...]:
        match type_:
            case EnumType(_, values):
                return values
            case RefType(entities):
                named = tuple(one for one in preferred if isinstance(one, EntityRef) and one.type in entities)
                return named + tuple(EntityRef(name, id_) for name in sorted(entities) for id_ in ("1", "2"))
            case SetType(element) | ListType(element):
                items = self.of_type(element, preferred)
                return ((items[0],), (), items[:2], items[1:2]) if items else ((),)
            case RecordType(fields):
                return ({field.name: self.of_type(field.type)[0] for field in fields if not field.optional},)
            case Scalar():
                fitting = tuple(one for one in preferred if has_type(one, type_))
                return tuple(dict.fromkeys((*fitting, *DEFAULT_VALUES[type_])))
            case _:
                return ("a",)


def has_type(value: object, type_: Type) -> bool:
    if isinstance(value, bool) and type_ is not Scalar.BOOL:
        return False
    known = coerce(value, type_, "")
    return type(known) is type(value)


def compared_constants(node: k.Expr) -> Iterator[tuple[Leaf, object]]:
    """Each fact of an expression with each constant that the expression holds against it."""
    match node:
        case k.Relation() if node.row.operands is k.Operands.PATTERN:
            return
        case k.Relation(_, left, right):
            pairs = ((left, right), (right, left))
        case k.Call(_, (first, second)):
            pairs = ((first, second), (second, first))
        case _:
            return
    for side, other in pairs:
        leaf = underlying_fact(side)
        if leaf is not None:
            yield from ((leaf, value) for inner in k.walk(other) if isinstance(inner, k.Constant)
                        for value in (inner.value if isinstance(inner.value, tuple) else (inner.value,)))  # fmt: skip


def adjacent_values(value: object) -> tuple[object, ...]:
    """The neighbours of a value, where a slip by one would show."""
    match value:
        case bool():
            return (not value,)
        case int() | Decimal():
            return (value + 1, value - 1)
        case timedelta():
            return (value + SECOND, value - SECOND) if value >= SECOND else (value + SECOND,)
        case datetime():
            return (value + SECOND, value - SECOND)
        case IPv4Network() | IPv6Network():
            return (value.network_address, value.broadcast_address)
        case _:
            return ()


def wrong_type_value(value: object) -> object:
    """Something of another type, which a careless reader would take for the same."""
    match value:
        case str():
            return 5
        case bool() | int() | Decimal():
            return str(value).lower()
        case _:
            return "?"
