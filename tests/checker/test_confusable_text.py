"""Text that reads differently from what it is: exact code, message, underlined text and hint."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.checker.confusable_text import find_confusable_text
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse

REMOVE = "remove it: reviewers cannot see it"
ALPHABETS = "letters of different alphabets can look the same: use one alphabet in each word"


def found(policy: str) -> list[Diagnostic]:
    module, errors = parse(Source("t.policy", policy))
    assert module is not None
    assert errors == []
    return list(find_confusable_text(module))


def told(policy: str) -> list[tuple[str, str, str, str | None]]:
    return [(d.code, d.message, d.span.text, d.hint) for d in found(policy)]


@pytest.mark.parametrize(
    ("policy", "character", "named"),
    [
        pytest.param("# re\u200bviewed\n", "\u200b", "U+200B (zero width space)", id="in a comment"),
        pytest.param('guard "a\u00adb" { deny }', "\u00ad", "U+00AD (soft hyphen)", id="in a name"),
        pytest.param('guard "a" { deny message "x\u2060y" }', "\u2060", "U+2060 (word joiner)", id="in a message"),
        pytest.param('user "a\u3164" { may GET /a }', "\u3164", "U+3164 (hangul filler)", id="a filler"),
        pytest.param('user "\U000e0041" { may GET /a }', "\U000e0041", "U+E0041 (tag latin capital letter a)", id="t"),
        pytest.param('user "a\ufe00" { may GET /a }', "\ufe00", "U+FE00 (variation selector-1)", id="a variation"),
        pytest.param("# a\ue000\n", "\ue000", "U+E000", id="private use"),
    ],
)  # fmt: skip
def test_check_rejects_an_invisible_character_everywhere(policy: str, character: str, named: str) -> None:
    assert told(policy) == [("E140", f"the character {named} is invisible", character, REMOVE)]


def test_adjacent_invisible_characters_are_reported_once() -> None:
    assert [d.span.text for d in found("# a\u200b\u200c\u200db\u200b\n")] == ["\u200b\u200c\u200d", "\u200b"]


def test_invisible_characters_are_reported_at_most_a_hundred_times() -> None:
    assert len(found("# " + "a\u200b" * 1000)) == 100


@pytest.mark.parametrize(
    ("char", "named"),
    [
        ("\u202e", "U+202E (right-to-left override)"),
        ("\u2066", "U+2066 (left-to-right isolate)"),
        ("\u200f", "U+200F (right-to-left mark)"),
        ("\u061c", "U+061C (arabic letter mark)"),
    ],
)
@pytest.mark.parametrize("policy", ["# a{}b", 'guard "a{}b" {{ deny }}', 'guard "a" {{ deny message "a{}b" }}'])
def test_check_rejects_a_bidirectional_control_character_everywhere(policy: str, char: str, named: str) -> None:
    assert told(policy.format(char)) == [("E144", f"the character {named} changes the text direction", char, REMOVE)]


@pytest.mark.parametrize("char", ["\x07", "\x7f", "\u0085", "\u2028", "\ud800"])
def test_control_characters_never_reach_the_checker(char: str) -> None:
    module, errors = parse(Source("t.policy", f"# a{char}b\nanyone {{ may GET /a }}"))
    assert module is None
    assert [error.code for error in errors] == ["E128"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(
            'agent "p\u0430ypal" { issued by acme }',
            ("E142", "the word `p\u0430ypal` mixes Latin and Cyrillic letters", "p\u0430ypal", ALPHABETS),
            id="an agent",
        ),
        pytest.param(
            'user "\u0430lice" { may GET /a }',
            ("E142", "the word `\u0430lice` mixes Cyrillic and Latin letters", "\u0430lice", ALPHABETS),
            id="a user",
        ),
        pytest.param(
            'let x = team "my-\u03bfps"',
            ("E142", "the word `\u03bfps` mixes Greek and Latin letters", "\u03bfps", ALPHABETS),
            id="an entity, in one word of its id",
        ),
        pytest.param(
            'define x = user.id == "\uff41dmin"',
            ("E142", "the word `\uff41dmin` mixes fullwidth Latin and Latin letters", "\uff41dmin", ALPHABETS),
            id="a letter in another dress",
        ),
        pytest.param(
            'define x = user.id == "\\u0430lice"',
            ("E142", "the word `\u0430lice` mixes Cyrillic and Latin letters", '"\\u0430lice"', ALPHABETS),
            id="an escape",
        ),
        pytest.param(
            'define x = user.id == "\u0430\u0301b"',
            ("E142", "the word `\u0430\u0301b` mixes Cyrillic and Latin letters", "\u0430\u0301b", ALPHABETS),
            id="a mark between",
        ),
        pytest.param(
            'guard "a" { deny message "p\u0430y" }',
            ("W142", "the word `p\u0430y` mixes Latin and Cyrillic letters", "p\u0430y", ALPHABETS),
            id="a message",
        ),
        pytest.param(
            'define x = user.id matches "[\u0430-\u044fa-z]+"',
            ("W142", "the word `\u044fa` mixes Cyrillic and Latin letters", "\u044fa", ALPHABETS),
            id="a pattern, whose letters are no word",
        ),
        pytest.param(
            'guard "p\u0430y" { deny }',
            ("W142", "the word `p\u0430y` mixes Latin and Cyrillic letters", "p\u0430y", ALPHABETS),
            id="the name of a guard",
        ),
        pytest.param(
            'define x = user.id == "rene\u0301"',
            (
                "E143",
                "this string is not in Unicode's composed form (NFC)",
                '"rene\u0301"',
                'write it in composed form: `"ren\u00e9"`',
            ),
            id="not composed",
        ),
        pytest.param(
            'define x = user.id == "rene\\u0301"',
            (
                "E143",
                "this string is not in Unicode's composed form (NFC)",
                '"rene\\u0301"',
                'write it in composed form: `"ren\u00e9"`',
            ),
            id="not composed by an escape",
        ),
        pytest.param(
            'user "al\\u200bice" { may GET /a }',
            (
                "E141",
                "the character U+200B (zero width space) is invisible where this string is displayed",
                '"al\\u200bice"',
                "remove the escape",
            ),
            id="an unseen escape",
        ),
        pytest.param(
            'user "al\\u202eice" { may GET /a }',
            (
                "E141",
                "the character U+202E (right-to-left override) is invisible where this string is displayed",
                '"al\\u202eice"',
                "remove the escape",
            ),
            id="an escape that turns the text",
        ),
    ],
)
def test_check_reports_confusable_text(policy: str, expected: tuple[str, str, str, str | None]) -> None:
    assert told(policy) == [expected]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param('user "\u0410\u043b\u0438\u0441\u0430" { may GET /a }', id="a name in Cyrillic"),
        pytest.param('user "\u0391\u03bb\u03af\u03ba\u03b7 alice" { may GET /a }', id="a word in each alphabet"),
        pytest.param('user "ren\u00e9-\u00df\u00f8" { may GET /a }', id="accents"),
        pytest.param('guard "a" { deny message "API\u8a2d\u8a08 10\u00b5s" }', id="no look-alikes"),
        pytest.param("# \u2014 rules \u26a0\ufe0f \u2713 \u2500\u2500\nanyone { may GET /a }", id="signs in a comment"),
        pytest.param('guard "a" { deny message "a\\nb\\t\\u200b" }', id="an escape in words for people"),
        pytest.param('test "t" { given agent "\\u0430gent" from acme\n GET /a => deny }', id="a sample of an attack"),
        pytest.param('test "t" { POST /a { body.x: "e\\u0301\\u200b" } => deny }', id="a sample of a spelling"),
        pytest.param('test "t" { GET "/caf%65%CC%81" => deny }', id="a path"),
    ],
)
def test_check_accepts_unambiguous_text(policy: str) -> None:
    assert told(policy) == []


def test_an_unescaped_test_sample_is_checked_for_mixed_alphabets() -> None:
    assert [d.code for d in found('test "t" { given agent "\u0430gent" from acme\n GET /a => deny }')] == ["E142"]


@given(st.text(st.characters(exclude_characters='"\\\n\r', exclude_categories=["Cs"]), max_size=30))
def test_an_accepted_id_is_in_nfc_and_has_no_invisible_characters(text: str) -> None:
    module, _ = parse(Source("t.policy", f'user "{text}" {{ may GET /a }}'))
    if module is not None and not list(find_confusable_text(module)):
        assert unicodedata.is_normalized("NFC", text)
        assert not any(unicodedata.category(char) in ("Cc", "Cf") for char in text if char != "\t")
