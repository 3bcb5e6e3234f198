"""Words: plain technical English, and phrases that must not come back."""

from __future__ import annotations

import pytest

from tests.style import words
from tests.style.words import Prose


def test_the_package_has_no_phrase_of_the_list() -> None:
    assert [f"{one.place}: {one.phrases} in {one.text[:80]!r}" for one in words.package_prose() if one.phrases] == []


def test_no_docstring_begins_as_half_a_sentence() -> None:
    assert [f"{one.place}: {one.text[:80]!r}" for one in words.package_prose() if one.is_fragment] == []


def test_no_page_has_a_phrase_of_the_list() -> None:
    assert [f"{one.place}: {one.phrases}" for one in words.pages() if one.phrases] == []


@pytest.mark.parametrize("phrase", ["whoever asks", "the proof is none", "the operator is told", "be it JSON"])
def test_a_phrase_of_the_list_is_found(phrase: str) -> None:
    assert Prose("comment", "", f"A sentence: {phrase}.").phrases


@pytest.mark.parametrize("text", ["`told` is a name", "```\nwhoever\n```", "a proof that is missing"])
def test_code_and_plain_words_pass(text: str) -> None:
    assert not Prose("comment", "", text).phrases


def test_a_docstring_that_has_no_verb_is_found() -> None:
    assert Prose("docstring", "", "What ends with 1.").is_fragment
    assert not Prose("docstring", "", "Return the exit code.").is_fragment
