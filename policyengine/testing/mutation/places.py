"""Faults in places: a pattern that matches more, an `except` that is gone, an endpoint that is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import Edit, cut_item, cut_span, put
from policyengine.testing.mutation.faults import Change, without

WIDER, NARROWER = "widen a place", "narrow a place"


def place_faults(node: ast.Node) -> Iterator[Change]:
    match node:
        case ast.Http():
            yield from wider_paths(node)
            yield from other_methods(node)
        case ast.Tool(pattern):
            yield from wider_tools(node, pattern)
        case ast.Place():
            yield from fewer(NARROWER, node, "targets", node.targets)
            yield from fewer_excepts(node)
        case (
            ast.GuardDecl(place=ast.Place() as place)
            | ast.RateDecl(place=ast.Place() as place)
            | ast.BudgetDecl(place=ast.Place() as place)
        ):
            yield Change.at(WIDER, node, cut_span(place.span), place=None)
        case ast.ScopeDecl(items=items) if len(items) > 1:
            for number, item in enumerate(items):
                yield Change.at(NARROWER, node, cut_span(item.span), items=without(items, number))
        case ast.Include(scopes):
            yield from fewer(NARROWER, node, "scopes", scopes)
        case ast.ScopeEndpoint(_, bindings):
            yield from fewer_bindings(node, bindings)
        case ast.May(targets):
            yield from fewer(NARROWER, node, "targets", targets)
        case ast.MayDelegate(scopes):
            yield from fewer(NARROWER, node, "scopes", scopes)


def fewer(operator: str, node: ast.Node, member: str, items: Sequence[ast.Node]) -> Iterator[Change]:
    """Each of several items missing."""
    spans = [item.span for item in items]
    for number in range(len(items) if len(items) > 1 else 0):
        yield Change.at(operator, node, cut_item(spans, number), **{member: without(items, number)})


def fewer_excepts(place: ast.Place) -> Iterator[Change]:
    if len(place.excepts) == 1:
        gone = Edit(place.targets[-1].span.end, place.excepts[-1].span.end, "")
        yield Change.at("drop an except", place, gone, excepts=())
    yield from fewer("drop an except", place, "excepts", place.excepts)


def fewer_bindings(node: ast.ScopeEndpoint, bindings: Sequence[ast.Binding]) -> Iterator[Change]:
    if len(bindings) == 1:
        gone = Edit(node.endpoint.span.end, bindings[0].span.end, "")
        yield Change.at("drop a binding", node, gone, bindings=())
    yield from fewer("drop a binding", node, "bindings", bindings)


# ── HTTP and tools ────────────────────────────────────────────────────────────────────────────


def wider_paths(node: ast.Http) -> Iterator[Change]:
    for path in dict.fromkeys(wider_than(node.path)):
        yield Change.at(WIDER, node, put(node.path_span, path), path=path)
    if node.path.endswith("/**") and node.path != "/**":
        narrower = node.path.removesuffix("/**")
        yield Change.at(NARROWER, node, put(node.path_span, narrower), path=narrower)


def wider_than(path: str) -> Iterator[str]:
    """Any segment for each that is written out; all below in the place of the last one, or below a capture."""
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


def other_methods(node: ast.Http) -> Iterator[Change]:
    written = Span(node.span.source, node.span.start, node.path_span.start)
    if node.methods and "ANY" not in node.methods:
        yield Change.at(WIDER, node, put(written, "ANY "), methods=("ANY",))
    for number in range(len(node.methods) if len(node.methods) > 1 else 0):
        kept = tuple(method for i, method in enumerate(node.methods) if i != number)
        yield Change.at(NARROWER, node, put(written, "|".join(kept) + " "), methods=kept)


def wider_tools(node: ast.Tool, pattern: str) -> Iterator[Change]:
    """All tools of the server; of one that names all already, or none, all that there are."""
    server, slash, name = pattern.rpartition("/")
    wider = f"{server}/*" if slash and name != "*" else "*"
    if wider != pattern:
        at = node.span.source.text.rfind(json.dumps(pattern, ensure_ascii=False), node.span.start, node.span.end)
        start = at if at >= 0 else node.span.end - len(pattern)
        if node.span.source.text[start : node.span.end].strip('"') == pattern:  # else it is written with escapes
            quote = '"' if at >= 0 else ""
            span = Span(node.span.source, start, node.span.end)
            yield Change.at(WIDER, node, put(span, f"{quote}{wider}{quote}"), pattern=wider)
