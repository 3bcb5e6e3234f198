"""Values to choose from for a fact: those that conditions hold against it, what lies beside them, and usual ones."""

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
    """Which of several things is taken; the first is the likeliest."""

    def of(self, things: Sequence[Item]) -> Item: ...

    def chance(self, one_in: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class FirstChoice:
    """Always the first, never by chance."""

    def of(self, things: Sequence[Item]) -> Item:
        return things[0]

    def chance(self, one_in: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ValuePools:
    """`by_slot` are the values that conditions hold against a fact, and those beside them.

    `usual` returns the values of a leaf, given those of its slot; `step` is from one time or duration to the next.
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
        """Values of the leaf's own type, those that its conditions name first."""
        return self.usual(leaf, self.by_slot.get(pool_key(leaf), ()))


def pool_key(leaf: Leaf) -> PoolKey:
    """The slot of a leaf's constants: attributes and members share one by their name, of whichever holder."""
    return leaf.path if isinstance(leaf, k.Fact) else ("", leaf.name)


def underlying_leaf(node: k.Expr) -> Leaf | None:
    """The fact that an operand is, or is made of in a way that keeps its values."""
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
    """Each fact of a comparison with each constant that it is held against."""
    match node:
        case k.Relation() if node.row.operands is k.Operands.PATTERN:
            return
        case k.Relation(_, left, right) | k.Call(_, (left, right)):
            for side, other in ((left, right), (right, left)):
                leaf = underlying_leaf(side)
                yield from [] if leaf is None else ((leaf, value) for value in constants_in(other))
        case _:
            return
