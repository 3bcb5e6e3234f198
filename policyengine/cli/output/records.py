"""Prints the rows of an answer: as a table, as JSON Lines or as CSV, safe for terminals and spreadsheets."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence

from policyengine.cli.output.terminal import Screen, json_text
from policyengine.control_characters import spreadsheet_text

SUBSECOND = slice(0, 19)
TABLE_FIELDS = (
    "time", "kind", "event", "outcome", "status", "latency_ms", "agent", "user", "chain", "client", "target",
    "endpoint", "gate", "rule", "ended", "approver", "id",
)  # fmt: skip
Values = Sequence[object]


def print_json_rows(columns: Sequence[str], rows: Iterable[Values], *, sparse: bool) -> None:
    """Print one object on each line; `sparse` omits members without a value."""
    for row in rows:
        members = dict(zip(columns, row, strict=True))
        print(json_text({name: value for name, value in members.items() if not sparse or value is not None}, None))


def print_csv_rows(columns: Sequence[str], rows: Iterable[Values]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def csv_cell(value: object) -> object:
    """Return the cell; text that a spreadsheet could run as a formula begins with `'`."""
    return spreadsheet_text(value) if isinstance(value, str) else value


def print_table(screen: Screen, columns: Sequence[str], rows: Sequence[Values], *, records: bool) -> None:
    """Print a table with headings and times to the second; for records, only the columns that add information."""
    if not rows:
        return
    places = list(range(len(columns)))
    if records:
        places = [columns.index(name) for name in TABLE_FIELDS if name in columns and tells_more(name, columns, rows)]
    heads = [columns[place] for place in places]
    screen.table([heads, *([format_cell(columns[place], row[place]) for place in places] for row in rows)], whole=True)


def tells_more(name: str, columns: Sequence[str], rows: Sequence[Values]) -> bool:
    """Return whether a column of a table of records adds information to the other columns."""
    cells = {row[columns.index(name)] for row in rows}
    match name:
        case "kind":
            return len(cells) > 1
        case "chain":
            return any(
                isinstance(row[columns.index("depth")], int) and row[columns.index("depth")] != 1 for row in rows
            )
        case "endpoint":  # only records without a target need the endpoint
            return any(row[columns.index("target")] is None and row[columns.index(name)] is not None for row in rows)
        case _:
            return cells != {None}


def format_cell(name: str, value: object) -> str:
    match value:
        case None:
            return "-"
        case str() if name in ("time", "first", "last"):
            return f"{value[SUBSECOND]}Z"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case int() if name not in ("status", "depth"):
            return f"{value:,}"
        case _:
            return str(value)
