"""Renders a drawing in DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.compiler.graph.box import Box
from policyengine.compiler.graph.styles import COLOURS, box_lines, number_boxes


def render(root: Box) -> str:
    return "".join(f"{line}\n" for line in _lines(root))


def _lines(root: Box) -> Iterator[str]:
    yield "digraph policy {"
    yield "  rankdir=LR"
    yield '  node [shape=box, style="rounded,filled", fontname="monospace", fontsize=10, margin="0.1,0.05"]'
    yield '  edge [arrowhead=none, color="#8a8f98"]'
    for box, number, parent in number_boxes(root):
        colour = COLOURS[box.kind]
        label = "".join(f"{escape_dot(line)}\\l" for line in box_lines(box))
        style = ', style="rounded,filled,dashed"' if box.hidden else ""
        colours = f'fillcolor="{colour.light}", color="{colour.line}", fontcolor="{colour.dark}"'
        yield f'  n{number} [label="{label}", {colours}{style}]'
        if parent is not None:
            yield f"  n{parent} -> n{number}"
    yield "}"


def escape_dot(text: str) -> str:
    """Escape text for a quoted label: a backslash would begin an escape, `&` an entity."""
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
