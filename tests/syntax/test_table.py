"""The saved parse table is the grammar's own, and another grammar is never read by it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lark import Token

from policyengine.source import Source
from policyengine.syntax import parse_table, parser
from policyengine.syntax.parse import parse, tokenize
from tests.syntax.by_lark import lark

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.policy"))
TEXT = parse_table.GRAMMAR.read_text(encoding="utf-8")

generated = cache(parse_table.generate_from)
corpus = pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)


@pytest.fixture
def by_grammar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No table is saved: it is built from the grammar."""
    monkeypatch.setattr(parse_table, "TABLE", tmp_path / "none")
    monkeypatch.setattr(parse_table, "generate_from", generated)
    forget()
    yield
    forget()


def forget() -> None:
    parse_table.load_parse_table.cache_clear()
    parser.prepare_reductions.cache_clear()


def read(file: Path) -> Source:
    return Source(file.name, file.read_text(encoding="utf-8"))


def test_the_saved_table_was_made_from_the_grammar() -> None:
    assert parse_table.load_saved_table(TEXT) is not None, "run `make table`"


def test_the_saved_table_is_rejected_for_another_grammar() -> None:
    assert parse_table.load_saved_table(TEXT + "\n// changed") is None


@pytest.mark.usefixtures("by_grammar")
def test_without_a_saved_table_the_parser_builds_it_from_the_grammar() -> None:
    module, diagnostics = parse(Source("p", "anyone { may GET /health }"))
    assert module is not None
    assert diagnostics == []


def test_the_saved_table_equals_the_table_built_from_the_grammar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = parse_table.load_saved_table(TEXT)
    monkeypatch.setattr(parse_table, "TABLE", tmp_path / "anew")
    monkeypatch.setattr(parse_table, "generate_from", generated)
    parse_table.TABLE.write_bytes(parse_table.encode_table(TEXT))
    assert parse_table.load_saved_table(TEXT) == saved, "run `make table`"


@corpus
def test_the_saved_table_parses_the_corpus_like_the_grammar(file: Path, request: pytest.FixtureRequest) -> None:
    by_table = parse(read(file))
    request.getfixturevalue("by_grammar")
    assert parse(read(file)) == by_table


@corpus
def test_the_tokenizer_finds_the_same_tokens_as_lark(file: Path) -> None:
    found = [(token.type, token.text, token.start, token.end) for token in tokenize(read(file))]
    by_lark: list[Any] = sorted(
        lark().parse(read(file).text).scan_values(lambda value: isinstance(value, Token)), key=lambda t: t.start_pos
    )
    assert found == [(token.type, str(token), token.start_pos, token.end_pos) for token in by_lark]


def test_reading_a_policy_does_not_load_lark() -> None:
    program = (
        "import sys; from policyengine.check import check_text; "
        "check_text('anyone { may GET /a }'); check_text('anyone { may'); sys.exit('lark' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
