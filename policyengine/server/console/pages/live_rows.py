"""Rows of tables that a page shows and that its script renews: the page and the script get the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policyengine.control_characters import split_invisible


@dataclass(frozen=True, slots=True)
class LiveCell:
    """A cell: a text, the link of the text, and the outcome that determines the color of its badge. `label` names the
    cell where the table has no header.
    """

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
    """Return tables for the script, with a text that screen readers read."""
    return {
        "tables": {name: list(map(describe_live_row, rows)) for name, rows in tables.items()},
        "status": status,
        **more,
    }


def describe_live_row(row: LiveRow) -> dict[str, object]:
    cells = [
        {"parts": list(split_invisible(one.text)), "href": one.href, "badge": one.badge, "label": one.label}
        for one in row.cells
    ]
    return {"key": row.key, "cells": cells}
