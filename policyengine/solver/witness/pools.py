"""Pools of candidate values for a fact: constants of its comparisons, their neighbors, and common values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, TypeVar

from policyengine import kernel as k
from policyengine.solver.witness.values import SECOND, adjacent_values, constants_in, sample_values

Leaf: TypeAlias = k.Fact | k.Attribute | k.Member | k.Variable
PoolKey: TypeAlias = tuple[str, ...]
Item = TypeVar("Item")


class Choice(Protocol):
    """A strategy for choosing one of several items. The first item is the preferred one."""

    def of(self, things: Sequence[Item]) -> Item: ...

    def chance(self, one_in: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class FirstChoice:
    """Always chooses the first item, never at random."""

    def of(self, things: Sequence[Item]) -> Item:
        return things[0]

    def chance(self, one_in: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ValuePools:
    """Candidate values by fact. `by_slot` contains the constants with which conditions compare a fact, and their
    neighbors. `usual` returns common values for a leaf, given the values of its slot; `step` is the distance to the
    next time or duration.
    """

    by_slot: Mapping[PoolKey, tuple[Any, ...]] = field(default_factory=dict)
    usual: Callable[[Leaf, tuple[Any, ...]], tuple[Any, ...]] = lambda leaf, slot: sample_values(leaf.type, slot)
    step: timedelta = SECOND

    @classmethod
    def of(cls, conditions: Iterable[k.Expr]) -> ValuePools:
        slots: dict[PoolKey, dict[Any, None]] = {}
        for condition in conditions:
            for node in k.walk(condition):
                for leaf, value in compared_constants(node):
                    slots.setdefault(pool_key(leaf), {}).update(dict.fromkeys((value, *adjacent_values(value))))
        return cls({slot: tuple(values) for slot, values in slots.items()})

    def values(self, leaf: Leaf) -> tuple[Any, ...]:
        """Return candidate values of the leaf's type, those from conditions first."""
        return self.usual(leaf, self.by_slot.get(pool_key(leaf), ()))


def pool_key(leaf: Leaf) -> PoolKey:
    """Return the slot of a leaf; attributes and members with the same name share one slot."""
    return leaf.path if isinstance(leaf, k.Fact) else ("", leaf.name)


def underlying_leaf(node: k.Expr) -> Leaf | None:
    """Return the leaf that an operand is, or the first leaf from which it is computed; None if it has no leaf."""
    match node:
        case k.Fact() | k.Attribute() | k.Member() | k.Variable():
            return node
        case k.DefinitionRef(_, inner) | k.Default(inner) | k.UnaryMinus(inner):
            return underlying_leaf(inner)
        case k.Arithmetic(_, left, right):
            return underlying_leaf(left) or underlying_leaf(right)
        case k.Call(_, arguments) if arguments:
            return underlying_leaf(arguments[0])
        case _:
            return None


def compared_constants(node: k.Expr) -> Iterator[tuple[Leaf, Any]]:
    """Yield each fact of a comparison with each constant with which it is compared."""
    match node:
        case k.Relation() if node.row.operands is k.Operands.PATTERN:
            return
        case k.Relation(_, left, right) | k.Call(_, (left, right)):
            for side, other in ((left, right), (right, left)):
                leaf = underlying_leaf(side)
                yield from [] if leaf is None else ((leaf, value) for value in constants_in(other))
        case _:
            return
