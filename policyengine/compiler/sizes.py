"""How large what a question brings may be, so that no rule at an endpoint takes more steps than a decision has.

Where rules are so few and so plain that any question is small enough, nothing is asked. Else the steps of larger ones
are counted (`spec/step_count.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from policyengine import kernel as k
from policyengine.compiler.lazy_sequence import head_at
from policyengine.compiler.tree import Tree
from policyengine.runtime.snapshot import EntitySizes
from policyengine.runtime.value_size import measure_extent
from policyengine.runtime.values import MAX_ELEMENTS
from policyengine.solver.worst_case import (
    ANY_SIZE,
    NO_STEPS,
    Sizes,
    Steps,
    UnlimitedSizes,
    add_steps,
    evaluate_steps,
    expressions,
    largest_size,
    max_steps,
    steps_of_guard,
    steps_of_part,
)
from policyengine.spec import work
from policyengine.spec.facts import MAX_HOPS
from policyengine.spec.trace import Block
from policyengine.spec.work import MAX_UNNOTICED_STEPS, head_steps, hop_steps

LONGEST_CAPTURE = 128  # in steps
PAST = (256,)  # bytes that are kept of a fact
CLAIMS = ("credential", "claims")


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The largest that these members of a question may be: for all steps that a decision has, and for so few that
    nobody has to wait."""

    most: int
    at_once: int
    members: tuple[tuple[str, str], ...]

    def exceeded(self, question: Mapping[str, Any]) -> bool:
        """Whether one of them is larger; a question of which each root is an object."""
        return self.most < MAX_ELEMENTS and self._larger(self.most, question)

    def takes_long(self, question: Mapping[str, Any]) -> bool:
        """Whether one of them is so large that others should not wait for the decision."""
        return self.at_once < MAX_ELEMENTS and self._larger(self.at_once, question)

    def _larger(self, most: int, question: Mapping[str, Any]) -> bool:
        if most < 0:
            return True
        return any(measure_extent(question[root].get(name)) > most for root, name in self.members if root in question)


@dataclass(frozen=True, slots=True)
class DirectorySizes:
    """Sizes by a directory: `literal` is the largest that `with` binds, `claimed` are the attributes that a credential
    may say, `attributes` those that are read at all."""

    entities: EntitySizes
    literal: int
    claimed: frozenset[str]
    attributes: frozenset[str]

    @property
    def above(self) -> int:
        return self.entities.deepest

    @property
    def names(self) -> Steps:
        return (max(map(self.entities.largest, self.attributes), default=0), 1)

    def attribute(self, node: k.Attribute) -> Steps:
        own = max(self.entities.largest(node.name), LONGEST_CAPTURE if node.name == "id" else 0)
        held = (own * (1 + self.above),) if node.inherited else (own,)
        return add_steps(held, ANY_SIZE) if node.name in self.claimed or node.name == "id" else held

    def other(self, node: k.Expr) -> Steps:
        match node:
            case k.Fact(("params", *_)):
                return (LONGEST_CAPTURE,)
            case k.Fact(("chain", *_)):
                return (1, 1)
            case k.Fact():
                return (self.literal, 1)
            case k.PastFact():
                return PAST
            case _:
                return (self.literal + max(map(self.entities.largest, self.attributes), default=0), 1)


@dataclass(frozen=True)
class LargestSizes:
    """The sizes of several entity stores together."""

    stores: tuple[EntitySizes, ...]
    _largest: dict[str, int] = field(default_factory=dict, repr=False)

    def largest(self, name: str) -> int:
        if name not in self._largest:
            self._largest[name] = max((store.largest(name) for store in self.stores), default=0)
        return self._largest[name]

    @cached_property
    def deepest(self) -> int:
        return max((store.deepest for store in self.stores), default=0)


@dataclass(frozen=True, slots=True)
class AnySizes:
    """The sizes of entity stores that are not known yet."""

    def largest(self, name: str) -> int:
        return MAX_ELEMENTS

    @property
    def deepest(self) -> int:
        return MAX_ELEMENTS


