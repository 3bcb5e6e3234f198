"""A drawing as lines of text, with the branches in front of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.control_characters import one_line

# The branch to a box and the prefix of the lines below it: for a box with later siblings, and for the last sibling.
UNICODE = ("├─ ", "│  ", "└─ ", "   ")
ASCII = ("|- ", "|  ", "`- ", "   ")


@dataclass(frozen=True, slots=True)
class TextTreeRow:
    """A row. `branch` leads to the box; `under` replaces it in continuation lines."""

    branch: str
    under: str
    box: Box


def tree_rows(root: Box, signs: tuple[str, str, str, str] = UNICODE) -> Iterator[TextTreeRow]:
    yield from _child_rows(root, "", "", signs)


def _child_rows(box: Box, branch: str, under: str, signs: tuple[str, str, str, str]) -> Iterator[TextTreeRow]:
    yield TextTreeRow(branch, under, box)
    for number, child in enumerate(box.children, 1):
        lead, below = signs[2:] if number == len(box.children) else signs[:2]
        yield from _child_rows(child, under + lead, under + below, signs)


def box_title(box: Box) -> str:
    return one_line(f"… {box.label}" if box.kind is BoxKind.MORE else box.label)


def box_note(box: Box) -> str:
    """Return the details of a box."""
    detail = f" — {box.detail}" if box.detail else ""
    return one_line(f"{detail}  ({box.at})" if box.at else detail)


def render(root: Box, signs: tuple[str, str, str, str] = UNICODE) -> str:
    return "".join(f"{row.branch}{box_title(row.box)}{box_note(row.box)}\n" for row in tree_rows(root, signs))


def to_ascii(text: str) -> str:
    """Replace line-drawing characters for terminals with only ASCII."""
    return text.replace("…", "...").replace("—", "-")
