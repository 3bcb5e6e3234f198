"""Text to AST: the first stage of the pipeline."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from threading import Lock

from lark import Lark, Token
from lark.exceptions import UnexpectedInput

from policyengine.diagnostics import Diagnostic
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax import table
from policyengine.syntax.bounds import within_bounds
from policyengine.syntax.build import Builder, Phrases
from policyengine.syntax.errors import explain
from policyengine.syntax.recover import Reader, tables
from policyengine.syntax.text import bad_escapes, unfit

MAX_ERRORS = 25
_LOCK = Lock()  # one builder serves all parses, one at a time


@cache
def _parser() -> tuple[Lark, Builder, list[Token]]:
    builder, comments = Builder(), list[Token]()
    lark = table.parser(transformer=Phrases(builder), lexer_callbacks={"COMMENT": comments.append})
    return lark, builder, comments


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A parse makes no garbage but many objects: the collector would walk them all again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def parse(source: Source) -> tuple[ast.Module | None, list[Diagnostic]]:
    """The module a text spells, and what is wrong with its syntax. With diagnostics the module holds what could be
    read; it is None when the text is no policy at all."""
    if found := unfit(source):
        return None, found
    lark, builder, comments = _parser()
    with _LOCK, _without_garbage_collection():
        builder.source = source
        comments.clear()
        module, diagnostics = _read(lark, source, comments)
        written = tuple(ast.Comment(str(c), span=Span(source, c.start_pos or 0, c.end_pos or 0)) for c in comments)
    diagnostics += bad_escapes(source)
    if module is None:
        return None, diagnostics
    declarations, too_much = within_bounds(module)
    return replace(module, declarations=declarations, comments=written), diagnostics + too_much


def _read(lark: Lark, source: Source, comments: list[Token]) -> tuple[ast.Module | None, list[Diagnostic]]:
    try:
        module: ast.Module = lark.parse(source.text)  # type: ignore[assignment]
        return module, []
    except UnexpectedInput:
        comments.clear()
    rest, stops = Reader(lark, source.text).read(MAX_ERRORS)
    diagnostics = [explain(source, stop, tables(lark)) for stop in stops]
    if len(stops) >= MAX_ERRORS:
        last = Span(source, stops[-1].offset, stops[-1].offset)
        message = f"{MAX_ERRORS} mistakes so far; what follows was not read"
        diagnostics.append(Diagnostic("E123", message, last, "mend these first"))
    return rest, diagnostics


def tokens(source: Source) -> list[Token]:
    """The tokens of a text that `parse` has found to be without mistakes, comments left out."""
    lark, builder, _ = _parser()
    with _LOCK, _without_garbage_collection():
        builder.source = source
        return list(lark.parse_interactive(source.text).iter_parse())
