"""Words: plain technical English, and phrases that must not come back."""

from __future__ import annotations

import pytest

from tests.style import words
from tests.style.words import Prose


def test_the_package_contains_no_banned_phrase() -> None:
    assert [f"{one.place}: {one.phrases} in {one.text[:80]!r}" for one in words.package_prose() if one.phrases] == []


def test_no_docstring_is_a_sentence_fragment() -> None:
    assert [f"{one.place}: {one.text[:80]!r}" for one in words.package_prose() if one.is_fragment] == []


def test_no_documentation_page_contains_a_banned_phrase() -> None:
    assert [f"{one.place}: {one.phrases}" for one in words.pages() if one.phrases] == []


@pytest.mark.parametrize(
    "phrase",
    [
        "whoever asks",
        "the proof is none",
        "the operator is told",
        "be it JSON",
        "it is of another log",
        "it takes some milliseconds",
    ],
)
def test_a_banned_phrase_is_found(phrase: str) -> None:
    assert Prose("comment", "", f"A sentence: {phrase}.").phrases


@pytest.mark.parametrize("text", ["`told` is a name", "```\nwhoever\n```", "a proof that is missing"])
def test_code_and_plain_words_are_not_reported(text: str) -> None:
    assert not Prose("comment", "", text).phrases


def test_a_docstring_without_a_verb_is_a_fragment() -> None:
    assert Prose("docstring", "", "What ends with 1.").is_fragment
    assert not Prose("docstring", "", "Return the exit code.").is_fragment
