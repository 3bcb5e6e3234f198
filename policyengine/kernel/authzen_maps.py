"""The kernel's maps from AuthZEN questions to questions of this policy. Maps grant nothing. The package re-exports this
module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.base import Node

MapPath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MapSubject(Node):
    """Subjects of this type are callers. `issuer` vouches for them; None if no issuer is named."""

    type: str
    becomes: Word["user", "agent"]
    issuer: str | None


@dataclass(frozen=True, slots=True)
class MapResource(Node):
    """Resources of type `type` are entities of type `entity`."""

    type: str
    entity: str


@dataclass(frozen=True, slots=True)
class MapFact(Node):
    """A fact from a member of the question.

    `path` is the fact or, with two parts and `entity`, an attribute of the subject or of the resource. `source` is the
    member of the AuthZEN question (`("resource", "properties", "status")`).
    """

    path: MapPath
    source: MapPath
    entity: bool


@dataclass(frozen=True, slots=True)
class MapSegment(Node):
    """One segment of a path: `text`, followed by the value of `source` and by `after` if there is a source."""

    text: str
    source: MapPath | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class MapHttp(Node):
    method: str
    segments: tuple[MapSegment, ...]


@dataclass(frozen=True, slots=True)
class MapTool(Node):
    """The tool with this name. A `glob` with a star maps to the tool that the resource names, if the name matches."""

    glob: str


@dataclass(frozen=True, slots=True)
class MapVerb(Node):
    """An action on the entity of that type with the resource's id."""

    verb: str
    type: str


MapEndpoint: TypeAlias = MapHttp | MapTool | MapVerb


@dataclass(frozen=True, slots=True)
class MapAction(Node):
    """A mapped action: its name, on a resource of type `on` (None: any), becomes a question for `endpoint` with these
    `facts`."""

    name: str
    on: str | None
    endpoint: MapEndpoint
    facts: tuple[MapFact, ...]


MapItem: TypeAlias = MapSubject | MapResource | MapAction | MapFact
