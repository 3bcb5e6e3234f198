"""Refuses a file that is not a decision log, with a single message instead of a message for each line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from policyengine.cli.errors import CommandError, log_error

MAX_LINES = 100  # maximum lines of each file to read
EVENT_MEMBERS = (b'"at"', b'"endpoint"')  # members of each plain event
LOG_HINT = "name a file that `serve --log` or `audit pack` wrote"
EVENTS_HINT = (
    "the file has plain events, which only `behavior evaluate`, `behavior suggest` and tests read; " + LOG_HINT
)


def check_log(log: Path) -> None:
    """Check that the log has no lines, or that a line of a log is among the first lines of one of its files. Raises
    CommandError.
    """
    from policyengine.audit.files import log_files, read_lines
    from policyengine.audit.line_fields import LogRecordError, parse_line
    from policyengine.audit.reader import is_log_line

    why, events = "", False
    try:
        for file in log_files(log):
            for number, line in islice(read_lines(file, lambda message: None), MAX_LINES):
                if is_log_line(line):
                    return
                try:
                    parse_line(line)
                except LogRecordError as problem:
                    why = why or f"{file}:{number}: {problem}"
                    events = events or all(member in line for member in EVENT_MEMBERS)
    except OSError as error:
        raise log_error(log, error) from None
    if why:
        hint = EVENTS_HINT if events else LOG_HINT
        raise CommandError("log", f"`{log}` is not a decision log: {why}", hint, (("file", str(log)),))
