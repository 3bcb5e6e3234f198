"""Faults in places: a pattern that matches more, or a removed `except` or endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import MutationEdit, cut_item, cut_span, replace_span
from policyengine.testing.mutation.faults import FaultChange, omit_item

WIDER, NARROWER = "widen a place", "narrow a place"


def place_faults(node: ast.Node) -> Iterator[FaultChange]:
    match node:
        case ast.HttpPattern():
            yield from path_faults(node)
            yield from method_faults(node)
        case ast.ToolPattern(pattern):
            yield from tool_faults(node, pattern)
        case ast.Place():
            yield from drop_each(NARROWER, node, "targets", node.targets)
            yield from except_faults(node)
        case (
            ast.GuardDecl(place=ast.Place() as place)
            | ast.RateDecl(place=ast.Place() as place)
            | ast.BudgetDecl(place=ast.Place() as place)
        ):
            yield FaultChange.at(WIDER, node, cut_span(place.span), place=None)
        case ast.ScopeDecl(items=items) if len(items) > 1:
            for number, item in enumerate(items):
                yield FaultChange.at(NARROWER, node, cut_span(item.span), items=omit_item(items, number))
        case ast.Include(scopes):
            yield from drop_each(NARROWER, node, "scopes", scopes)
        case ast.ScopeEndpoint(_, bindings):
            yield from binding_faults(node, bindings)
        case ast.May(targets):
            yield from drop_each(NARROWER, node, "targets", targets)
        case ast.MayDelegate(scopes):
            yield from drop_each(NARROWER, node, "scopes", scopes)


def drop_each(operator: str, node: ast.Node, member: str, items: Sequence[ast.Node]) -> Iterator[FaultChange]:
    """Yield, for each of several items, a fault that drops the item; yield nothing for a single item."""
    spans = [item.span for item in items]
    for number in range(len(items) if len(items) > 1 else 0):
        yield FaultChange.at(operator, node, cut_item(spans, number), **{member: omit_item(items, number)})


def except_faults(place: ast.Place) -> Iterator[FaultChange]:
    if len(place.excepts) == 1:
        gone = MutationEdit(place.targets[-1].span.end, place.excepts[-1].span.end, "")
        yield FaultChange.at("drop an except", place, gone, excepts=())
    yield from drop_each("drop an except", place, "excepts", place.excepts)


def binding_faults(node: ast.ScopeEndpoint, bindings: Sequence[ast.FactAssignment]) -> Iterator[FaultChange]:
    if len(bindings) == 1:
        gone = MutationEdit(node.endpoint.span.end, bindings[0].span.end, "")
        yield FaultChange.at("drop a binding", node, gone, bindings=())
    yield from drop_each("drop a binding", node, "bindings", bindings)


# ── HTTP and tools ────────────────────────────────────────────────────────────────────────────


def path_faults(node: ast.HttpPattern) -> Iterator[FaultChange]:
    for path in dict.fromkeys(wider_patterns(node.path)):
        yield FaultChange.at(WIDER, node, replace_span(node.path_span, path), path=path)
    if node.path.endswith("/**") and node.path != "/**":
        narrower = node.path.removesuffix("/**")
        yield FaultChange.at(NARROWER, node, replace_span(node.path_span, narrower), path=narrower)


def wider_patterns(path: str) -> Iterator[str]:
    """Yield wider patterns: with `*` for each literal segment, or `**` for the last segment or below a capture."""
    segments = path.split("/")[1:]
    whole = path != "/" and segments != ["**"]
    for number, segment in enumerate(segments if whole else ()):
        if "{" not in segment and segment not in ("*", "**"):
            yield "/" + "/".join([*segments[:number], "*", *segments[number + 1 :]])
    if whole and segments[-1] == "**":
        yield "/" + "/".join([*segments[:-2], "**"])
    elif whole:
        kept = segments if "{" in segments[-1] else segments[:-1]
        yield "/" + "/".join([*kept, "**"])


def method_faults(node: ast.HttpPattern) -> Iterator[FaultChange]:
    written = Span(node.span.source, node.span.start, node.path_span.start)
    if node.methods and "ANY" not in node.methods:
        yield FaultChange.at(WIDER, node, replace_span(written, "ANY "), methods=("ANY",))
    for number in range(len(node.methods) if len(node.methods) > 1 else 0):
        kept = tuple(method for i, method in enumerate(node.methods) if i != number)
        yield FaultChange.at(NARROWER, node, replace_span(written, "|".join(kept) + " "), methods=kept)


def tool_faults(node: ast.ToolPattern, pattern: str) -> Iterator[FaultChange]:
    """Yield the faults that widen a tool pattern to all tools of the server, or to all tools."""
    server, slash, name = pattern.rpartition("/")
    wider = f"{server}/*" if slash and name != "*" else "*"
    if wider != pattern:
        at = node.span.source.text.rfind(json.dumps(pattern, ensure_ascii=False), node.span.start, node.span.end)
        start = at if at >= 0 else node.span.end - len(pattern)
        if node.span.source.text[start : node.span.end].strip('"') == pattern:  # otherwise the text contains escapes
            quote = '"' if at >= 0 else ""
            span = Span(node.span.source, start, node.span.end)
            yield FaultChange.at(WIDER, node, replace_span(span, f"{quote}{wider}{quote}"), pattern=wider)
