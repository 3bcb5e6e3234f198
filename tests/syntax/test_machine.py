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


def test_threads_read_at_the_same_time() -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(parse, SOURCES * 4)) == [parse(source) for source in SOURCES] * 4


def test_nothing_at_all_is_a_module() -> None:
    module = read("").finish()
    assert module is not None
    assert module.declarations == ()


def test_a_text_that_ends_too_early_is_no_module() -> None:
    assert read("anyone {").finish() is None


def test_a_token_that_cannot_stand_there_is_refused() -> None:
    machine = LrParser(Source("p", "anyone anyone"))
    assert [machine.feed(token) for token in machine.tokens()] == [True, False]


def test_what_no_token_begins_with_has_its_place() -> None:
    machine = LrParser(Source("p", "anyone # ^\n  ^"))
    with pytest.raises(LexError) as error:
        list(map(machine.feed, machine.tokens()))
    assert error.value.offset == 13
    assert [comment.text for comment in machine.comments] == ["# ^"]


def test_what_is_forgotten_was_not_read() -> None:
    machine = read("anyone { may GET /a }\nagent")
    machine.forget(len(machine.states) - 1)
    module = machine.finish()
    assert module is not None
    assert len(module.declarations) == 1


def test_a_name_that_recurs_is_kept_once() -> None:
    module, _ = parse(Source("p", "let a = user.id\nlet b = user.id\n"))
    assert module is not None
    first, second = (declaration.value.name for declaration in module.declarations)
    assert first is second
