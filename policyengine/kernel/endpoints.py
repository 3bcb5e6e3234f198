"""The kernel's endpoints: patterns of paths, tools and actions, and the places of rules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.base import Node

# The texts that a literal of a path matches: only itself, also texts that differ in the case of ASCII letters, or all
# texts that some server may treat as the same. Each mode includes the previous one.
Folding: TypeAlias = Word["none", "ascii", "full"]
FOLDINGS: tuple[Folding, ...] = ("none", "ascii", "full")


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a path pattern: `prefix`, then any non-empty text, then `suffix`. A literal segment is `prefix`
    alone, with `wild` False."""

    prefix: str
    wild: bool = False
    suffix: str = ""
    capture: str | None = None
    entity: str | None = None


@dataclass(frozen=True, slots=True)
class HttpPattern(Node):
    """A pattern of HTTP endpoints. `methods` None means every method; `rest` is a final `**`: zero or more segments.
    Methods are never folded."""

    methods: tuple[str, ...] | None
    segments: tuple[Segment, ...]
    rest: bool = False
    folding: Folding = "none"


@dataclass(frozen=True, slots=True)
class ToolPattern(Node):
    """`server/name`, where `*` matches any run of characters."""

    glob: str


@dataclass(frozen=True, slots=True)
class ActionPattern(Node):
    verb: str
    type: str


Pattern: TypeAlias = HttpPattern | ToolPattern | ActionPattern


def with_folding(pattern: Pattern, folding: Folding) -> Pattern:
    """Return the pattern with another folding. Tools and actions have only one spelling, so they stay unchanged."""
    if not isinstance(pattern, HttpPattern) or pattern.folding == folding:
        return pattern
    return replace(pattern, folding=folding)


@dataclass(frozen=True, slots=True)
class Place(Node):
    """The endpoints to which a rule applies: any of `patterns` (None: all, including tools and actions) except
    `excepts`.

    `patterns` are fully folded, so that another spelling does not bypass a guard. `excepts` are not folded, so that an
    exclusion covers no more than was written.
    """

    patterns: tuple[Pattern, ...] | None
    excepts: tuple[Pattern, ...] = ()
