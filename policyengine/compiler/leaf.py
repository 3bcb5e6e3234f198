"""What stands at one endpoint: the doors of agents and users, and the guards, as functions by who may come through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyengine.compiler.charging import Take, Taker
from policyengine.compiler.rules import Act, OutsideTask, Rule
from policyengine.compiler.sizes import SizeLimit
from policyengine.runtime.patterns import Glob


class Doors(dict[str | None, Any]):
    """Rules by a name; until one is asked for, the numbers of its blocks stand in its place."""

    def __init__(self, blocks: Mapping[str, Iterable[int]], make: Callable[[Sequence[int]], Rule]) -> None:
        super().__init__((name, tuple(numbers)) for name, numbers in blocks.items())
        self.make = make

    def made(self, name: str | None) -> Rule:
        rule: Any = self[name]
        if type(rule) is tuple:
            rule = self[name] = self.make(rule)
        made: Rule = rule
        return made


@dataclass(frozen=True, slots=True)
class Side:
    """Doors by who may come through them. `groups` and `globs` are empty and `others` is None where nobody is meant."""

    names: Doors
    groups: Doors
    globs: tuple[tuple[Glob, Rule], ...]
    others: Rule | None

    more: bool = field(init=False)  # whether there are any but those by name
    each: bool = field(init=False)  # whether there are any but those by name and by group

    def __post_init__(self) -> None:
        object.__setattr__(self, "each", bool(self.globs or self.others))
        object.__setattr__(self, "more", bool(self.groups or self.each))


@dataclass(frozen=True, slots=True)
class Leaf:
    """What stands at one endpoint: doors for agents, for users who call themselves, for users served by an agent.

    `standing_…` have no doors but tell whether a block stands. `covering` is for deciding with care.
    """

    agents: Side
    users: Side
    served: Side
    anyone: Rule | None
    guards: Rule | None
    task: Rule | None  # what of its task bounds a request here, and it lies outside of
    acts: list[Act | OutsideTask]
    limits: Rule | None  # rates and budgets
    taker: Taker | None
    take: Take | None  # what the taker does
    by_agent: bool  # whether it takes by the agent alone
    counting: bool  # whether one of them counts what is denied, or that is remembered
    records: Rule | None  # what is remembered of an allowed request
    recalls: bool  # whether anything here asks for the past, or is remembered
    told_agents: Side
    told_users: Side
    told_served: Side
    told_anyone: Rule | None
    standing_agents: Side
    standing_users: Side
    verdicts: dict[object, Any]  # see verdicts.py
    takes_parts: bool
    sizes: SizeLimit | None  # of what questions bring, where large ones may take more steps than a decision has
    covering: Covering


@dataclass(frozen=True, slots=True)
class Covering:
    """Numbers in the kernel's lists."""

    agents: frozenset[int]
    users: frozenset[int]
    anyones: frozenset[int]
    hands: frozenset[int]
    guards: tuple[int, ...]
    binders: tuple[int, ...]
    limits: tuple[int, ...]
    watches: tuple[int, ...]
