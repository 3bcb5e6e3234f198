"""The machine that reads policies: any number at once, in time that grows with the text alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.syntax.parser import LexError, LrParser

SOURCES = [Source(file.name, file.read_text()) for file in sorted(Path(__file__).parent.glob("corpus/*.policy"))]


def read(text: str) -> LrParser:
    machine = LrParser(Source("p", text))
    assert all(map(machine.feed, machine.tokens()))
    return machine


def test_threads_can_parse_concurrently() -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(parse, SOURCES * 4)) == [parse(source) for source in SOURCES] * 4


def test_an_empty_text_is_a_module() -> None:
    module = read("").finish()
    assert module is not None
    assert module.declarations == ()


def test_a_text_that_ends_too_early_gives_no_module() -> None:
    assert read("anyone {").finish() is None


def test_the_parser_rejects_an_unexpected_token() -> None:
    machine = LrParser(Source("p", "anyone anyone"))
    assert [machine.feed(token) for token in machine.tokens()] == [True, False]


def test_a_lex_error_has_the_offset_of_the_invalid_character() -> None:
    machine = LrParser(Source("p", "anyone # ^\n  ^"))
    with pytest.raises(LexError) as error:
        list(map(machine.feed, machine.tokens()))
    assert error.value.offset == 13
    assert [comment.text for comment in machine.comments] == ["# ^"]


def test_forget_drops_the_last_declaration() -> None:
    machine = read("anyone { may GET /a }\nagent")
    machine.forget(len(machine.states) - 1)
    module = machine.finish()
    assert module is not None
    assert len(module.declarations) == 1


def test_repeated_names_share_one_object() -> None:
    module, _ = parse(Source("p", "let a = user.id\nlet b = user.id\n"))
    assert module is not None
    first, second = (declaration.value.name for declaration in module.declarations)
    assert first is second
