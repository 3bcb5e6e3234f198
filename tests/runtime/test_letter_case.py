"""What some server that ignores case may take for the same text: all of Unicode, held against every way to fold it."""

import sys
import unicodedata

import pytest

from policyengine.runtime import paths
from policyengine.runtime.letter_case import equal_ignoring_case, fold_case, has_letters

WAYS = (str.lower, str.upper, str.title, str.casefold, str.swapcase, lambda c: c.upper().lower())
TURKISH = {"I": "ı", "i": "İ"}


def readings(char: str) -> set[str]:
    """What lower case, upper case and folding make of a character, in composed and in compatible form."""
    found = {way(char) for way in WAYS}
    return found | {unicodedata.normalize(form, one) for one in found if one != char for form in ("NFC", "NFKC")}


def test_characters_that_servers_fold_to_ascii_fold_here_or_are_not_canonical():
    cased = (
        chr(code) for code in range(128, sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt")
    )
    taken = {char: {one.lower() for one in readings(char) if one.isascii()} for char in cased}
    odd = {char: found for char, found in taken.items() if found and paths.find_segment_hazard(f"x{char}x") is None}
    assert set(odd) == {"ß", "ẞ", "ı"}
    assert all({fold_case(char)} == found for char, found in odd.items())


@pytest.mark.parametrize("char", ["\u017f", "\u212a", "\ufb01", "\u0149", "\uff41"])
def test_characters_that_normalize_to_ascii_make_a_path_malformed(char: str):
    assert isinstance(paths.canonical_path(f"/x{char}x"), paths.MalformedPath)


@pytest.mark.parametrize(
    ("text", "folded"),
    [("Secret", "secret"), ("SECRET", "secret"), ("İD", "id"), ("ıd", "id"), ("STRAßE", "strasse"), ("ÉTÉ", "été"),
     ("Σ", "σ"), ("ς", "σ"), ("a-B_1~", "a-b_1~"), ("", "")],
)  # fmt: skip
def test_case_folding_is_idempotent(text: str, folded: str):
    assert fold_case(text) == folded
    assert fold_case(folded) == folded


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [("SECRET", "secret", True), ("secret", "Secret", True), ("ıd", "id", False), ("straße", "strasse", False),
     ("secrets", "secret", False), ("7", "7", True)],
)  # fmt: skip
def test_equal_ignoring_case_folds_only_ascii_letters(text: str, other: str, same: bool):
    assert equal_ignoring_case(text, other) is same


def test_has_letters_is_false_for_text_without_letters():
    assert [one for one in ("7", "-_~:", "v1", "x") if has_letters(one)] == ["v1", "x"]
