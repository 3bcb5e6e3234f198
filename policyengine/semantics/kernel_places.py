"""The kernel's endpoints: what a path, a tool or an action must look like, and where a rule applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from policyengine.semantics.part import Part


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a path pattern: `prefix` + anything not empty + `suffix`; a plain literal has `wild` False."""

    prefix: str
    wild: bool = False
    suffix: str = ""
    capture: str | None = None
    entity: str | None = None


@dataclass(frozen=True, slots=True)
class HttpPattern(Part):
    """`methods` None is every method; `rest` is a last `**`: zero or more segments."""

    methods: tuple[str, ...] | None
    segments: tuple[Segment, ...]
    rest: bool = False


@dataclass(frozen=True, slots=True)
class ToolPattern(Part):
    """`server/name`, where `*` is any run of characters."""

    glob: str


@dataclass(frozen=True, slots=True)
class ActionPattern(Part):
    verb: str
    type: str


Pattern: TypeAlias = HttpPattern | ToolPattern | ActionPattern


@dataclass(frozen=True, slots=True)
class Place(Part):
    """Where a rule applies: any of `patterns` (None: everywhere, tools and actions too) but none of `excepts`."""

    patterns: tuple[Pattern, ...] | None
    excepts: tuple[Pattern, ...] = ()
