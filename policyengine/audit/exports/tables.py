"""Writes records as tables: CSV, and Parquet through DuckDB."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import fields
from io import StringIO
from pathlib import Path

import msgspec

from policyengine.audit.record_summary import RecordSummary
from policyengine.control_characters import spreadsheet_text

COLUMNS = tuple(field.name for field in fields(RecordSummary))
CHAIN_SEPARATOR = " > "
SQL_TYPES = {
    "time": "TIMESTAMPTZ", "observed": "BOOLEAN", "chain": "VARCHAR[]", "status": "BIGINT", "latency_ms": "DOUBLE",
    "size": "BIGINT",
}  # fmt: skip
COPY = "COPY (SELECT * FROM read_json(?, columns = {%s}, format = 'newline_delimited')) TO '%s' (FORMAT parquet)"
OWNER_ONLY = 0o600
INSTALL_OPTIONS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


class TableError(Exception):
    """The error for a table that cannot be written; the message says why."""


def csv_lines(rows: Iterable[RecordSummary]) -> Iterator[str]:
    """Yield the lines of a CSV file; the first line has the names of the columns. A text that a spreadsheet could run
    as a formula is prefixed with an apostrophe."""
    yield ",".join(COLUMNS) + "\n"
    for row in rows:
        line = StringIO()
        csv.writer(line, lineterminator="\n").writerow(format_cell(getattr(row, name)) for name in COLUMNS)
        yield line.getvalue()


def format_cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return format_cell(CHAIN_SEPARATOR.join(map(str, value)))
        case str():
            return spreadsheet_text(value)
        case _:
            return str(value)


def write_parquet(rows: Iterable[RecordSummary], path: Path) -> int:
    """Write a Parquet file; return the number of rows. Raises ImportError without DuckDB, OSError, TableError."""
    import duckdb

    types = ", ".join(f"'{name}': '{SQL_TYPES.get(name, 'VARCHAR')}'" for name in COLUMNS)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        source, count = Path(folder, "rows.jsonl"), 0
        with source.open("wb") as file:
            for row in rows:
                values = {name: getattr(row, name) for name in COLUMNS}
                values["time"] = row.time if row.nanoseconds else None
                file.write(msgspec.json.encode(values) + b"\n")
                count += 1
        target = Path(folder, "rows.parquet")
        try:
            with duckdb.connect(config=dict(INSTALL_OPTIONS)) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(COPY % (types, str(target).replace("'", "''")), [str(source)])
        except duckdb.Error as error:
            raise TableError(f"DuckDB cannot write the table: {str(error).splitlines()[0]}") from None
        target.chmod(OWNER_ONLY)
        os.replace(target, path)
    return count
