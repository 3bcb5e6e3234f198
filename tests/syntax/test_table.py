"""The saved parse table is the grammar's own, and another grammar is never read by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lark import Lark

from policyengine.source import Source
from policyengine.syntax import table
from policyengine.syntax.build import Builder, Phrases

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.policy"))
TEXT = table.GRAMMAR.read_text(encoding="utf-8")


def test_the_saved_table_was_made_from_the_grammar() -> None:
    assert table.saved(TEXT) is not None, "run `make table`"


def test_another_grammar_or_another_lark_builds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table.saved(TEXT + "\n// changed") is None
    monkeypatch.setattr("lark.__version__", "0.0")
    assert table.saved(TEXT) is None


def test_without_a_saved_table_the_grammar_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "TABLE", tmp_path / "none")
    assert table.parser(transformer=Phrases(Builder())).rules


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_the_saved_table_reads_as_the_grammar_does(file: Path) -> None:
    builder = Builder()
    builder.source = Source(file.name, file.read_text(encoding="utf-8"))
    options = {"transformer": Phrases(builder)}
    by_table, by_grammar = table.parser(**options), table.built(TEXT, **options)
    assert by_table.parse(builder.source.text) == by_grammar.parse(builder.source.text)
    assert spelled(by_table) == spelled(by_grammar)


def spelled(parser: Lark) -> set[tuple[str, str, int]]:
    return {(terminal.name, terminal.pattern.to_regexp(), terminal.priority) for terminal in parser.terminals}
