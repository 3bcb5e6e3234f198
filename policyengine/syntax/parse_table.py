"""The parse table of the grammar, saved next to it, because generating the table takes half a second and needs lark.

`python -m policyengine.syntax.parse_table` writes it, and a test checks it against the grammar. The file is plain data
that runs no code. The saved table is used only with the grammar from which it was generated; for any other grammar a
new table is generated.
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
# The grammar in the wheel, or in a checkout.
GRAMMAR_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "grammar"
GRAMMAR, TABLE = GRAMMAR_FOLDER / "policy.lark", GRAMMAR_FOLDER / "policy.table"
SPACE = r"[ \t\r\n]*+"  # may precede any token
END = "$END"  # the terminal after the last token


class Lexer:
    """Matches the tokens that are valid in a parser state. The name of the matching group is the terminal, unless
    `words` gives another.
    """

    __slots__ = ("match", "words")
    match: Callable[[str, int], re.Match[str] | None]

    def __init__(self, pattern: str, words: Mapping[str, Mapping[str, str]]) -> None:
        self.words = words

        def compiled(text: str, position: int) -> re.Match[str] | None:
            # Compiled on first use, because a small policy needs few.
            self.match = re.compile(f"{SPACE}(?:{pattern})").match
            return self.match(text, position)

        self.match = compiled


@dataclass(frozen=True, slots=True)
class GrammarRule:
    """A grammar rule. `phrase` is the name of the phrase that it builds; None for a list that is inlined; "" for a rule
    that returns its only part unchanged.
    """

    origin: str
    phrase: str | None
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParseTable:
    """The LR table. For each state, `lexers` has the tokens that are valid there, `actions` maps terminals to the state
    to shift to, or to the complement (`~`) of the rule to reduce, and `follows` maps names of reduced rules to the next
    state. `start` and `end` are states; `written` maps terminals to their text.
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
    """Return the parse table: the saved one if it matches the grammar, otherwise a generated one."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    return decode_table(load_saved_table(grammar) or generate_from(grammar))


def decode_table(data: Mapping[str, Any]) -> ParseTable:
    lexers = [Lexer(pattern, words) for pattern, words in data["lexers"]]
    rules = tuple(GrammarRule(origin, phrase, tuple(symbols)) for origin, phrase, symbols in data["rules"])
    by_state = ((lexers[lexer], actions, follows) for lexer, actions, follows in data["states"])
    return ParseTable(data["start"], data["end"], data["written"], rules, *zip(*by_state, strict=True))


def load_saved_table(grammar: str) -> Mapping[str, Any] | None:
    """Return the saved table if it exists and was generated from this grammar; otherwise None."""
    if not TABLE.is_file():
        return None
    data: Mapping[str, Any] = msgpack.unpackb(zlib.decompress(TABLE.read_bytes()))
    return data if data["made_from"] == grammar_digest(grammar) else None


def grammar_digest(grammar: str) -> str:
    return f"sha256:{hashlib.sha256(grammar.encode()).hexdigest()}"


def generate_from(grammar: str) -> dict[str, Any]:
    # Imported only if needed, because it imports lark.
    generator = import_module("policyengine.syntax.parse_table_generator")
    found: dict[str, Any] = generator.generate_table(grammar)
    return found


def encode_table(grammar: str) -> bytes:
    content = {"made_from": grammar_digest(grammar), **generate_from(grammar)}
    return zlib.compress(msgpack.packb(content), 9)


if __name__ == "__main__":
    TABLE.write_bytes(encode_table(GRAMMAR.read_text(encoding="utf-8")))
