"""Parsing of endpoints to patterns: `GET /v1/{id: invoice}`, `TOOL mail/*`, `ACTION view invoice`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.names.program import Program
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.runtime import paths
from policyengine.source import Span
from policyengine.syntax import nodes as ast

STANDARD_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")  # the methods that `ANY` grants
HTTP_METHODS = frozenset(
    "ANY GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT "
    "PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH MERGE PURGE LINK UNLINK BIND ACL QUERY".split()
)
CAPTURE = re.compile(r"\{([^{}:]*)(?::[ \t]*([^{}]*))?\}")
CAPTURE_NAME = re.compile(r"[a-z_][A-Za-z0-9_]*")
MAX_TOOL_NAME_LENGTH = 256
PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-]+)+(?:/\*\*)?")  # most paths have no captures and cannot be invalid


def read_endpoint(endpoint: ast.Endpoint, package: str, program: Program, opening: bool) -> k.Pattern | None:
    """Return the pattern, or None if an error was reported. `opening` is true in a `may`, false in other rules."""
    match endpoint:
        case ast.HttpPattern():
            return read_http(endpoint, package, program, opening)
        case ast.ToolPattern(pattern):
            why = tool_mistake(pattern)
            if why:
                hint = "a tool name must be `server/name`, or `name` alone"
                program.report("E319", f"this is not a valid tool name: {why}", endpoint.span, hint)
            return None if why else k.ToolPattern(pattern, span=endpoint.span)
        case ast.ActionPattern(verb, type_):
            found = program.find(package, "entity", type_)
            return k.ActionPattern(verb.text, found.name, span=endpoint.span) if found else None
        case ast.ReservedWord(word):
            hint = "remove it; write the HTTP endpoint, tool or action itself"
            program.report("E908", f"`{word}` is a reserved word without a meaning yet", endpoint.span, hint)
            return None
        case _:
            assert_never(endpoint)


def tool_mistake(pattern: str) -> str | None:
    """Return why the pattern is not a valid tool name, or None. A name is `server/name`, or a name without a slash."""
    if not pattern:
        return "the name is empty"
    if len(pattern) > MAX_TOOL_NAME_LENGTH:
        return f"it has more than {MAX_TOOL_NAME_LENGTH} characters"
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in pattern):
        return "it contains a control character"
    if pattern.startswith("/") or pattern.endswith("/"):
        return "a slash separates a server and a name"
    return None


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────


def read_http(endpoint: ast.HttpPattern, package: str, program: Program, opening: bool) -> k.HttpPattern | None:
    methods = read_methods(endpoint, program, opening)
    plain = plain_path(endpoint.path)
    if plain is not None:
        return k.HttpPattern(methods, *plain, span=endpoint.span) if methods != () else None
    return read_segments(endpoint, methods, package, program)


@lru_cache(maxsize=10_000)  # cached, so that endpoints share paths and large policies take less memory
def plain_path(path: str) -> tuple[tuple[k.Segment, ...], bool] | None:
    """Return the segments of a path without captures or special characters, and whether it ends in `**`; None for any
    other path."""
    if len(path) > paths.MAX_PATH_LENGTH or path.count("/") > paths.MAX_SEGMENTS or not PLAIN_PATH.fullmatch(path):
        return None
    return tuple(map(k.Segment, path.removesuffix("/**")[1:].split("/"))), path.endswith("/**")


def read_segments(
    endpoint: ast.HttpPattern, methods: tuple[str, ...] | None, package: str, program: Program
) -> k.HttpPattern | None:
    parts = list(split_path(endpoint))
    segments, rest, sound = [], False, methods != ()
    for number, part in enumerate(parts):
        if part.text == "**" and number == len(parts) - 1:
            rest = True
            continue
        segment = read_segment(part, package, program)
        sound = sound and segment is not None
        segments += [segment] if segment else []
    sound = check_unique_captures(parts, program) and check_path_length(endpoint, parts, program) and sound
    return k.HttpPattern(methods, tuple(segments), rest, span=endpoint.span) if sound else None


def read_methods(endpoint: ast.HttpPattern, program: Program, opening: bool) -> tuple[str, ...] | None:
    """Return the methods in a fixed order, with HEAD as GET. None means every method, `()` an error."""
    for method in () if HTTP_METHODS.issuperset(endpoint.methods) else endpoint.methods:
        at = endpoint.span.start + endpoint.span.text.find(method)
        span = Span(endpoint.span.source, at, at + len(method))
        if isinstance(paths.canonical_method(method), paths.MalformedPath):
            program.report("E309", f"`{method}` is not a valid method", span, "a method can have at most 16 letters")
            return ()
        if method not in HTTP_METHODS:
            hint = did_you_mean(method, HTTP_METHODS) or "methods are matched as written"
            program.report("W321", f"HTTP has no method `{method}`", span, hint)
    return normalize_methods(endpoint.methods, opening)


@lru_cache(maxsize=256)
def normalize_methods(written: tuple[str, ...], opening: bool) -> tuple[str, ...] | None:
    if not written or ("ANY" in written and not opening):
        return None
    named = {"GET" if method == "HEAD" else method for method in written}
    return tuple(sorted((named - {"ANY"}).union(STANDARD_METHODS if "ANY" in named else ())))


@dataclass(frozen=True, slots=True)
class SegmentText:
    """One segment as written, and its span."""

    text: str
    span: Span


def split_path(endpoint: ast.HttpPattern) -> Iterator[SegmentText]:
    start = endpoint.path_span.start + 1
    for text in endpoint.path[1:].split("/") if endpoint.path != "/" else ():
        yield SegmentText(text, Span(endpoint.span.source, start, start + len(text)))
        start += len(text) + 1


def read_segment(part: SegmentText, package: str, program: Program) -> k.Segment | None:
    captures = list(CAPTURE.finditer(part.text))
    mistake = segment_mistake(part.text, len(captures))
    if mistake:
        code, message, hint = mistake
        program.report(code, message, visible_span(part.span), hint)
        return None
    if not captures:
        return k.Segment("", wild=True) if part.text == "*" else k.Segment(part.text)
    found = captures[0]
    name, type_ = found[1], found[2]
    if not CAPTURE_NAME.fullmatch(name):
        program.report("E307", f"the capture `{name}` is not a single word", part.span, "write one word: `{id}`")
        return None
    entity = None
    if type_ is not None:
        start = part.span.start + found.start(2)
        typed = ast.Name(type_.strip(), span=Span(part.span.source, start, start + len(type_.strip())))
        symbol = program.find(package, "entity", typed)
        if symbol is None:
            return None
        entity = symbol.name
    return k.Segment(part.text[: found.start()], True, part.text[found.end() :], name, entity)


def segment_mistake(text: str, captures: int) -> tuple[str, str, str | None] | None:
    """Return the code, message and hint if no canonical path can have this segment, or None."""
    if text == "":
        return "E301", "an empty segment matches no path", "remove the extra `/`; a trailing slash makes no difference"
    if text == "**":
        return "E303", "`**` is valid only at the end of a path", "use `*` for exactly one segment"
    if "%" in text:
        return (
            "E304",
            f"`{text}` contains a percent escape",
            "write the character itself: paths are compared in decoded form",
        )
    if text.startswith(":") and text[1:].isidentifier():
        return "E308", f"`{text}` captures nothing", f"write `{{{text[1:]}}}`"
    if captures > 1:
        return "E305", f"`{text}` contains two captures", "a segment can have at most one capture"
    why = paths.find_segment_hazard(CAPTURE.sub("x", text) if text != "*" else "x")
    return ("E302", f"`{text}` matches no path: {why}", None) if why else None


def visible_span(span: Span) -> Span:
    """Return the span of a segment; for an empty segment, the span of the slash before it."""
    return span if span.end > span.start else Span(span.source, span.start - 1, span.start)


def check_unique_captures(parts: list[SegmentText], program: Program) -> bool:
    first: dict[str, Span] = {}
    sound = True
    for part in parts:
        for name in (found[1] for found in CAPTURE.finditer(part.text)):
            where = first.setdefault(name, part.span)
            if where is not part.span:
                related = [RelatedLocation("first captured here", where)]
                program.report("E306", f"`{name}` is captured twice", part.span, "rename one of them", related)
                sound = False
    return sound


def check_path_length(endpoint: ast.HttpPattern, parts: list[SegmentText], program: Program) -> bool:
    short = len(parts) <= paths.MAX_SEGMENTS and len(endpoint.path) <= paths.MAX_PATH_LENGTH
    if not short:
        limits = f"{paths.MAX_SEGMENTS} segments or {paths.MAX_PATH_LENGTH:,} characters"
        program.report("E310", f"no request has a path of more than {limits}", endpoint.path_span)
    return short
