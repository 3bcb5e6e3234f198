"""Text to AST: the first stage of the pipeline."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Lock

from lark import Lark, Token
from lark.exceptions import UnexpectedInput

from policyengine.diagnostics import Diagnostic
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build import Builder, Phrases

_PACKAGE = Path(__file__).parent.parent
_LOCK = Lock()  # one builder serves all parses, one at a time


def grammar() -> str:
    """The text of `policy.lark`: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "grammar" / "policy.lark"
    found = installed if installed.is_file() else _PACKAGE.parent / "grammar" / "policy.lark"
    return found.read_text(encoding="utf-8")


@cache
def _parser() -> tuple[Lark, Builder, list[Token]]:
    builder, comments = Builder(), list[Token]()
    lark = Lark(
        grammar(),
        parser="lalr",
        start="module",
        maybe_placeholders=False,
        keep_all_tokens=True,
        transformer=Phrases(builder),
        lexer_callbacks={"COMMENT": comments.append},  # type: ignore[dict-item]
    )
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
    """The module a text spells, and what is wrong with its syntax. With diagnostics the module holds what could be read."""
    lark, builder, comments = _parser()
    with _LOCK, _without_garbage_collection():
        builder.source = source
        comments.clear()
        try:
            module: ast.Module = lark.parse(source.text)  # type: ignore[assignment]
        except UnexpectedInput as error:
            at = error.pos_in_stream or 0
            return None, [Diagnostic("E101", "unexpected text", Span(source, at, at + 1))]
        found = tuple(ast.Comment(str(c), span=Span(source, c.start_pos or 0, c.end_pos or 0)) for c in comments)
    return replace(module, comments=found), []
