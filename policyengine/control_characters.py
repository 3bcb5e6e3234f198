"""Escapes text for terminals, logs and reports, so that characters that are not printable have no effect there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # spreadsheets run cells that begin with them


def printable(text: str, allowed: str = "\t") -> str:
    """Escape characters that are neither printable nor `allowed`: controls, line ends, and marks that reverse the text
    direction.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in allowed else repr(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """Return the text on one line, so that no part of the text can look like a separate line."""
    return printable(text, "")


def printable_json(text: str) -> str:
    """Return equal JSON with escapes for characters that are not printable."""
    if text.isprintable():
        return text
    escapes = {ord(char): json.dumps(char)[1:-1] for char in set(text) if not (char.isprintable() or char == "\n")}
    return text.translate(escapes)


def spreadsheet_text(text: str) -> str:
    """Return the text of a cell on one line; a text that a spreadsheet could run as a formula is prefixed with `'`."""
    shown = one_line(text)
    return f"'{shown}" if shown.lstrip(" ").startswith(FORMULA_STARTS) else shown


def shell_command(words: Iterable[str]) -> str:
    """Return the words as a printable command line. A word that is not printable is written as `$'…'`, which bash and
    zsh read.
    """
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(f"\\{char}" if char in "\\'" else _shell_char(char) for char in word) + "'"


def _shell_char(char: str) -> str:
    """Return the character, or the escapes of its bytes. File names may contain bytes that are not UTF-8, which Python
    reads as surrogates.
    """
    if char.isprintable():
        return char
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
