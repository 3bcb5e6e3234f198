"""Text that reads differently from what it is: characters nobody sees, words of two scripts, two spellings of one text.

Works on the source and the strings of the AST. Names outside of quotes are ASCII by the grammar.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum
from itertools import islice

from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast

MAX_FINDINGS_PER_KIND = 100  # of one kind in one file: more would help nobody

# Not drawn, and no format characters by their category.
FILLER_CHARACTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
DIRECTION_CONTROLS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Alphabets with letters that look like those of another one.
CONFUSABLE_SCRIPTS = frozenset({"LATIN", "GREEK", "CYRILLIC", "COPTIC", "ARMENIAN", "CHEROKEE", "LISU", "DESERET"})
# Latin letters in another dress: each looks like a letter of a plain word and is another character.
STYLED_LETTER_NAMES = frozenset({"FULLWIDTH", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"})
MARKS = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
WORD = re.compile(rf"[^\W_](?:[^\W_]|[{MARKS}])*")
ESCAPED = re.compile(r"\\u[0-9a-fA-F]{4}")


def find_confusable_text(module: ast.Module) -> Iterator[Diagnostic]:
    source = module.span.source
    yield from islice(find_invisible_characters(source), MAX_FINDINGS_PER_KIND)
    if source.text.isascii() and not ESCAPED.search(source.text):
        return
    strings = list(strings_of(module))
    for check in (find_mixed_scripts, find_decomposed_text, find_invisible_escapes):
        yield from islice((found for text, use in strings for found in check(text, use)), MAX_FINDINGS_PER_KIND)


# ── The whole source, comments included ───────────────────────────────────────────────────────


def find_invisible_characters(source: Source) -> Iterator[Diagnostic]:
    for start, end in invisible_runs(source.text):
        span = Span(source, start, end)
        hint = "remove it: what a reviewer sees must be what is read"
        if DIRECTION_CONTROLS.search(span.text):
            message = f"{describe_characters(DIRECTION_CONTROLS.findall(span.text)[0])} turns the direction of writing"
            yield Diagnostic("E144", message, span, hint)
        else:
            yield Diagnostic("E140", f"{describe_characters(span.text)} cannot be seen", span, hint)


def invisible_runs(text: str) -> Iterator[tuple[int, int]]:
    """Where unseen characters stand, neighbours together."""
    unseen = {char for char in set(text) if is_invisible(char)}
    start: int | None = None
    for i, char in enumerate(text if unseen else ""):
        if char in unseen and not is_emoji_style(text, i):
            start = i if start is None else start
        elif start is not None:
            yield start, i
            start = None
    if start is not None:
        yield start, len(text)


def is_invisible(char: str) -> bool:
    """Controls, format and direction characters, line separators, surrogates, private use, fillers, variations."""
    if char.isascii():
        return not char.isprintable() and char not in "\n\t\r"
    return (
        unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")
        or char in FILLER_CHARACTERS
        or is_variation_selector(char)
    )


def is_variation_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or "\u180b" <= char <= "\u180d"


def is_emoji_style(text: str, at: int) -> bool:
    """The one variation people type without knowing: a sign drawn in colour."""
    return text[at] == "\ufe0f" and at > 0 and unicodedata.category(text[at - 1]) in ("So", "Sm", "Po")


def describe_characters(text: str) -> str:
    first = f"the character U+{ord(text[0]):04X}"
    name = unicodedata.name(text[0], "")
    return f"{first} ({name.lower()})" if name else first


# ── The strings of the AST ────────────────────────────────────────────────────────────────────


class StringUse(Enum):
    """What a string is for decides how strictly it is read."""

    ID = "id"  # something is compared with it
    PROSE = "prose"  # words for people
    SAMPLE = "sample"  # what a test tries: an escape may spell what an id may not hold


def strings_of(module: ast.Module) -> Iterator[tuple[ast.Text, StringUse]]:
    for declaration in module.declarations:
        tested = isinstance(declaration, ast.FixtureDecl | ast.TestDecl)
        prose = {id(text) for node in ast.walk(declaration) for text in prose_in(node)}
        for node in ast.walk(declaration):
            if isinstance(node, ast.Text):
                yield node, StringUse.PROSE if id(node) in prose else StringUse.SAMPLE if tested else StringUse.ID


def prose_in(node: ast.Node) -> tuple[ast.Text | None, ...]:
    match node:
        case ast.Deny() | ast.Require() | ast.Confirm() | ast.ObligationEffect():
            return (node.message,)
        case ast.GuardDecl() | ast.RateDecl() | ast.BudgetDecl() | ast.ProfileDecl() | ast.InvariantDecl():
            return (node.name,)
        case ast.TestDecl() | ast.ByRule():
            return (node.name,)
        case ast.Skip():
            return (node.reason,)
        case ast.Binary(operator="matches", right=ast.Text() as pattern):  # `[a-z\u0430-\u044f]` is no word
            return (pattern,)
        case _:
            return ()


def find_mixed_scripts(text: ast.Text, use: StringUse) -> Iterator[Diagnostic]:
    for match in WORD.finditer(text.span.text if use is StringUse.SAMPLE else text.value):
        scripts = scripts_of(match[0])
        if len(scripts) > 1:
            message = f"the word `{match[0]}` mixes {' and '.join(scripts)} letters"
            hint = "letters of different alphabets can look the same: write each word in one"
            yield Diagnostic("W142" if use is StringUse.PROSE else "E142", message, word_span(text, match[0]), hint)


def scripts_of(word: str) -> list[str]:
    """The alphabets of a word that have look-alikes elsewhere, in order of appearance."""
    return list(dict.fromkeys(script for char in word if char.isalpha() and (script := script_of(char))))


def script_of(char: str) -> str | None:
    if char.isascii():
        return "Latin"
    name = unicodedata.name(char, "").split(" ")[0]
    if name in STYLED_LETTER_NAMES and unicodedata.normalize("NFKC", char).isascii():
        return f"{name.lower()} Latin"
    return name.capitalize() if name in CONFUSABLE_SCRIPTS else None


def find_decomposed_text(text: ast.Text, use: StringUse) -> Iterator[Diagnostic]:
    """Two spellings of one text look the same and are different ids."""
    if not is_composed(text.span.text) or (use is StringUse.ID and not is_composed(text.value)):
        composed = unicodedata.normalize("NFC", text.value)
        message = "this text is not in Unicode's composed form (NFC)"
        yield Diagnostic("E143", message, text.span, f'write it composed: `"{composed}"`')


def is_composed(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def find_invisible_escapes(text: ast.Text, use: StringUse) -> Iterator[Diagnostic]:
    """In prose an escape may turn the direction of writing; in an id it can only deceive."""
    if use is not StringUse.ID or "\\" not in text.span.text:
        return
    written = text.span.text
    unseen = [
        text.value[start:end] for start, end in invisible_runs(text.value) if text.value[start:end] not in written
    ]
    if unseen:
        message = f"{describe_characters(unseen[0])} cannot be seen where this text is shown"
        yield Diagnostic("E141", message, text.span, "leave the escape out")


def word_span(text: ast.Text, word: str) -> Span:
    """The word inside of the string, if it stands there as it is."""
    at = text.span.text.find(word)
    start = text.span.start + at
    return Span(text.span.source, start, start + len(word)) if at >= 0 else text.span
