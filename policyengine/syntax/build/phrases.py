"""Between lark and the builder: each phrase with its whole span, and without keywords and punctuation."""

from __future__ import annotations

from collections.abc import Callable

from lark import Token

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build.leaves import Leaves, Part

VALUES = frozenset(
    "NAME METHOD RESERVED PATH TOOLPAT STRING NUMBER DURATION RATE DATE CLOCK IP HASH FACTOR OPTIONAL".split()
)
WORDS = frozenset(
    "comparison connective plus times quantifier inherited modality effect result denied whose repeat per".split()
)


def _start(part: Part) -> int | None:
    match part:
        case Token():
            return part.start_pos
        case ast.Node():
            return part.span.start
        case tuple() | list():
            return next((start for item in part if (start := _start(item)) is not None), None)
        case _:
            return None


def _end(part: Part) -> int | None:
    match part:
        case Token():
            return part.end_pos
        case ast.Node():
            return part.span.end
        case tuple() | list():
            return next((end for item in reversed(part) if (end := _end(item)) is not None), None)
        case _:
            return None


class Phrases:
    """What lark calls: for each phrase, the builder's function of that name, given the whole phrase's span and its
    parts without keywords and punctuation."""

    def __init__(self, builder: Leaves) -> None:
        self._builder = builder

    def __getattr__(self, phrase: str) -> Callable[[list[Part]], Part]:
        build = getattr(self._builder, phrase)
        builder, is_word = self._builder, phrase in WORDS

        def built(parts: list[Part]) -> Part:
            span = Span(builder.source, _start(parts) or 0, _end(parts) or 0)
            if is_word:
                return build(span, *parts)
            return build(span, *(part for part in parts if not isinstance(part, Token) or part.type in VALUES))

        return built
