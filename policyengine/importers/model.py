"""The operations of an API, the common form of all imports. All texts in operations are safe to write into policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from policyengine.importers.uri_patterns import UriPattern
from policyengine.tool_pins.definitions import Definition


class ApiOperationKind(StrEnum):
    """The possible damage of an operation, from least to most."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"

    @property
    def severity(self) -> int:
        return list(ApiOperationKind).index(self)


@dataclass(frozen=True, slots=True)
class PathSegment:
    """A segment of a path: `text`, or a capture with text around it. A capture may be the id of an entity. If `wider`
    is true, the capture matches more than the segment of the template, which has several captures.
    """

    text: str = ""
    capture: str = ""
    entity: str = ""
    before: str = ""
    after: str = ""
    wider: bool = field(default=False, compare=False)

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
        """The endpoint without the names of its captures."""
        return f"{self.method} /{'/'.join(segment.shape for segment in self.segments)}"

    @classmethod
    def of_key(cls, key: str) -> HttpTemplate:
        """Return the template of a key; captures are named by their positions."""
        method, _, path = key.partition(" /")
        return cls(method, tuple(_segment_of_key(part, i) for i, part in enumerate(path.split("/"), 1)) if path else ())

    @property
    def bare(self) -> HttpTemplate:
        """The same endpoints without bindings."""
        return HttpTemplate.of_key(self.key)


def _segment_of_key(part: str, place: int) -> PathSegment:
    """Return the segment that a part of a key describes. The name of a capture of a part of a segment contains the text
    around the capture, because captures with different texts around them are different.
    """
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
    """A declared fact: its name (`body.amount`), its type in the language, and whether it may be absent."""

    name: str
    type: str
    optional: bool

    @property
    def written(self) -> str:
        return f"{self.name}: {self.type}{'?' if self.optional else ''}"


@dataclass(frozen=True, slots=True)
class DeclaredAction:
    """An action on a type of entity that a tool declares for AuthZEN, and the facts of its context."""

    verb: str
    type: str
    facts: tuple[OperationFact, ...] = ()

    @property
    def written(self) -> str:
        return f"ACTION {self.verb} {self.type}"


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """An operation of an API.

    `asks` contains sets of OAuth scopes, and a token needs all scopes of one set; if `asks` is empty, no scope is
    required. `said` is a digest of the description, for operations whose description an agent reads. `wider` means that
    the pattern matches more than the described path. `actions` are those that a tool declares for AuthZEN.
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
    actions: tuple[DeclaredAction, ...] = ()

    @property
    def key(self) -> str:
        return self.endpoint.key


class OfferKind(StrEnum):
    """The kinds of offers that an MCP server has besides tools."""

    RESOURCE = "resource"
    TEMPLATE = "template"
    PROMPT = "prompt"
    LOGGING = "logging"


OFFER_ENDPOINTS = {
    OfferKind.RESOURCE: "ACTION read mcp_resource",
    OfferKind.TEMPLATE: "ACTION read mcp_resource",
    OfferKind.PROMPT: "ACTION get mcp_prompt",
    OfferKind.LOGGING: "ACTION log mcp_client",
}


@dataclass(frozen=True, slots=True)
class ServerOffer:
    """A resource (its name is the canonical URI), a template with its `patterns` (its name is the first), or a prompt
    with its `arguments`. `said` is a digest of the description, `summary` a quoted comment."""

    kind: OfferKind
    server: str
    name: str
    patterns: tuple[UriPattern, ...] = ()
    arguments: tuple[str, ...] = ()
    summary: str = ""
    said: str = ""

    @property
    def key(self) -> str:
        return f"{OFFER_ENDPOINTS[self.kind]} {self.name}"


@dataclass(frozen=True, slots=True)
class McpOffers:
    """The offers of a server besides tools. `left_out` contains kinds and reasons; `is_complete` says that the server
    itself was asked, so that its capabilities are known."""

    server: str = ""
    listed: tuple[ServerOffer, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class Api:
    """An API and its operations. `notes` lists the parts that the language cannot express, and that were left out or
    restricted. `server` is the name of the server of tools, and `listings` are its lists of tools by version of the
    protocol.
    """

    kind: str  # `openapi` or `mcp`
    source: str
    name: str
    operations: tuple[ApiOperation, ...]
    notes: tuple[str, ...] = ()
    offers: McpOffers = field(default_factory=McpOffers)
    server: str = ""
    listings: Mapping[str, Sequence[Definition]] = field(default_factory=dict)
