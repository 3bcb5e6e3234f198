"""Computes how large a question may be at an endpoint so that no decision exceeds its maximum steps.

If the rules of an endpoint stay below the maximum for every valid question, the endpoint has no limit. For questions
above a limit, `spec/step_count.py` counts the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from policyengine import kernel as k
from policyengine.compiler.lazy_sequence import LazySequence, head_at
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
    size_of,
    steps_of_guard,
    steps_of_part,
)
from policyengine.spec import work
from policyengine.spec.facts import MAX_HOPS
from policyengine.spec.trace import Block
from policyengine.spec.work import MAX_UNNOTICED_STEPS, head_steps, hop_steps

LONGEST_CAPTURE = 128  # steps of the longest text that a pattern captures
PAST = (256,)  # maximum bytes of a fact that the history stores
CLAIMS = ("credential", "claims")


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """Limits for the size of these `members` of a question. Up to the size `most`, a decision does not exceed its
    maximum steps; up to the size `at_once`, the decision does not delay other requests.
    """

    most: int
    at_once: int
    members: tuple[tuple[str, str], ...]

    def exceeded(self, question: Mapping[str, Any]) -> bool:
        """Return whether a member is larger than `most`. Each root of the question must be an object."""
        return self.most < MAX_ELEMENTS and self._larger(self.most, question)

    def takes_long(self, question: Mapping[str, Any]) -> bool:
        """Return whether a member is so large that other requests should not wait for the decision."""
        return self.at_once < MAX_ELEMENTS and self._larger(self.at_once, question)

    def _larger(self, most: int, question: Mapping[str, Any]) -> bool:
        if most < 0:
            return True
        return any(measure_extent(question[root].get(name)) > most for root, name in self.members if root in question)


@dataclass(frozen=True, slots=True)
class DirectorySizes:
    """The sizes of values with an entity store: `bound` is an upper bound for the facts that `with` binds, `claimed`
    are the attributes that a credential may claim, `attributes` the attributes that conditions read.
    """

    entities: EntitySizes
    bound: Steps
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
        if node.name == "id":  # `with` may bind the id of a resource
            return add_steps(held, max_steps(ANY_SIZE, self.bound))
        return add_steps(held, ANY_SIZE) if node.name in self.claimed else held

    def other(self, node: k.Expr) -> Steps:
        match node:
            case k.Fact(("params", *_)):
                return (LONGEST_CAPTURE,)
            case k.Fact(("chain", *_)):
                return (1, 1)
            case k.Fact():
                return max_steps(ANY_SIZE, self.bound)
            case k.PastFact():
                return PAST
            case _:
                largest = (max(map(self.entities.largest, self.attributes), default=0),)
                return add_steps(largest, max_steps(ANY_SIZE, self.bound))


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
    """Computes the size limit of an endpoint."""

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
        """Return the limit for these rules; None if every question is small enough."""
        if self._asking is None:
            self._asking = list(self._block_conditions())
        rules = [*self._asking, *grants, *((None, part) for part in parts)]
        unlimited, bound = UnlimitedSizes(self.entities.deepest), list(bound_expressions(parts))
        most = largest_bound(bound, unlimited, MAX_ELEMENTS + LONGEST_CAPTURE)
        if evaluate_steps(total(rules, self._cached_steps(unlimited)), most) <= min(
            work.MAX_STEPS, MAX_UNNOTICED_STEPS
        ):
            return None
        nodes = [node for _, part in rules for root in expressions(part) for node in k.walk(root)]
        sizes = self._sizes(bound, nodes)
        worst = total(rules, lambda part: steps_of_any(part, sizes))
        members = tuple(sorted(set(self._members(nodes))))
        return SizeLimit(largest_size(worst, work.MAX_STEPS), largest_size(worst, MAX_UNNOTICED_STEPS), members)

    def _block_conditions(self) -> Iterator[tuple[Block, object]]:
        """Yield the conditions that heads and requirements of all blocks test, at any endpoint, without grants."""
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

    def _cached_steps(self, sizes: Sizes) -> Callable[[object], Steps]:
        """Return a function that computes the steps of a part of the kernel once. Parts are never freed, so their ids
        stay valid.
        """

        def steps(part: object) -> Steps:
            found = self._steps.get(id(part))
            if found is None:
                found = self._steps[id(part)] = steps_of_any(part, sizes)
            return found

        return steps

    def _sizes(self, bound: Iterable[k.Expr], nodes: Iterable[k.Expr]) -> DirectorySizes:
        claimed = frozenset(attribute for issuer in self.kernel.issuers.values() for _, (_, attribute) in issuer.claims)
        read = frozenset(node.name for node in nodes if isinstance(node, k.Attribute) and node.name != "id")
        given = DirectorySizes(self.entities, NO_STEPS, claimed, read)
        return replace(given, bound=max_steps(*(size_of(one, given) for one in bound)))

    def _members(self, nodes: Iterable[k.Expr]) -> Iterator[tuple[str, str]]:
        """Yield the members of a question that these expressions read."""
        for node in nodes:
            if isinstance(node, k.Fact):
                yield from members_read(node.path)
        if any(issuer.claims for issuer in self.kernel.issuers.values()):
            yield CLAIMS


def members_read(path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the members of a question from which a fact is read."""
    match path:
        case ("chain", *_):
            return (("chain", "hops"), ("agent", "id"))
        case ("cluster", *_):
            return (("agent", "id"),)
        case ("tool",) | ("tool", "name" | "server"):
            return (("tool", "name"), ("tool", "server"))
        case (root,):
            return ((root, "id"),)
        case _:
            return (path[:2],)  # type: ignore[return-value]  # it has at least two parts


def bound_expressions(parts: Iterable[object]) -> Iterator[k.Expr]:
    """Yield the expressions that `with` binds."""
    return (expression for part in parts if isinstance(part, k.Binder) for _, expression in part.facts)


def largest_bound(bound: Iterable[k.Expr], sizes: Sizes, largest: int) -> int:
    """Return the largest size of a fact, if facts of the question have at most the size `largest`: `with` may bind
    larger facts.
    """
    return max([largest, *(evaluate_steps(size_of(one, sizes), largest) for one in bound)])


def total(rules: Iterable[tuple[Block | None, object]], steps: Callable[[object], Steps]) -> Steps:
    """Return the maximum steps that one question can take in these rules. A question has one name, so among the blocks
    that name a principal, only those with the most expensive name count.
    """
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
    """Return whether a single rule, or the blocks that may match a chain, may take so long that other requests should
    not wait. Always True for a bundle, because the answer would require decoding its rules.
    """
    if isinstance(kernel.guards, LazySequence):
        return True
    if any(issuer.records_chains for issuer in kernel.issuers.values()):
        at_hops = sum(head_steps(block) + hop_steps(block) for block in kernel.agents)
        if MAX_HOPS * at_hops > MAX_UNNOTICED_STEPS:
            return True
    rules = (*kernel.agents, *kernel.users, *kernel.anyones, *kernel.guards, *kernel.limits)
    return any(
        evaluate_steps(steps_of_any(rule, UnlimitedSizes()), MAX_ELEMENTS) > MAX_UNNOTICED_STEPS for rule in rules
    )
