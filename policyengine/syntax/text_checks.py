"""Checks on the text before parsing: invalid characters and limits of size."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.source import Source, Span

MAX_CHARACTERS = 32 * 1024 * 1024  # 100,000 rules take 18 million characters
MAX_BRACKETS = 64

# Control characters, line ends of other systems, lone surrogates, a byte order mark. The checker finds other deceptive
# characters, because it can distinguish names from prose.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\\A\ufeff")
STRINGS_COMMENTS_BRACKETS = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]{}]')
ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})'
)


def read_source(name: str, data: bytes) -> Source | Diagnostic:
    """Decode the bytes of a file; return the source, or a diagnostic if they are not UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _not_a_text(
            name, "this file is UTF-16, but a policy must be UTF-8", "save it as UTF-8, without a byte order mark"
        )
    try:
        return Source(name, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"this file is not UTF-8: line {line} contains the byte {data[error.start]:#04x}"
        return _not_a_text(name, message, "save it as UTF-8")


def _not_a_text(name: str, message: str, hint: str) -> Diagnostic:
    return Diagnostic("E100", message, Span(Source(name, ""), 0, 0), hint)


def check_characters(source: Source) -> list[Diagnostic]:
    """Return the errors that prevent parsing."""
    if len(source.text) > MAX_CHARACTERS:
        message = f"this file has {len(source.text):,} characters; the limit is {MAX_CHARACTERS:,}"
        return [Diagnostic("E121", message, Span(source, 0, 0), "split it into several packages")]
    return _hidden_characters(source) or _too_many_brackets(source)


def _hidden_characters(source: Source) -> list[Diagnostic]:
    text = source.text
    places = [m.start() for m in HIDDEN.finditer(text) if not text.startswith("\r\n", m.start())]
    return [_hidden_character(source, place) for place in places[:25]]


def _hidden_character(source: Source, place: int) -> Diagnostic:
    char, span = source.text[place], Span(source, place, place + 1)
    if char == "\ufeff" and place == 0:
        return Diagnostic(
            "E100", "this file begins with a byte order mark", span, "save it as UTF-8 without a byte order mark"
        )
    if char == "\r":
        return Diagnostic("E128", "a carriage return alone does not end a line", span, "end lines with a line feed")
    message = f"hidden character U+{ord(char):04X}"
    return Diagnostic("E128", message, span, "remove it, or write it as an escape")


def _too_many_brackets(source: Source) -> list[Diagnostic]:
    opened: list[int] = []
    for match in STRINGS_COMMENTS_BRACKETS.finditer(source.text):
        sign = match[0]
        if sign in "([{":
            opened.append(match.start())
            if len(opened) > MAX_BRACKETS:
                outermost = RelatedLocation("this is the outermost bracket", Span(source, opened[0], opened[0] + 1))
                message = f"brackets nest more than {MAX_BRACKETS} levels deep"
                return [
                    Diagnostic(
                        "E122",
                        message,
                        Span(source, *match.span()),
                        "close some brackets, or name parts with `define`",
                        (outermost,),
                    )
                ]
        elif sign in ")]}" and opened:
            opened.pop()
    return []


def find_bad_escapes(source: Source) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each invalid escape in a string."""
    if "\\" not in source.text:
        return
    for match in STRINGS_COMMENTS_BRACKETS.finditer(source.text):
        if match[0][0] == '"' and "\\" in match[0]:
            yield from _bad_escapes_in(source, match.start(), match[0])


def _bad_escapes_in(source: Source, start: int, quoted: str) -> Iterator[Diagnostic]:
    at = 1
    while (at := quoted.find("\\", at)) != -1:
        size = _escape_size(quoted, at)
        if size == 0:
            size = 2
            span = Span(source, start + at, start + at + size)
            yield Diagnostic(
                "E126", f"`{span.text}` is not a valid escape", span, f"write `\\{span.text}` for a backslash itself"
            )
        at += size


def _escape_size(quoted: str, at: int) -> int:
    match = ESCAPE.match(quoted, at)
    return len(match[0]) if match else 0
