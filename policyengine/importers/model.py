"""The middle of every import: what can be done, whoever described it. All texts in here are safe to write."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class ApiOperationKind(StrEnum):
    """How much an operation may break, the mildest first."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"

    @property
    def severity(self) -> int:
        return list(ApiOperationKind).index(self)


@dataclass(frozen=True, slots=True)
class PathSegment:
    """A part of a path: `text`, or a capture with text around it. A capture may be an entity's id."""

    text: str = ""
    capture: str = ""
    entity: str = ""
    before: str = ""
    after: str = ""

    @property
    def written(self) -> str:
        typed = f"{self.capture}: {self.entity}" if self.entity else self.capture
        return f"{self.before}{{{typed}}}{self.after}" if self.capture else self.text

    @property
    def shape(self) -> str:
        return f"{self.before}{{}}{self.after}" if self.capture else self.text

    def filled(self, value: str) -> str:
        return f"{self.before}{value}{self.after}" if self.capture else self.text


@dataclass(frozen=True, slots=True)
class HttpTemplate:
    method: str
    segments: tuple[PathSegment, ...]

    @property
    def written(self) -> str:
        return f"{self.method} /{'/'.join(segment.written for segment in self.segments)}"

    @property
    def key(self) -> str:
        """The same for every name that a capture may have."""
        return f"{self.method} /{'/'.join(segment.shape for segment in self.segments)}"

    @classmethod
    def of_key(cls, key: str) -> HttpTemplate:
        """Captures are called by their places."""
        method, _, path = key.partition(" /")
        return cls(method, tuple(_segment_of_key(part, i) for i, part in enumerate(path.split("/"), 1)) if path else ())

    @property
    def bare(self) -> HttpTemplate:
        """The same endpoints, and nothing bound."""
        return HttpTemplate.of_key(self.key)


def _segment_of_key(part: str, place: int) -> PathSegment:
    """What captures a whole segment and what captures a part of one are two things, and have two names."""
    before, capture, after = part.partition("{}")
    around = f"_{_letters(before)}_to_{_letters(after)}" if before or after else ""
    return PathSegment("", f"part_{place}{around}", "", before, after) if capture else PathSegment(part)


def _letters(text: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in text)


@dataclass(frozen=True, slots=True)
class ServerTool:
    server: str
    name: str
    written: str

    @property
    def key(self) -> str:
        return f"TOOL {self.server}/{self.name}"


OperationEndpoint: TypeAlias = HttpTemplate | ServerTool


@dataclass(frozen=True, slots=True)
class OperationFact:
    """A declared fact: `body.amount`, its type as the language writes it, and whether it may be absent."""

    name: str
    type: str
    optional: bool

    @property
    def written(self) -> str:
        return f"{self.name}: {self.type}{'?' if self.optional else ''}"


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """`asks` are the sets of OAuth scopes of which one is needed; none: no scope is asked for.

    `said` is its description as a digest, for operations whose words an agent reads. `wider` says that the pattern
    matches more than what was described.
    """

    endpoint: OperationEndpoint
    kind: ApiOperationKind
    area: str
    facts: tuple[OperationFact, ...] = ()
    asks: tuple[frozenset[str], ...] = ()
    summary: str = ""
    deprecated: bool = False
    wider: bool = False
    said: str = ""

    @property
    def key(self) -> str:
        return self.endpoint.key


@dataclass(frozen=True, slots=True)
class Api:
    """`notes` say what the language cannot say and what was therefore left out or made narrower."""

    kind: str  # `openapi` or `mcp`
    source: str
    name: str
    operations: tuple[ApiOperation, ...]
    notes: tuple[str, ...] = ()
