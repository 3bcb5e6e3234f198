"""Tokens: the words and signs of a text, which the lexer passes to the parser and the builders."""

from __future__ import annotations

from msgspec import Struct


# A struct, because a large policy has hundreds of thousands of tokens, and a struct costs a tenth of a dataclass.
class Token(Struct, frozen=True, gc=False):
    """One word or sign. `type` is its terminal in the grammar; offsets count characters, `end` is exclusive."""

    type: str
    text: str
    start: int
    end: int
