"""The editor of drafts: it gives values to operands, starting with the entities and records that contain them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyengine import kernel as k
from policyengine.solver.witness.draft import Draft, read, write
from policyengine.solver.witness.pools import Choice, FirstChoice, Leaf, ValuePools, underlying_leaf
from policyengine.solver.witness.values import adjacent_values, other_values, sample_values, typed_value, unique_values
from policyengine.typesystem import EntityRef


@dataclass(slots=True)
class DraftEditor:
    """Reads and changes operands of one draft. `forbidden` are items that a collection must not contain."""

    draft: Draft
    pools: ValuePools
    choose: Choice = field(default_factory=FirstChoice)
    forbidden: Mapping[k.Expr, Sequence[Any]] = field(default_factory=dict)

    def value(self, node: k.Expr) -> Any:
        """Return the current value of an operand, or None if it has none."""
        return read(self.draft, node)

    def settle(self, node: k.Expr) -> Any:
        """Return the value of an operand, and choose one if it has none."""
        value, leaf = self.value(node), underlying_leaf(node)
        if value is None and leaf is not None:
            self.put(leaf, self.choose.of(self.pools.values(leaf)))
            value = self.value(node)
        return value

    def put(self, node: k.Expr, value: Any) -> bool:
        """Set the value of an operand. Return whether the draft accepted it."""
        self._settle_holder(underlying_leaf(node))
        return write(self.draft, node, value)

    def put_any(self, node: k.Expr, values: Iterable[Any]) -> bool:
        every = tuple(values)
        return bool(every) and self.put(node, self.choose.of(every))

    def remove(self, leaf: k.Expr) -> bool:
        """Make a fact absent, and return whether that succeeded. An attribute is only absent if its entity has a row
        without it, so the row is added.
        """
        match leaf:
            case k.Fact(path):
                return self.draft.remove_fact(path)
            case k.Attribute(base, name):
                holder = self.settle(base)
                if not isinstance(holder, EntityRef):
                    return False
                self.draft.add_row(holder)
                return self.draft.remove_attribute(holder, name)
            case k.Member(base, name):
                record = self.value(base)
                if not isinstance(record, Mapping) or name not in record:
                    return False
                return self.put(base, {other: value for other, value in record.items() if other != name})
            case _:
                return False

    def candidates(self, side: k.Expr, value: Any) -> list[Any]:
        """Return candidate values of a side that have its type: the value of the other side and its neighbors, the
        values in this side's pool, then other values of the type."""
        leaf = underlying_leaf(side)
        known = () if leaf is None or leaf.type != side.type else self.pools.values(leaf)
        every = (value, *adjacent_values(value, self.pools.step), *known, *other_values(value))
        return unique_values(one for one in every if typed_value(one, side.type) is not None)

    def elements(self, collection: k.Expr) -> list[Any]:
        """Return candidate elements of a collection: those in the pool first, then common ones of its type."""
        leaf = underlying_leaf(collection)
        every = (*(() if leaf is None else self.pools.values(leaf)), *sample_values(collection.type))
        return unique_values(one for value in every if isinstance(value, tuple) for one in value)

    def _settle_holder(self, leaf: Leaf | None) -> None:
        if isinstance(leaf, k.Attribute | k.Member) and self.value(leaf.base) is None:
            self.settle(leaf.base)
