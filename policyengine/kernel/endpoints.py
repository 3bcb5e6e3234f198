"""The kernel's endpoints: what a path, a tool or an action must look like, and where a rule applies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.base import Node

# Which texts of a request a literal of a path matches: itself, those that differ in the case of ASCII letters, or all
# that some server may take for the same. Each is a part of the next.
Folding: TypeAlias = Word["none", "ascii", "full"]
FOLDINGS: tuple[Folding, ...] = ("none", "ascii", "full")


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a path pattern: `prefix` + anything not empty + `suffix`; a plain literal has `wild` False."""

    prefix: str
    wild: bool = False
    suffix: str = ""
    capture: str | None = None
    entity: str | None = None


@dataclass(frozen=True, slots=True)
class HttpPattern(Node):
    """`methods` None is every method; `rest` is a last `**`: zero or more segments. Methods are never folded."""

    methods: tuple[str, ...] | None
    segments: tuple[Segment, ...]
    rest: bool = False
    folding: Folding = "none"


@dataclass(frozen=True, slots=True)
class ToolPattern(Node):
    """`server/name`, where `*` is any run of characters."""

    glob: str


@dataclass(frozen=True, slots=True)
class ActionPattern(Node):
    verb: str
    type: str


Pattern: TypeAlias = HttpPattern | ToolPattern | ActionPattern


def with_folding(pattern: Pattern, folding: Folding) -> Pattern:
    """The pattern as it matches with another folding; tools and actions have one spelling."""
    if not isinstance(pattern, HttpPattern) or pattern.folding == folding:
        return pattern
    return replace(pattern, folding=folding)


@dataclass(frozen=True, slots=True)
class Place(Node):
    """Where a rule applies: any of `patterns` (None: everywhere, tools and actions too) but none of `excepts`.

    What closes is not passed by another spelling, and what is taken out is no more than what was written: `patterns`
    are fully folded, `excepts` are not.
    """

    patterns: tuple[Pattern, ...] | None
    excepts: tuple[Pattern, ...] = ()
