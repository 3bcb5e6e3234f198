"""Escapes text for terminals, logs and pages, so that characters that are not printable have no effect there, and finds
characters that are invisible.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # spreadsheets run cells that begin with them

# Characters without a glyph that are not in Unicode's category of format characters.
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
FILLER_CHARACTERS = frozenset(FILLERS)
# The invisible characters that Python calls printable: fillers and variation selectors.
PRINTABLE_INVISIBLE = re.compile(f"[{FILLERS}\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def is_shown(text: str) -> bool:
    """Return whether each character of a text is printable and visible."""
    return text.isprintable() and (text.isascii() or PRINTABLE_INVISIBLE.search(text) is None)


def printable(text: str, allowed: str = "\t") -> str:
    """Escape characters that are invisible or not printable, unless they are `allowed`: controls, line ends, fillers,
    and marks that reverse the text direction.
    """
    if is_shown(text):
        return text
    return "".join(
        char if is_shown(char) or char in allowed or is_emoji_style(text, at) else escape_character(char)
        for at, char in enumerate(text)
    )


def escape_character(char: str) -> str:
    """Return the escape of a character in a Python string, such as `\\u202e`."""
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Return the text on one line, so that no part of the text can look like a separate line."""
    return printable(text, "")


def printable_json(text: str) -> str:
    """Return equal JSON with escapes for characters that are not printable, or invisible."""
    if is_shown(text):
        return text
    shown = {char for char in set(text) if is_shown(char) or char in "\n\ufe0f"}  # the latter selects a style of emoji
    return text.translate({ord(char): json.dumps(char)[1:-1] for char in set(text) - shown})


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
    if is_shown(word):
        return shlex.quote(word)
    return "$'" + "".join(f"\\{char}" if char in "\\'" else _shell_char(char) for char in word) + "'"


def _shell_char(char: str) -> str:
    """Return the character, or the escapes of its bytes. File names may contain bytes that are not UTF-8, which Python
    reads as surrogates.
    """
    if is_shown(char):
        return char
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))


# ── Invisible characters ──────────────────────────────────────────────────────────────────────


def is_invisible(char: str) -> bool:
    """Return whether a character is a control, format, direction or private-use character, a line separator, a
    surrogate, a filler or a variation selector. Line feeds, tabs and carriage returns are visible."""
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
    """Return whether the character is the variation selector for emoji after a symbol, which keyboards insert
    automatically.
    """
    return text[at] == "\ufe0f" and at > 0 and unicodedata.category(text[at - 1]) in ("So", "Sm", "Po")


def split_invisible(text: str, allowed: str = "\t") -> Iterator[tuple[str, bool]]:
    """Yield the text in parts, with the code point, such as `U+202E`, in place of each character that is invisible and
    not `allowed`. Each part has a flag: whether it is a code point."""
    start = 0
    for at, char in enumerate("" if text.isascii() and text.isprintable() else text):
        if (char.isprintable() and not is_invisible(char)) or char in allowed or is_emoji_style(text, at):
            continue
        if start < at:
            yield text[start:at], False
        yield f"U+{ord(char):04X}", True
        start = at + 1
    if start < len(text):
        yield text[start:], False
