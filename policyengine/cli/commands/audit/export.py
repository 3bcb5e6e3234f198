"""`policyengine audit export`: convert the decision log to the format of another system."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.atomic_write import is_special, refuse_to_replace_log
from policyengine.cli.errors import CommandError, file_error, log_error
from policyengine.cli.log_input import check_log
from policyengine.cli.output.terminal import Screen
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.audit.record_summary import RecordSummary

STDOUT = Path("-")
OWNER_ONLY = 0o600  # the mode of a log


class ExportFormat(StrEnum):
    """The format of an export."""

    OCSF = "ocsf"
    CLOUDEVENTS = "cloudevents"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(slots=True)
class LogExport:
    """Reads the records of a log, and counts those that it exports and the lines that it skips."""

    log: Path
    exported: int = 0
    skipped: int = 0

    def records(self) -> Iterator[tuple[bytes, RecordSummary]]:
        """Yield the line and the summary of each record. Records of entities are left out; a line that is not a record
        is reported and skipped. Raises CommandError.
        """
        from policyengine.audit.files import log_files

        try:
            for file in log_files(self.log):
                yield from self._records_of(file)
        except OSError as error:
            raise log_error(self.log, error) from None

    def _records_of(self, file: Path) -> Iterator[tuple[bytes, RecordSummary]]:
        """Yield the records of one file. Raises OSError."""
        from policyengine.audit.files import read_lines
        from policyengine.audit.record_summary import find_record, summarize

        for number, line in read_lines(file, self._skip):
            found = find_record(line)
            if found is None:
                self._skip(f"{file}:{number}: skipped this line: it is not a complete record")
                continue
            summary = summarize(found[1])
            if summary.kind != "directory":
                self.exported += 1
                yield found[0], summary

    def rows(self) -> Iterator[RecordSummary]:
        """Yield the summary of each record. Raises CommandError."""
        return (row for _, row in self.records())

    def _skip(self, message: str) -> None:
        self.skipped += 1
        Screen(sys.stderr).warn(message)


def export(
    log: Annotated[
        Path, typer.Argument(help="The decision log: a file that `serve --log` or `audit pack` wrote.", metavar="LOG")
    ],
    format: Annotated[ExportFormat, typer.Option("--format", "-f", help="The format of the file.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write; `-` is the standard output."),
    ] = STDOUT,
) -> int:
    """Convert the decision log to the format of another system.

    `ocsf` writes an event of the class API Activity (6003) for each record, `cloudevents` an event with the record as
    its data: JSON, one event on each line. `csv` and `parquet` write a table with one row for each record; `parquet`
    needs the extra `audit`. Rotated files of the log are included. A value that is redacted in the log is also redacted
    in the export.

    \b
    Example:
      policyengine audit export decisions.jsonl --format ocsf -o events.jsonl
      policyengine audit export decisions.jsonl --format csv -o decisions.csv
    """
    if output != STDOUT:
        refuse_to_replace_log(output, [log])
        if output.is_dir():
            raise file_error(output, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    check_log(log)
    source = LogExport(log)
    try:
        if format is ExportFormat.PARQUET:
            export_parquet(source, output)
        else:
            write_text(text_lines(source, format), output)
    except OSError as error:
        if output == STDOUT:
            raise
        raise file_error(output, error) from None
    if output != STDOUT:
        skipped = f", {pluralize(source.skipped, 'line')} skipped" if source.skipped else ""
        Screen().line(f"wrote {output}: {pluralize(source.exported, 'record')}{skipped}")
    return 0


def text_lines(source: LogExport, format: ExportFormat) -> Iterator[str]:
    """Yield the lines of a text format. Raises CommandError."""
    from policyengine.audit.exports.cloud_events import encode_cloud_event
    from policyengine.audit.exports.json_events import encode_json
    from policyengine.audit.exports.ocsf import encode_ocsf
    from policyengine.audit.exports.tables import csv_lines

    if format is ExportFormat.CSV:
        yield from csv_lines(source.rows())
        return
    for line, row in source.records():
        event = encode_ocsf(row) if format is ExportFormat.OCSF else encode_cloud_event(line, row)
        yield encode_json(event).decode() + "\n"


def write_text(lines: Iterator[str], output: Path) -> None:
    """Write the lines; a file is replaced once it is complete. Raises OSError, CommandError."""
    if output == STDOUT:
        for line in lines:
            sys.stdout.write(line)
        return
    if is_special(output):
        with output.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        return
    new = output.with_name(f".{output.name}.new")
    opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, OWNER_ONLY)
    try:
        with os.fdopen(opened, "w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        new.replace(output)
    finally:
        new.unlink(missing_ok=True)


def export_parquet(source: LogExport, output: Path) -> None:
    """Write the records as a Parquet file. Raises OSError, CommandError."""
    from policyengine.audit.exports.tables import TableError, write_parquet
    from policyengine.install_hints import install_command

    if output == STDOUT:
        message = "a Parquet file cannot be written to the standard output"
        raise CommandError("usage", message, "name a file: `-o decisions.parquet`", code=2)
    if is_special(output):
        raise CommandError("file", f"`{output}` is not a regular file", None, (("file", str(output)),))
    if not output.parent.is_dir():
        raise file_error(output, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    try:
        write_parquet(source.rows(), output)
    except ImportError:
        raise CommandError("export", "the package `duckdb` is not installed", install_command("audit")) from None
    except TableError as error:
        raise CommandError("export", str(error), None, (("file", str(output)),)) from None
