"""`policyengine audit pack`: pack a log into one Parquet file, which can be queried in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.commands.audit.query import report_query_errors, report_skipped
from policyengine.cli.options.audit_query import Logs
from policyengine.cli.output.reading_progress import format_bytes
from policyengine.cli.output.terminal import Screen, show_progress
from policyengine.plurals import pluralize


def pack(
    logs: Logs,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The Parquet file to write.", show_default=False)
    ],
) -> int:
    """Pack a decision log into one Parquet file.

    The file has the fields of each record in columns, and each line of the log unchanged. Every command that reads a
    log also reads this file, except the commands for seals; so does every program that reads Parquet. Only the owner of
    the file may read it. The log itself is not changed.

    \b
    Exit codes:
      0  packed
      1  a file cannot be read or written, is not a decision log, or DuckDB is not installed

    \b
    Example:
      policyengine audit pack decisions.jsonl -o decisions.parquet
    """
    from policyengine.audit.query.pack import pack_log

    with report_query_errors(logs), show_progress("packing the log"):
        found = pack_log(logs, output)
    report_skipped(found.skipped, "packed {lines} without fields")
    sizes = f"{format_bytes(found.before)} became {format_bytes(found.after)}"
    Screen().line(f"wrote {output}: {pluralize(found.lines, 'line')}, {sizes}")
    return 0
