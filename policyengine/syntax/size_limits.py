"""After the parser: trees so deep or so many that later stages, which recurse and remember, could not bear them."""

from __future__ import annotations

import re

from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Span
from policyengine.syntax import nodes as ast

MAX_DEPTH = 100
MAX_DECLARATIONS = 200_000
MAX_SAFE_NESTING_SIGNS = (
    30  # so few of the signs that nest make no tree of more than a hundred levels: at most three for each
)

NESTING_SIGN = re.compile(r"[-+*(\[{<]|\b(?:not|else|any|all|where)\b")

Declared = tuple[ast.Declaration | ast.Export, ...]


def check_size_limits(module: ast.Module) -> tuple[Declared, list[Diagnostic]]:
    """The declarations that later stages may see, and why not the others."""
    declarations = module.declarations
    if len(declarations) > MAX_DECLARATIONS:
        message = f"this file has {len(declarations):,} declarations; the limit is {MAX_DECLARATIONS:,}"
        return (), [Diagnostic("E124", message, declarations[MAX_DECLARATIONS].span, "split it into several packages")]
    found = [(declaration, _too_deep(declaration)) for declaration in declarations]
    return tuple(d for d, deep in found if deep is None), [deep for _, deep in found if deep is not None]


def _too_deep(declaration: ast.Declaration | ast.Export) -> Diagnostic | None:
    text = declaration.span.text
    if len(text) <= MAX_SAFE_NESTING_SIGNS or len(NESTING_SIGN.findall(text)) <= MAX_SAFE_NESTING_SIGNS:
        return None
    pending: list[tuple[ast.Node, int]] = [(declaration, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            message = f"this nests {MAX_DEPTH} levels deep, and more are not read"
            return Diagnostic(
                "E125",
                message,
                _first_line(node),
                "name parts of it with `define` or `let`; a sum of many terms counts one level each",
            )
        pending += [(child, depth + 1) for child in ast.children(node)]
    return None


def _first_line(node: ast.Node) -> Span:
    span = node.span
    end = span.source.text.find("\n", span.start, span.end)
    return Span(span.source, span.start, end) if end != -1 else span
