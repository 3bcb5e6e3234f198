"""A drawing as SVG: an indented tree, laid out here, that any browser shows and that runs nothing.

The font's letters are all as wide, so that a text is as wide as its columns and no font has to be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from policyengine.compiler.graph.box import Box
from policyengine.compiler.graph.styles import COLOURS, MAX_LINE_COLUMNS, number_boxes, text_columns, wrap_text
from policyengine.compiler.graph.text import box_note, box_title
from policyengine.control_characters import one_line

FONT_SIZE_PIXELS = 13  # of the letters, in pixels
LETTER_WIDTH_PIXELS = 0.62 * FONT_SIZE_PIXELS  # the widest of the usual fonts, so that a text never leaves its box
LINE_HEIGHT_PIXELS = 18
PADDING = 8
GAP = 7  # between boxes, one below the other
INDENT = 28
MARGIN = 16

STYLE = f"""
text {{ font: {FONT_SIZE_PIXELS}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1c1e21 }}
.ground {{ fill: #ffffff }}
.branch {{ fill: none; stroke: #8a8f98 }}
.told {{ opacity: .75 }}
rect {{ stroke-width: 1.2 }}
.folded rect {{ stroke-dasharray: 5 3 }}
"""
DARK_STYLE = ".ground { fill: #16181c } text { fill: #e8eaed }"


Line = tuple[str, str]  # what stands out, and what is told beside it


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """A box with its lines and its rectangle, in pixels; `parent` is the number of the box it is in."""

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
        """Where a branch reaches it: beside its first line."""
        return self.y + (LINE_HEIGHT_PIXELS + PADDING) / 2


def layout_boxes(root: Box) -> list[BoxLayout]:
    """One box below the other, each as far to the right as it is deep."""
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
    """What is short takes one line, so that more of the tree is seen at once."""
    told = [text for text in (box.detail, box.at) if text]
    beside = "".join(f"  {one_line(text)}" for text in told)
    name = one_line(box_title(box))
    if text_columns(name + beside) <= MAX_LINE_COLUMNS:
        return [(name, beside)]
    return [*((line, "") for line in wrap_text(name)), *(("", line) for text in told for line in wrap_text(text))]


def render(root: Box) -> str:
    boxes = layout_boxes(root)
    right = max(one.x + one.width for one in boxes) + MARGIN
    bottom = max(one.y + one.height for one in boxes) + MARGIN
    size = f'width="{right:.0f}" height="{bottom:.0f}" viewBox="0 0 {right:.0f} {bottom:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<title>{_text(root.label)}</title>\n<style>{_style(root)}</style>\n"
        f'<rect class="ground" width="100%" height="100%"/>\n'
        f"{''.join(_branches(boxes))}{''.join(map(_draw_box, boxes))}</svg>\n"
    )


def _style(root: Box) -> str:
    kinds = sorted({box.kind for box in root.walk()})
    light = "".join(f".{kind} rect {{ fill: {COLOURS[kind].light}; stroke: {COLOURS[kind].line} }}\n" for kind in kinds)
    dark = "".join(f".{kind} rect {{ fill: {COLOURS[kind].dark} }}\n" for kind in kinds)
    return f"{STYLE}{light}@media (prefers-color-scheme: dark) {{\n{DARK_STYLE}\n{dark}}}\n"


def _branches(boxes: list[BoxLayout]) -> Iterator[str]:
    """Down from a box or from where its last branch left, and right to the next box within it."""
    ends: dict[int, float] = {}
    for box in boxes:
        if box.parent is not None:
            above = boxes[box.parent]
            start = ends.get(box.parent, above.y + above.height)
            way = f"M{above.x + INDENT / 2:.1f} {start:.1f}V{box.middle:.1f}H{box.x:.1f}"
            ends[box.parent] = box.middle
            yield f'<path class="branch" d="{way}"/>\n'


def _draw_box(one: BoxLayout) -> str:
    folded = " folded" if one.box.hidden else ""
    rectangle = f'<rect x="{one.x:.1f}" y="{one.y:.1f}" width="{one.width:.1f}" height="{one.height:.1f}" rx="4"/>'
    left, top = one.x + PADDING, one.y + PADDING / 2
    texts = "".join(
        f'<text x="{left:.1f}" y="{top + LINE_HEIGHT_PIXELS * number + FONT_SIZE_PIXELS:.1f}">{_line(*line)}</text>'
        for number, line in enumerate(one.lines)
    )
    whole = _text(box_title(one.box) + box_note(one.box))
    return f'<g class="{one.box.kind}{folded}"><title>{whole}</title>{rectangle}{texts}</g>\n'


def _line(name: str, told: str) -> str:
    return _text(name) + (f'<tspan class="told">{_text(told)}</tspan>' if told else "")


def _text(text: str) -> str:
    """Text for XML, which knows no control characters; spaces that stand side by side are kept apart."""
    return escape(one_line(text)).replace("  ", "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}")
