"""Detects deceptive text: invisible characters, words that mix scripts, strings that are not in NFC. Works on the
source and the strings of the AST. Names outside strings are ASCII by the grammar.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum
from itertools import islice

from policyengine.control_characters import is_emoji_style, is_invisible
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast

MAX_FINDINGS_PER_KIND = 100  # maximum findings per kind and file; more would not help the author

DIRECTION_CONTROLS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Scripts with letters that look like letters of another script.
CONFUSABLE_SCRIPTS = frozenset({"LATIN", "GREEK", "CYRILLIC", "COPTIC", "ARMENIAN", "CHEROKEE", "LISU", "DESERET"})
# Styled Latin letters: each looks like a plain letter but is another character.
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
        hint = "remove it: reviewers cannot see it"
        if DIRECTION_CONTROLS.search(span.text):
            message = f"{describe_characters(DIRECTION_CONTROLS.findall(span.text)[0])} changes the text direction"
            yield Diagnostic("E144", message, span, hint)
        else:
            yield Diagnostic("E140", f"{describe_characters(span.text)} is invisible", span, hint)


def invisible_runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of invisible characters."""
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


def describe_characters(text: str) -> str:
    first = f"the character U+{ord(text[0]):04X}"
    name = unicodedata.name(text[0], "")
    return f"{first} ({name.lower()})" if name else first


# ── The strings of the AST ────────────────────────────────────────────────────────────────────


class StringUse(Enum):
    """The use of a string, which determines how strictly it is checked."""

    ID = "id"  # a value that is compared with other values
    PROSE = "prose"  # text for people
    SAMPLE = "sample"  # a value in a test, whose escapes may stand for characters that an id must not contain


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
        case ast.Binary(operator="matches", right=ast.Text() as pattern):  # `[a-z\u0430-\u044f]` is not a word
            return (pattern,)
        case _:
            return ()


def find_mixed_scripts(text: ast.Text, use: StringUse) -> Iterator[Diagnostic]:
    for match in WORD.finditer(text.span.text if use is StringUse.SAMPLE else text.value):
        scripts = scripts_of(match[0])
        if len(scripts) > 1:
            message = f"the word `{match[0]}` mixes {' and '.join(scripts)} letters"
            hint = "letters of different alphabets can look the same: use one alphabet in each word"
            yield Diagnostic("W142" if use is StringUse.PROSE else "E142", message, word_span(text, match[0]), hint)


def scripts_of(word: str) -> list[str]:
    """Return the scripts of a word that have look-alikes in other scripts, in order of appearance."""
    return list(dict.fromkeys(script for char in word if char.isalpha() and (script := script_of(char))))


def script_of(char: str) -> str | None:
    if char.isascii():
        return "Latin"
    name = unicodedata.name(char, "").split(" ")[0]
    if name in STYLED_LETTER_NAMES and unicodedata.normalize("NFKC", char).isascii():
        return f"{name.lower()} Latin"
    return name.capitalize() if name in CONFUSABLE_SCRIPTS else None


def find_decomposed_text(text: ast.Text, use: StringUse) -> Iterator[Diagnostic]:
    """Report a string that is not in NFC, because it may look the same as a different id."""
    if not is_composed(text.span.text) or (use is StringUse.ID and not is_composed(text.value)):
        composed = unicodedata.normalize("NFC", text.value)
        message = "this string is not in Unicode's composed form (NFC)"
        yield Diagnostic("E143", message, text.span, f'write it in composed form: `"{composed}"`')


def is_composed(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def find_invisible_escapes(text: ast.Text, use: StringUse) -> Iterator[Diagnostic]:
    """Report escapes of invisible characters in ids. In prose they may be needed to change the text direction."""
    if use is not StringUse.ID or "\\" not in text.span.text:
        return
    written = text.span.text
    unseen = [
        text.value[start:end] for start, end in invisible_runs(text.value) if text.value[start:end] not in written
    ]
    if unseen:
        message = f"{describe_characters(unseen[0])} is invisible where this string is displayed"
        yield Diagnostic("E141", message, text.span, "remove the escape")


def word_span(text: ast.Text, word: str) -> Span:
    """Return the span of the word, or of the whole string if escapes hide the word."""
    at = text.span.text.find(word)
    start = text.span.start + at
    return Span(text.span.source, start, start + len(word)) if at >= 0 else text.span
