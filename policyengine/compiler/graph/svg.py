"""A drawing as SVG: an indented tree that any browser can show, without scripts.

The font is monospaced, so the width of a text is computed from its columns, and no font needs to be measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.compiler.graph.box import Box
from policyengine.compiler.graph.styles import COLOURS, MAX_LINE_COLUMNS, number_boxes, text_columns, wrap_text
from policyengine.compiler.graph.text import box_note, box_title
from policyengine.control_characters import one_line
from policyengine.templates import render_template

FONT_SIZE_PIXELS = 13  # font size, in pixels
LETTER_WIDTH_PIXELS = 0.62 * FONT_SIZE_PIXELS  # width of the widest common font, so that no text leaves its box
LINE_HEIGHT_PIXELS = 18
PADDING = 8
GAP = 7  # vertical space between boxes
INDENT = 28
MARGIN = 16

Line: TypeAlias = tuple[str, str]  # titles, and details


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """A box with its lines and its rectangle, in pixels; `parent` is the number of its parent."""

    box: Box
    lines: tuple[Line, ...]
    x: float
    y: float
    parent: int | None

    @property
    def width(self) -> float:
        return max(text_columns(title + told) for title, told in self.lines) * LETTER_WIDTH_PIXELS + 2 * PADDING

    @property
    def height(self) -> float:
        return len(self.lines) * LINE_HEIGHT_PIXELS + PADDING

    @property
    def middle(self) -> float:
        """The height at which a branch reaches the box, in the middle of its first line."""
        return self.y + (LINE_HEIGHT_PIXELS + PADDING) / 2


def layout_boxes(root: Box) -> list[BoxLayout]:
    """Lay out the boxes one below the other, indented by their depth."""
    found: list[BoxLayout] = []
    depths: list[int] = []
    top = float(MARGIN)
    for box, _, parent in number_boxes(root):
        depths.append(0 if parent is None else depths[parent] + 1)
        one = BoxLayout(box, tuple(_lines(box)), MARGIN + depths[-1] * INDENT, top, parent)
        found.append(one)
        top += one.height + GAP
    return found


def _lines(box: Box) -> list[Line]:
    """Return short content on one line, so that more of the tree is visible."""
    told = [text for text in (box.detail, box.at) if text]
    beside = "".join(f"  {one_line(text)}" for text in told)
    name = one_line(box_title(box))
    if text_columns(name + beside) <= MAX_LINE_COLUMNS:
        return [(name, beside)]
    return [*((line, "") for line in wrap_text(name)), *(("", line) for text in told for line in wrap_text(text))]


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of a box with its position."""

    x: float
    y: float
    name: str
    told: str


@dataclass(frozen=True, slots=True)
class BoxShape:
    kind: str
    folded: bool
    title: str
    x: float
    y: float
    width: float
    height: float
    texts: tuple[TextLine, ...]


def render(root: Box) -> str:
    boxes = layout_boxes(root)
    kinds = sorted({box.kind for box in root.walk()})
    return render_template(
        __file__,
        "tree.svg.j2",
        title=_text(root.label),
        width=f"{max(one.x + one.width for one in boxes) + MARGIN:.0f}",
        height=f"{max(one.y + one.height for one in boxes) + MARGIN:.0f}",
        font_size=FONT_SIZE_PIXELS,
        colours={kind: COLOURS[kind] for kind in kinds},
        branches=list(_branches(boxes)),
        boxes=[_draw_box(box) for box in boxes],
    )


def _branches(boxes: list[BoxLayout]) -> Iterator[str]:
    """Yield the lines from each box, or from the previous branch, down and right to its next child."""
    ends: dict[int, float] = {}
    for box in boxes:
        if box.parent is not None:
            above = boxes[box.parent]
            start = ends.get(box.parent, above.y + above.height)
            ends[box.parent] = box.middle
            yield f"M{above.x + INDENT / 2:.1f} {start:.1f}V{box.middle:.1f}H{box.x:.1f}"


def _draw_box(layout: BoxLayout) -> BoxShape:
    left, top = layout.x + PADDING, layout.y + PADDING / 2 + FONT_SIZE_PIXELS
    texts = tuple(
        TextLine(left, top + LINE_HEIGHT_PIXELS * number, _text(name), _text(told))
        for number, (name, told) in enumerate(layout.lines)
    )
    box = layout.box
    title = _text(box_title(box) + box_note(box))
    return BoxShape(box.kind, bool(box.hidden), title, layout.x, layout.y, layout.width, layout.height, texts)


def _text(text: str) -> str:
    """Return the text for XML, without control characters; repeated spaces are kept."""
    return one_line(text).replace("  ", "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}")
