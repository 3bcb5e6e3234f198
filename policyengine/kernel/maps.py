"""The kernel's maps: how a question of AuthZEN becomes one of ours. They open no door; the package exports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.base import Node

MapPath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MapSubject(Node):
    """Subjects of this type are who asks, and `issuer` is who vouches for them; None: nobody is said to."""

    type: str
    becomes: Word["user", "agent"]
    issuer: str | None


@dataclass(frozen=True, slots=True)
class MapResource(Node):
    """Resources of this type are entities of that one."""

    type: str
    entity: str


@dataclass(frozen=True, slots=True)
class MapFact(Node):
    """`path` is a fact of the question or, with two steps and an `entity`, an attribute of who asks or of what is asked
    for; `source` is where the other protocol has it (`("resource", "properties", "status")`)."""

    path: MapPath
    source: MapPath
    entity: bool


@dataclass(frozen=True, slots=True)
class MapSegment(Node):
    """One segment of a path: `text`, or what stands between `text` and `after` is told by `source`."""

    text: str
    source: MapPath | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class MapHttp(Node):
    method: str
    segments: tuple[MapSegment, ...]


@dataclass(frozen=True, slots=True)
class MapTool(Node):
    """The tool of this name; a `glob` with a star means the tool that the resource names, if it fits."""

    glob: str


@dataclass(frozen=True, slots=True)
class MapVerb(Node):
    """An action on the entity of that type that has the resource's id."""

    verb: str
    type: str


MapEndpoint: TypeAlias = MapHttp | MapTool | MapVerb


@dataclass(frozen=True, slots=True)
class MapAction(Node):
    """An action of this name, on a resource of the type `on` (None: of any), asks for `endpoint` with these `facts`."""

    name: str
    on: str | None
    endpoint: MapEndpoint
    facts: tuple[MapFact, ...]


MapItem: TypeAlias = MapSubject | MapResource | MapAction | MapFact
