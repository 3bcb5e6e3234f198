"""The parse table of the grammar, saved beside it: building it anew costs half a second, and needs lark.

`python -m policyengine.syntax.parse_table` writes it, and a test holds it equal to the grammar. It is data that runs
nothing, and serves only the grammar that it was made from; for any other the table is built.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

_PACKAGE = Path(__file__).parent.parent
_INSTALLED = _PACKAGE / "grammar"
GRAMMAR_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "grammar"  # in the wheel, or in a checkout
GRAMMAR, TABLE = GRAMMAR_FOLDER / "policy.lark", GRAMMAR_FOLDER / "policy.table"
SPACE = r"[ \t\r\n]*+"  # what may stand before any token
END = "$END"  # the terminal behind the last token


class Lexer:
    """What can be read where the parser stands: the group that matches is the terminal, unless `words` knows better."""

    __slots__ = ("match", "words")
    match: Callable[[str, int], re.Match[str] | None]

    def __init__(self, pattern: str, words: Mapping[str, Mapping[str, str]]) -> None:
        self.words = words

        def compiled(text: str, position: int) -> re.Match[str] | None:
            self.match = re.compile(f"{SPACE}(?:{pattern})").match  # once it is needed: a small policy needs few
            return self.match(text, position)

        self.match = compiled


@dataclass(frozen=True, slots=True)
class GrammarRule:
    """A rule of the grammar: `phrase` is what it builds, None a list to be inlined, "" its one part itself."""

    origin: str
    phrase: str | None
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParseTable:
    """By state: what can be read there (`lexers`); by terminal the state to shift to, or `~` the rule to reduce by
    (`actions`); by name of a rule that was reduced the next state (`follows`).

    `start` and `end` are states; `written` spells terminals as they are written.
    """

    start: int
    end: int
    written: Mapping[str, str]
    rules: tuple[GrammarRule, ...]
    lexers: tuple[Lexer, ...]
    actions: tuple[Mapping[str, int], ...]
    follows: tuple[Mapping[str, int], ...]


@cache
def load_parse_table() -> ParseTable:
    """The table of the grammar: the saved one where it is its own."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    return decode_table(load_saved_table(grammar) or generate_from(grammar))


def decode_table(data: Mapping[str, Any]) -> ParseTable:
    lexers = [Lexer(pattern, words) for pattern, words in data["lexers"]]
    rules = tuple(GrammarRule(origin, phrase, tuple(symbols)) for origin, phrase, symbols in data["rules"])
    by_state = ((lexers[lexer], actions, follows) for lexer, actions, follows in data["states"])
    return ParseTable(data["start"], data["end"], data["written"], rules, *zip(*by_state, strict=True))


def load_saved_table(grammar: str) -> Mapping[str, Any] | None:
    """What was written for this grammar, if it is there."""
    if not TABLE.is_file():
        return None
    data: Mapping[str, Any] = msgpack.unpackb(zlib.decompress(TABLE.read_bytes()))
    return data if data["made_from"] == grammar_digest(grammar) else None


def grammar_digest(grammar: str) -> str:
    return f"sha256:{hashlib.sha256(grammar.encode()).hexdigest()}"


def generate_from(grammar: str) -> dict[str, Any]:
    generator = import_module("policyengine.syntax.parse_table_generator")  # lark, only if needed
    found: dict[str, Any] = generator.generate_table(grammar)
    return found


def encode_table(grammar: str) -> bytes:
    content = {"made_from": grammar_digest(grammar), **generate_from(grammar)}
    return zlib.compress(msgpack.packb(content), 9)


if __name__ == "__main__":
    TABLE.write_bytes(encode_table(GRAMMAR.read_text(encoding="utf-8")))