@dataclass(slots=True)
class Limiting:
    """Finds the limit of each leaf."""

    kernel: k.Kernel
    entities: EntitySizes
    tree: Tree
    _steps: dict[int, Steps] = field(default_factory=dict)
    _asking: list[tuple[Block, object]] | None = None

    def limit(
        self,
        parts: Sequence[k.Guard | k.Limit | k.Binder],
        grants: Sequence[tuple[Block, k.Grant]],
    ) -> SizeLimit | None:
        """None where any question is small enough."""
        if self._asking is None:
            self._asking = list(self._asked())
        rules = [*self._asking, *grants, *((None, part) for part in parts)]
        unlimited = UnlimitedSizes(self.entities.deepest)
        if evaluate_steps(total(rules, self._known(unlimited)), MAX_ELEMENTS + LONGEST_CAPTURE) <= min(
            work.MAX_STEPS, MAX_UNNOTICED_STEPS
        ):
            return None
        nodes = [node for _, part in rules for root in expressions(part) for node in k.walk(root)]
        sizes = self._sizes(parts, nodes)
        worst = total(rules, lambda part: steps_of_any(part, sizes))
        members = tuple(sorted(set(self._members(nodes))))
        return SizeLimit(largest_size(worst, work.MAX_STEPS), largest_size(worst, MAX_UNNOTICED_STEPS), members)

    def _asked(self) -> Iterator[tuple[Block, object]]:
        """What blocks ask of who asks, wherever their doors are. Their grants are not needed."""
        blocks: list[k.AgentBlock | k.UserBlock] = [
            head_at(self.kernel.agents, number) for number in self.tree.agents.asking
        ]
        blocks += [head_at(self.kernel.users, number) for number in self.tree.users.asking]
        for block in blocks:
            if isinstance(block.who, k.PrincipalCondition):
                yield block, block.who
            for one in block.requirements:
                if isinstance(one, k.ActsFor) and one.condition is not None:
                    yield block, one

    def _known(self, sizes: Sizes) -> Callable[[object], Steps]:
        """Found once for each part of the kernel, all of which stay."""

        def steps(part: object) -> Steps:
            found = self._steps.get(id(part))
            if found is None:
                found = self._steps[id(part)] = steps_of_any(part, sizes)
            return found

        return steps

    def _sizes(self, parts: Iterable[k.Node], nodes: Iterable[k.Expr]) -> DirectorySizes:
        literals = (
            measure_extent(node.value)
            for part in parts
            if isinstance(part, k.Binder)
            for root in expressions(part)
            for node in k.walk(root)
            if isinstance(node, k.Constant)
        )
        claimed = (attribute for issuer in self.kernel.issuers.values() for _, (_, attribute) in issuer.claims)
        read = (node.name for node in nodes if isinstance(node, k.Attribute) and node.name != "id")
        return DirectorySizes(self.entities, max(literals, default=0), frozenset(claimed), frozenset(read))

    def _members(self, nodes: Iterable[k.Expr]) -> Iterator[tuple[str, str]]:
        """Where a question says what these read."""
        for node in nodes:
            if isinstance(node, k.Fact) and len(node.path) > 1:
                yield node.path[0], node.path[1]
        if any(issuer.claims for issuer in self.kernel.issuers.values()):
            yield CLAIMS


def total(rules: Iterable[tuple[Block | None, object]], steps: Callable[[object], Steps]) -> Steps:
    """All that can be looked at for one question: of blocks about one name, those of one name."""
    others, by_name = NO_STEPS, dict[tuple[type[Block], str], Steps]()
    for block, part in rules:
        found = steps(part)
        match block:
            case k.AgentBlock(who=k.ExactName(name)) | k.UserBlock(who=k.ExactName(name)) if found:
                by_name[type(block), name] = add_steps(by_name.get((type(block), name), NO_STEPS), found)
            case _:
                others = add_steps(others, found)
    dearest = (
        max_steps(*(one for (kind, _), one in by_name.items() if kind is of)) for of in (k.AgentBlock, k.UserBlock)
    )
    return add_steps(others, *dearest)


def steps_of_any(part: object, sizes: Sizes) -> Steps:
    return steps_of_guard(part, sizes) if isinstance(part, k.Guard) else steps_of_part(part, sizes)


def loops(kernel: k.Kernel) -> bool:
    """Whether a rule alone may take so long that others should not wait, or the blocks that may speak for a chain."""
    if any(issuer.records_chains for issuer in kernel.issuers.values()):
        at_hops = sum(head_steps(block) + hop_steps(block) for block in kernel.agents)
        if MAX_HOPS * at_hops > MAX_UNNOTICED_STEPS:
            return True
    rules = (*kernel.agents, *kernel.users, *kernel.anyones, *kernel.guards, *kernel.limits)
    return any(
        evaluate_steps(steps_of_any(rule, UnlimitedSizes()), MAX_ELEMENTS) > MAX_UNNOTICED_STEPS for rule in rules
    )
