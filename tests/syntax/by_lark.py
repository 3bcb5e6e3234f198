"""The grammar as lark reads it, with every token in the tree: made once, which takes half a second."""

from __future__ import annotations

from functools import cache

from lark import Lark

from policyengine.syntax.parse_table import GRAMMAR
from policyengine.syntax.parse_table_generator import WholeWords


@cache
def lark(*, strict: bool = False) -> Lark:
    return Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        start="module",
        maybe_placeholders=False,
        keep_all_tokens=True,
        postlex=WholeWords(),
        strict=strict,
    )
