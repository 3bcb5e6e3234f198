"""The parse table of the grammar, saved beside it: building it anew costs half a second at every start.

`python -m policyengine.syntax.table` writes it, and a test holds it equal to the grammar. It is data that runs nothing,
and serves only the grammar and the version of lark that it was made from; for any other the table is built.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lark
import msgpack  # type: ignore[import-untyped]
from lark import Lark, Token
from lark.grammar import Rule
from lark.lexer import TerminalDef

_PACKAGE = Path(__file__).parent.parent
_INSTALLED = _PACKAGE / "grammar"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "grammar"  # in the wheel, or in a checkout
GRAMMAR, TABLE = FOLDER / "policy.lark", FOLDER / "policy.table"
UNBOUNDED = 2**32  # lark's width of a terminal without end is an int that no format of 64 bits holds
OURS = ("transformer", "lexer_callbacks", "postlex")  # options that are objects of a process


class WholeWords:
    """Lets the lexer see a whole word wherever it stands, so that `denywhen` is never read as `deny when`."""

    always_accept = ("NAME",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


def parser(**options: Any) -> Lark:
    """The parser of the grammar, from the saved table where that is its own."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    data = saved(grammar)
    if data is None:
        return built(grammar, **options)
    found: Lark = Lark._load_from_dict(data["data"], data["memo"], postlex=WholeWords(), **options)  # type: ignore[no-untyped-call]
    return found


def built(grammar: str, **options: Any) -> Lark:
    return Lark(
        grammar,
        parser="lalr",
        start="module",
        maybe_placeholders=False,
        keep_all_tokens=True,
        postlex=WholeWords(),
        **options,
    )


def saved(grammar: str) -> Mapping[str, Any] | None:
    """What `table` wrote for this grammar and this lark, if it is there."""
    if not TABLE.is_file():
        return None
    table: Mapping[str, Any] = msgpack.unpackb(zlib.decompress(TABLE.read_bytes()), strict_map_key=False)
    return table if table["made_from"] == made_from(grammar) else None


def made_from(grammar: str) -> str:
    return f"lark {lark.__version__} sha256:{hashlib.sha256(grammar.encode()).hexdigest()}"


def table(grammar: str) -> bytes:
    data, memo = built(grammar).memo_serialize([TerminalDef, Rule])
    data["options"] = {name: None if name in OURS else value for name, value in data["options"].items()}
    content = {"made_from": made_from(grammar), "data": data, "memo": memo}
    return zlib.compress(msgpack.packb(content, default=partial(min, UNBOUNDED)), 9)


if __name__ == "__main__":
    TABLE.write_bytes(table(GRAMMAR.read_text(encoding="utf-8")))
