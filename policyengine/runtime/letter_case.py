"""Letter case of path segments: texts that a server without case may treat as equal, and texts that all of them do.

Literals of patterns are ASCII; requests may have any Unicode text. Servers that ignore case differ: they compare ASCII
letters only, or by lower case, by upper case, by Unicode case folding, or by Turkish rules.
"""

from __future__ import annotations

# Upper case turns the dotless `ı` into `I`, and Turkish systems turn `İ` into `i`; case folding does neither.
TURKISH = {"ı": "i", "İ": "i"}


def fold_case(text: str) -> str:
    """Return one spelling for all texts that some server may treat as the same ASCII text."""
    if text.isascii():
        return text.lower()
    return "".join(TURKISH.get(char) or char.casefold() for char in text)


def equal_ignoring_case(text: str, other: str) -> bool:
    """Return whether every server that ignores case treats both as the same; `other` is ASCII."""
    return text == other or (text.isascii() and text.lower() == other.lower())


def has_letters(text: str) -> bool:
    """Return whether an ASCII text has letters, so that its case can vary."""
    return text.lower() != text.upper()
