"""A drawing as a Mermaid flowchart, which code hosts render in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.styles import COLOURS, box_lines, number_boxes

# Characters that are escaped inside quotes, so that they have no meaning to Mermaid, Markdown or HTML. All others are
# plain text.
UNSAFE_CHARACTERS = re.compile(r"[^\w /.,|=+()\[\]-]", re.ASCII)


def render(root: Box) -> str:
    return "".join(f"{line}\n" for line in _lines(root))


def _lines(root: Box) -> Iterator[str]:
    yield "flowchart LR"
    for box, number, parent in number_boxes(root):
        text = "<br/>".join(escape_mermaid(line) for line in box_lines(box))
        yield f'  n{number}["{text}"]:::{_class(box.kind)}'
        if parent is not None:
            yield f"  n{parent} {'-.-' if box.hidden else '---'} n{number}"
    kinds = {box.kind for box in root.walk()}
    for kind in sorted(kinds):
        colour = COLOURS[kind]
        yield f"  classDef {_class(kind)} fill:{colour.light},stroke:{colour.line},color:{colour.dark}"


def _class(kind: BoxKind) -> str:
    """Return the name of the style class of a kind: a word that is not a keyword of Mermaid."""
    return f"{kind}Box"


def escape_mermaid(text: str) -> str:
    r"""Escape text in quotes. A word joiner after a backslash prevents `\\n` from becoming a line break."""
    text = text.replace("\\", "\\\N{WORD JOINER}")
    return UNSAFE_CHARACTERS.sub(lambda found: f"#{ord(found[0])};", text)
