"""Texts without power over a terminal, a log or a report: what is not printable is written as an escape."""

from __future__ import annotations

import json


def printable(text: str, allowed: str = "\t") -> str:
    """The text with all that is not printable escaped but what is `allowed`: controls, line ends, and what turns the
    order of letters around."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in allowed else repr(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """The text on one line, whatever it holds: no part of it looks like a line of ours."""
    return printable(text, "")


def printable_json(text: str) -> str:
    """The same JSON, in which all that is not printable is an escape."""
    if text.isprintable():
        return text
    escapes = {ord(char): json.dumps(char)[1:-1] for char in set(text) if not (char.isprintable() or char == "\n")}
    return text.translate(escapes)
