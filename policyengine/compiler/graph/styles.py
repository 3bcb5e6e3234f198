"""Shared style of the drawings: colours by kind, lines of a box and their widths."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.text import box_title
from policyengine.control_characters import one_line

MAX_LINE_COLUMNS = 72  # maximum columns of a line in a picture
MAX_LINES = 4  # maximum lines of a text in a box; text and data formats contain the whole text


@dataclass(frozen=True, slots=True)
class KindColour:
    """The colours of a kind: a light background for dark text, a dark background for light text, and a line colour
    visible on both.
    """

    light: str
    dark: str
    line: str


GREY = KindColour("#f4f5f7", "#24272e", "#8a8f98")
BLUE = KindColour("#e6f0fb", "#14304f", "#4a86c5")
GREEN = KindColour("#e5f5e9", "#123d22", "#3f9a5c")
RED = KindColour("#fdeaea", "#511a1a", "#d05a5a")
AMBER = KindColour("#fdf3dc", "#4a3508", "#c28a1e")
VIOLET = KindColour("#f0eafa", "#33204f", "#8f6cc9")

COLOURS = {
    BoxKind.POLICY: GREY,
    BoxKind.ENDPOINT: BLUE,
    BoxKind.SECTION: GREY,
    BoxKind.PATH: BLUE,
    BoxKind.TOOL: BLUE,
    BoxKind.ACTION: BLUE,
    BoxKind.METHOD: BLUE,
    BoxKind.AGENT: GREEN,
    BoxKind.USER: GREEN,
    BoxKind.ANYONE: GREEN,
    BoxKind.MAY: GREEN,
    BoxKind.DELEGATE: GREEN,
    BoxKind.BINDS: GREY,
    BoxKind.GUARD: RED,
    BoxKind.EXEMPT: GREY,
    BoxKind.DENY: RED,
    BoxKind.CONFIRM: AMBER,
    BoxKind.OBLIGE: VIOLET,
    BoxKind.RATE: AMBER,
    BoxKind.BUDGET: AMBER,
    BoxKind.LIMIT: AMBER,
    BoxKind.PROFILE: VIOLET,
    BoxKind.STATE: GREY,
    BoxKind.NOTE: GREY,
    BoxKind.MORE: GREY,
}


def number_boxes(root: Box) -> Iterator[tuple[Box, int, int | None]]:
    """Yield every box with its number and the number of its parent, from the top down."""
    pending: list[tuple[Box, int | None]] = [(root, None)]
    number = 0
    while pending:
        box, parent = pending.pop()
        yield box, number, parent
        pending += [(child, number) for child in reversed(box.children)]
        number += 1


def box_lines(box: Box) -> list[str]:
    """Return the lines of a box: its title and its details."""
    return [line for text in (box_title(box), box.detail, box.at) if text for line in wrap_text(text)]


def text_columns(text: str) -> int:
    """Return the columns of a text in a monospaced font; wide East Asian characters take two columns, combining
    characters none.
    """
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def wrap_text(text: str) -> list[str]:
    """Wrap the text between words to lines of at most `MAX_LINE_COLUMNS` columns; text that is too long for a box ends
    in `…`."""
    lines = [""]
    for word in one_line(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_columns(longer) <= MAX_LINE_COLUMNS or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1]} …"]
    return [_cut(line) for line in lines]


def _cut(text: str) -> str:
    if text_columns(text) <= MAX_LINE_COLUMNS:
        return text
    kept, used = "", 1
    for char in text:
        used += _columns(char)
        if used > MAX_LINE_COLUMNS:
            break
        kept += char
    return f"{kept}…"
