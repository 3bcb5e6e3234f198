"""The work of one decision in steps, which are limited. Steps are counted from the sizes of collections, never with a
clock. The policy bounds the work outside loops. For each element, a loop takes as many steps as its condition has
parts. Other operations whose time depends on the size of a collection or text take steps in proportion to that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from policyengine import kernel as k
from policyengine.kernel.base import Node
from policyengine.runtime.value_sets import ValueSet
from policyengine.runtime.value_size import CHARACTERS_PER_STEP
from policyengine.runtime.values import Unknown, Value

MAX_STEPS = 200_000
MAX_UNNOTICED_STEPS = 10_000  # too few for a noticeable delay
STEPS_PER_BLOCK_PART = 4  # steps of a part of a block, which takes longer than a part of a condition

STEPS_EXCEEDED = Unknown.of("the decision", f"it takes more than {MAX_STEPS:,} steps")
NOT_CONCERNED = Unknown.of("the rule", "it applies to other callers")


@dataclass(slots=True)
class RuleSteps:
    """The steps of one rule, and the largest size of each of its collections by expression."""

    steps: int = 0
    sizes: dict[int, tuple[k.Expr, int]] = field(default_factory=dict)


@dataclass(slots=True)
class StepCounter:
    """The steps of one decision. `rule` is the current rule.

    Above `most` steps, every loop is unknown, so that the rest takes no time; the result is then discarded.
    """

    most: int = field(default_factory=lambda: MAX_STEPS)
    steps: int = 0
    rule: Node | None = None
    concerned: bool = True
    tallies: dict[int, tuple[Node | None, RuleSteps]] = field(default_factory=dict)
    sets: dict[int, tuple[object, ValueSet]] = field(default_factory=dict)
    hashed: dict[int, object] = field(default_factory=dict)

    @property
    def exceeded(self) -> bool:
        return self.steps > self.most

    def lacks(self, steps: int, *sized: tuple[k.Expr, Sized]) -> Unknown | None:
        """Count steps before they are taken. Return the Unknown that replaces the result if too few are left; else
        None."""
        if not self.concerned:
            return NOT_CONCERNED
        if self.exceeded:
            return STEPS_EXCEEDED
        self.steps += steps
        _, tally = self.tallies.setdefault(id(self.rule), (self.rule, RuleSteps()))
        tally.steps += steps
        for node, value in sized:
            before = tally.sizes.get(id(node))
            if before is None or before[1] < len(value):
                tally.sizes[id(node)] = node, len(value)
        return STEPS_EXCEEDED if self.steps > self.most else None

    def set_of(self, elements: tuple[Value, ...]) -> ValueSet:
        """Return the elements as a set, cached for each tuple."""
        known = self.sets.get(id(elements))
        if known is None:
            known = self.sets[id(elements)] = elements, ValueSet.of(elements)
        return known[1]

    def lacks_to_hash(self, elements: tuple[Value, ...]) -> Unknown | None:
        """Count the elements of nested collections, once for each tuple."""
        if id(elements) in self.hashed:
            return None
        inner = count_elements(elements) - len(elements)
        lacking = self.lacks(inner) if inner else None
        if lacking is None:
            self.hashed[id(elements)] = elements
        return lacking

    @contextmanager
    def only_if(self, concerned: bool) -> Iterator[None]:
        """Disable loops inside the block unless `concerned`, so that rules about other callers take no steps."""
        self.concerned = concerned
        yield
        self.concerned = True

    @property
    def dearest(self) -> tuple[Node | None, RuleSteps]:
        """The rule with the most steps; the first one if several have the same number."""
        return max(self.tallies.values(), key=lambda one: one[1].steps)


@dataclass(frozen=True, slots=True)
class ExpressionIdentity:
    """An expression compared by identity, because hashing its content takes longer than evaluating it."""

    node: k.Expr

    def __hash__(self) -> int:
        return id(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpressionIdentity) and self.node is other.node


def weight(condition: k.Expr) -> int:
    """Return the number of parts of a condition that are evaluated for each element of a loop around it."""
    return _weight(ExpressionIdentity(condition))


@lru_cache(maxsize=4_096)
def _weight(condition: ExpressionIdentity) -> int:
    return 1 + sum(weight(part) for part in parts_evaluated_once(condition.node))


def event_weight(event: k.EventPattern) -> int:
    """Return the number of parts that are evaluated for each event of a history."""
    return 1 if event.where is None else 1 + weight(event.where)


def head_steps(block: k.AgentBlock) -> int:
    """Return the steps for each hop to find out whether a block matches it: 0 unless the block has a condition."""
    return STEPS_PER_BLOCK_PART * weight(block.who.condition) if isinstance(block.who, k.PrincipalCondition) else 0


def hop_steps(block: k.AgentBlock) -> int:
    """Return the steps for each hop of a block that may match it: its requirements, grants and delegations."""
    conditions = [one.condition for one in block.requirements if isinstance(one, k.ActsFor)]
    conditions += [one.when for one in block.grants] + [one.when for one in block.delegates]
    patterns = sum(len(one.openings) for one in block.grants) + sum(len(one.patterns) for one in block.delegates)
    parts = sum(weight(one) for one in conditions if one is not None)
    return STEPS_PER_BLOCK_PART * (1 + len(block.requirements) + patterns + parts)


def parts_evaluated_once(node: k.Expr) -> Iterator[k.Expr]:
    """Yield the parts that are evaluated once with the expression. Inner loops count their own conditions."""
    match node:
        case k.Quantifier(_, _, domain, _):
            yield domain
        case k.Relation() if node.row.operands is k.Operands.PATTERN:
            yield node.left  # the pattern is part of the relation
        case k.HistoryCondition(event, _, since) | k.Aggregate(_, _, event, _, since):
            yield from (key for one in (event, since) if one is not None for key in one.keys or ())
        case _:
            yield from k.children(node)


def is_fixed(node: k.Expr) -> bool:
    """Return whether the value is read once in a decision: a constant, a fact, or an attribute of one."""
    while isinstance(node, k.Attribute | k.DefinitionRef):
        node = node.base if isinstance(node, k.Attribute) else node.expression
    return isinstance(node, k.Constant | k.Fact)


def reading_steps(*values: object) -> int:
    """Return the steps to read texts and collections, including the texts in them."""
    return sum(
        len(one) // CHARACTERS_PER_STEP if isinstance(one, str) else len(one) + reading_steps(*one)
        for one in values
        if isinstance(one, str | tuple)
    )


def count_elements(value: object) -> int:
    """Return the number of elements of a collection, including nested ones; 0 for other values."""
    if not isinstance(value, tuple):
        return 0
    return len(value) + sum([count_elements(one) for one in value if isinstance(one, tuple)])
