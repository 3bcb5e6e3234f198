"""Letter case of path segments: texts that some case-insensitive server may treat as equal, and texts that every such
server treats as equal.

Literals of patterns are ASCII; requests may have any Unicode text. Servers that ignore case differ: some fold only
ASCII letters; others compare in lower case, in upper case, with Unicode case folding, or with Turkish rules.
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
    """Return whether every server that ignores case treats both texts as the same; `other` is ASCII."""
    return text == other or (text.isascii() and text.lower() == other.lower())


def has_letters(text: str) -> bool:
    """Return whether an ASCII text has letters, so that its case can vary."""
    return text.lower() != text.upper()
