"""From text to AST: the first stage of the pipeline."""

from __future__ import annotations

import re
from dataclasses import replace

from policyengine.diagnostics.model import Diagnostic
from policyengine.gc_pause import gc_paused
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.errors.explain import explain_syntax_error
from policyengine.syntax.errors.recovery import RecoveringParser, parser_tables
from policyengine.syntax.parser import LexError, LrParser
from policyengine.syntax.text_checks import check_characters, find_bad_escapes
from policyengine.syntax.tokens import Token

MAX_ERRORS = 25
MAX_DEPTH = 100
MAX_DECLARATIONS = 200_000
# Each of these signs and words nests at most three levels, so a text with fewer of them never nests more than a hundred
# levels deep.
MAX_SAFE_NESTING_SIGNS = 30
NESTING_SIGN = re.compile(r"[-+*(\[{<]|\b(?:not|else|any|all|where)\b")
Declared = tuple[ast.Declaration | ast.Export, ...]


@gc_paused()
def parse(source: Source) -> tuple[ast.Module | None, list[Diagnostic]]:
    """Parse a source; return its module and the syntax errors.

    If there are errors, the module holds the declarations that could be parsed. The module is None if the text cannot
    be read as a policy.
    """
    if found := check_characters(source):
        return None, found
    module, comments, diagnostics = _parse_or_recover(source)
    diagnostics += find_bad_escapes(source)
    if module is None:
        return None, diagnostics
    declarations, too_much = check_size_limits(module)
    written = tuple(ast.Comment(span.text, span=span) for span in comments)
    return replace(module, declarations=declarations, comments=written), diagnostics + too_much


def _parse_or_recover(source: Source) -> tuple[ast.Module | None, list[Span], list[Diagnostic]]:
    machine = LrParser(source)
    if (module := _parse_valid(machine)) is not None:
        return module, machine.comments, []
    reader = RecoveringParser(source)
    rest, stops = reader.read(MAX_ERRORS)
    diagnostics = [explain_syntax_error(source, stop, parser_tables()) for stop in stops]
    if len(stops) >= MAX_ERRORS:
        last = Span(source, stops[-1].offset, stops[-1].offset)
        message = f"{MAX_ERRORS} errors so far; the rest of the file was not read"
        diagnostics.append(Diagnostic("E123", message, last, "fix these first"))
    return rest, reader.machine.comments, diagnostics


def _parse_valid(machine: LrParser) -> ast.Module | None:
    """Return the module of a text without syntax errors, or None."""
    try:
        return machine.finish() if all(map(machine.feed, machine.tokens())) else None
    except LexError:
        return None


def tokenize(source: Source) -> list[Token]:
    """Return the tokens, without comments, of a text that `parse` has accepted."""
    machine = LrParser(source)
    return [token for token in machine.tokens() if machine.feed(token)]


# ── Size limits ────────────────────────────────────────────────────────────────────────────────


def check_size_limits(module: ast.Module) -> tuple[Declared, list[Diagnostic]]:
    """Return the declarations that are not nested too deeply, and a diagnostic for each other declaration; if there are
    too many declarations, return none, and one diagnostic. The limits exist because later stages are recursive.
    """
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
            message = f"this is nested more than {MAX_DEPTH} levels deep"
            return Diagnostic(
                "E125",
                message,
                _first_line(node),
                "name parts of it with `define` or `let`; each term of a sum counts as one level",
            )
        pending += [(child, depth + 1) for child in ast.children(node)]
    return None


def _first_line(node: ast.Node) -> Span:
    span = node.span
    end = span.source.text.find("\n", span.start, span.end)
    return Span(span.source, span.start, end) if end != -1 else span
