"""Tables of a bundle, to which its parts refer by number: sources, types of expressions, patterns of endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, msgpack

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.compiler.tree import PatternNumbers, TreeBuilder
from policyengine.source import Source, Span

Index: TypeAlias = Annotated[int, Meta(ge=0)]


class BundleDataError(Exception):
    """The error for data that the compiler did not write; the text gives the reason."""


# ── Patterns ──────────────────────────────────────────────────────────────────────────────────


# A wild segment: prefix, suffix, capture and entity; a literal segment is stored as its text.
WildSegment: TypeAlias = tuple[str, str, str | None, str | None]


class HttpRow(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag=0):
    methods: tuple[str, ...] | None
    segments: tuple[str | WildSegment, ...]
    rest: bool
    folding: k.Folding


class ToolRow(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag=1):
    glob: str


class ActionRow(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True, tag=2):
    verb: str
    entity: str


PatternRow: TypeAlias = HttpRow | ToolRow | ActionRow
ROWS: msgpack.Decoder[list[PatternRow]] = msgpack.Decoder(list[PatternRow])
CHUNK = 64  # patterns that are decoded together: decoding them one by one takes more memory and time


def encode_rows(rows: Sequence[PatternRow]) -> list[bytes]:
    return [msgpack.encode(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]


def pattern_row(pattern: k.Pattern) -> PatternRow:
    match pattern:
        case k.HttpPattern(methods, segments, rest, folding):
            return HttpRow(methods, tuple(map(segment_item, segments)), rest, folding)
        case k.ToolPattern(glob):
            return ToolRow(glob)
        case k.ActionPattern(verb, type_):
            return ActionRow(verb, type_)


def segment_item(segment: k.Segment) -> str | WildSegment:
    if not segment.wild:
        return segment.prefix
    return segment.prefix, segment.suffix, segment.capture, segment.entity


def pattern_of(row: PatternRow, span: Span) -> k.Pattern:
    match row:
        case HttpRow(methods, segments, rest, folding):
            return k.HttpPattern(methods, tuple(map(segment_of, segments)), rest, folding, span=span)
        case ToolRow(glob):
            return k.ToolPattern(glob, span=span)
        case ActionRow(verb, entity):
            return k.ActionPattern(verb, entity, span=span)


def segment_of(item: str | WildSegment) -> k.Segment:
    if isinstance(item, str):
        return k.Segment(item)
    prefix, suffix, capture, entity = item
    return k.Segment(prefix, True, suffix, capture, entity)


def add_rows(rows: Sequence[PatternRow], builder: TreeBuilder) -> None:
    """Add the patterns of a table to a tree, which numbers them as the table does."""
    for row in rows:
        if isinstance(row, HttpRow):
            builder.add_path(row.methods, row.segments, row.rest, row.folding)
        elif isinstance(row, ToolRow):
            builder.add_tool(row.glob)
        else:
            builder.add_action(row.verb, row.entity)


class PatternTable:
    """The patterns of a bundle, each checked when it is first needed."""

    def __init__(self, chunks: list[bytes], check: Callable[[k.Pattern, DecodeContext], None]) -> None:
        self._chunks, self._check = chunks, check
        self._patterns: dict[int, k.Pattern] = {}
        self._latest: tuple[int, list[PatternRow]] = (-1, [])  # the last chunk; a rule's patterns are often in one

    def pattern(self, number: int, span: Span, context: DecodeContext) -> k.Pattern:
        """Return the pattern with this number, used at this place. Raises BundleDataError."""
        known = self._patterns.get(number)
        if known is None:
            chunk, place = divmod(number, CHUNK)
            rows = self._rows(chunk)
            if place >= len(rows):
                raise BundleDataError("a reference to a missing pattern")
            known = pattern_of(rows[place], span)
            self._check(known, context)
            self._patterns[number] = known
        return known if known.span == span else replace(known, span=span)

    def _rows(self, chunk: int) -> list[PatternRow]:
        latest, rows = self._latest
        if latest != chunk:
            rows = ROWS.decode(self._chunks[chunk]) if chunk < len(self._chunks) else []
            self._latest = chunk, rows
        return rows


# ── Contexts ──────────────────────────────────────────────────────────────────────────────────


class EncodeContext:
    """The tables of a bundle while it is written, in the order of first use."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = {source: number for number, source in enumerate(dict.fromkeys(sources))}
        self.types: dict[typesystem.Type, int] = {}
        self.type_rows: list[object] = []  # a type comes after the types that it contains
        self.pattern_rows: list[PatternRow] = []
        self.has_later_members = False  # whether a part has a member that earlier versions do not know
        self.pattern_number = PatternNumbers(lambda pattern: self.pattern_rows.append(pattern_row(pattern)))


@dataclass(slots=True)
class DecodeContext:
    """The tables of a bundle while a part is read, and the names that the part may use. `shared` holds one copy of each
    text, because parts repeat texts; `unbound` are variables whose quantifier is not decoded yet.
    """

    sources: Sequence[Source]
    types: Sequence[typesystem.Type]
    patterns: PatternTable
    entities: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    attesters: frozenset[str] = frozenset()
    reads_behavior: bool = False
    shared: dict[Any, Any] = field(default_factory=dict)  # texts and tuples of texts
    unbound: list[tuple[str, typesystem.Type]] = field(default_factory=list)
    depth: int = 0


# ── Places ────────────────────────────────────────────────────────────────────────────────────

SpanWire: TypeAlias = tuple[Index, Index, Index]
PatternWire: TypeAlias = tuple[Index, Index, Index, Index]


def write_span(span: Span, context: EncodeContext) -> tuple[int, int, int]:
    source = context.sources.setdefault(span.source, len(context.sources))
    return source, span.start, span.end - span.start


def read_span(raw: tuple[int, int, int], context: DecodeContext) -> Span:
    number, start, length = raw
    if number >= len(context.sources):
        raise BundleDataError("a place in a missing source")
    return Span(context.sources[number], start, start + length)


class PatternNumber(Struct, array_like=True, frozen=True, gc=False):
    """The number that starts a reference to a pattern."""

    number: Index


def write_pattern(pattern: k.Pattern, context: EncodeContext) -> tuple[int, int, int, int]:
    return context.pattern_number(pattern), *write_span(pattern.span, context)


def read_pattern(raw: tuple[int, int, int, int], context: DecodeContext) -> k.Pattern:
    return context.patterns.pattern(raw[0], read_span(raw[1:], context), context)
