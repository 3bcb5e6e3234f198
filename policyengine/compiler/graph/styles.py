"""What the pictures have in common: colours by kind, lines of a box, how wide they are."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from policyengine.compiler.graph.box import Box, Kind
from policyengine.compiler.graph.text import title
from policyengine.control_characters import one_line

LONGEST = 72  # columns of a line in a picture
MOST_LINES = 4  # of one text in it; the whole is in the text and the data


@dataclass(frozen=True, slots=True)
class Colour:
    """A pale ground with dark letters, a dark ground with pale ones, and a line that is seen on both."""

    light: str
    dark: str
    line: str


GREY = Colour("#f4f5f7", "#24272e", "#8a8f98")
BLUE = Colour("#e6f0fb", "#14304f", "#4a86c5")
GREEN = Colour("#e5f5e9", "#123d22", "#3f9a5c")
RED = Colour("#fdeaea", "#511a1a", "#d05a5a")
AMBER = Colour("#fdf3dc", "#4a3508", "#c28a1e")
VIOLET = Colour("#f0eafa", "#33204f", "#8f6cc9")

COLOURS = {
    Kind.POLICY: GREY,
    Kind.ENDPOINT: BLUE,
    Kind.SECTION: GREY,
    Kind.PATH: BLUE,
    Kind.TOOL: BLUE,
    Kind.ACTION: BLUE,
    Kind.METHOD: BLUE,
    Kind.AGENT: GREEN,
    Kind.USER: GREEN,
    Kind.ANYONE: GREEN,
    Kind.MAY: GREEN,
    Kind.DELEGATE: GREEN,
    Kind.BINDS: GREY,
    Kind.GUARD: RED,
    Kind.EXEMPT: GREY,
    Kind.DENY: RED,
    Kind.CONFIRM: AMBER,
    Kind.OBLIGE: VIOLET,
    Kind.RATE: AMBER,
    Kind.BUDGET: AMBER,
    Kind.LIMIT: AMBER,
    Kind.NOTE: GREY,
    Kind.MORE: GREY,
}


def numbered(root: Box) -> Iterator[tuple[Box, int, int | None]]:
    """Every box with its number and that of the box it is in, from the top down."""
    pending: list[tuple[Box, int | None]] = [(root, None)]
    number = 0
    while pending:
        box, parent = pending.pop()
        yield box, number, parent
        pending += [(child, number) for child in reversed(box.children)]
        number += 1


def shown_lines(box: Box) -> list[str]:
    """What stands in a box, line by line: its title, and what is told of it."""
    return [line for text in (title(box), box.detail, box.at) if text for line in wrapped(text)]


def width(text: str) -> int:
    """Columns in a font whose letters are all as wide; East Asian ones take two, combining ones none."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def wrapped(text: str) -> list[str]:
    """The text between words in lines of at most `LONGEST` columns; what is too long for a box ends in `…`."""
    lines = [""]
    for word in one_line(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width(longer) <= LONGEST or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]} …"]
    return [_cut(line) for line in lines]


def _cut(text: str) -> str:
    if width(text) <= LONGEST:
        return text
    kept, used = "", 1
    for char in text:
        used += _columns(char)
        if used > LONGEST:
            break
        kept += char
    return f"{kept}…"
