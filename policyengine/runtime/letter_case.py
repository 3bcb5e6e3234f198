"""Letter case of path segments: what a server that ignores it may take for the same, and what every such server does.

The literals of patterns are ASCII; what is asked for may be any Unicode text. Servers that ignore case differ: some
compare ASCII letters alone, some by lower case, some by upper case, some by Unicode's case folding, some by the rules
of Turkish.
"""

from __future__ import annotations

# Upper case makes `I` of the dotless one, and Turkish systems make `i` of the dotted one: case folding does neither.
TURKISH = {"ı": "i", "İ": "i"}


def fold_case(text: str) -> str:
    """One spelling for all texts that some server may take for the same ASCII text."""
    if text.isascii():
        return text.lower()
    return "".join(TURKISH.get(char) or char.casefold() for char in text)


def equal_ignoring_case(text: str, other: str) -> bool:
    """Whether every server that ignores case takes both for the same; `other` is ASCII."""
    return text == other or (text.isascii() and text.lower() == other.lower())


def has_letters(text: str) -> bool:
    """Whether an ASCII text has another spelling."""
    return text.lower() != text.upper()
