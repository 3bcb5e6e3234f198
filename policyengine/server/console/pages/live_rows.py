"""Rows of tables that a page shows and that its script renews: the page and the script get the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class LiveCell:
    """A cell: a text, where it leads, and the outcome that its badge has the colour of. `label` names the cell where
    the table has no header."""

    text: str
    href: str | None = None
    badge: str | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A row; rows with the same key are equal."""

    key: str
    cells: tuple[LiveCell, ...]


def describe_tables(tables: Mapping[str, Sequence[LiveRow]], status: str, **more: object) -> dict[str, object]:
    """Return tables for the script, with the text for people who do not see them."""
    return {
        "tables": {name: list(map(describe_live_row, rows)) for name, rows in tables.items()},
        "status": status,
        **more,
    }


def describe_live_row(row: LiveRow) -> dict[str, object]:
    cells = [
        {"parts": split_unprintable(one.text), "href": one.href, "badge": one.badge, "label": one.label}
        for one in row.cells
    ]
    return {"key": row.key, "cells": cells}


def split_unprintable(text: str) -> list[tuple[str, bool]]:
    """Return the text in parts, each with whether it is the code point of an invisible character."""
    found: list[tuple[str, bool]] = []
    for printable, characters in groupby(text, lambda one: one.isprintable() or one == "\t"):
        if printable:
            found.append(("".join(characters), False))
        else:
            found += [(f"U+{ord(one):04X}", True) for one in characters]
    return found
