"""A drawing as lines of text, with the branches drawn before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyengine.compiler.graph.box import Box, Kind
from policyengine.control_characters import one_line

# What leads to a box that others follow, what stands below it; the same for the last one.
UNICODE = ("├─ ", "│  ", "└─ ", "   ")
ASCII = ("|- ", "|  ", "`- ", "   ")


@dataclass(frozen=True, slots=True)
class Row:
    """`branch` leads to the box; `under` takes its place in lines that go on."""

    branch: str
    under: str
    box: Box


def rows(root: Box, signs: tuple[str, str, str, str] = UNICODE) -> Iterator[Row]:
    yield from _rows(root, "", "", signs)


def _rows(box: Box, branch: str, under: str, signs: tuple[str, str, str, str]) -> Iterator[Row]:
    yield Row(branch, under, box)
    for number, child in enumerate(box.children, 1):
        lead, below = signs[2:] if number == len(box.children) else signs[:2]
        yield from _rows(child, under + lead, under + below, signs)


def title(box: Box) -> str:
    return one_line(f"… {box.label}" if box.kind is Kind.MORE else box.label)


def note(box: Box) -> str:
    """What follows the title of a box."""
    detail = f" — {box.detail}" if box.detail else ""
    return one_line(f"{detail}  ({box.at})" if box.at else detail)


def render(root: Box, signs: tuple[str, str, str, str] = UNICODE) -> str:
    return "".join(f"{row.branch}{title(row.box)}{note(row.box)}\n" for row in rows(root, signs))


def spelled(text: str) -> str:
    """Our own signs for screens that know ASCII only."""
    return text.replace("…", "...").replace("—", "-")
