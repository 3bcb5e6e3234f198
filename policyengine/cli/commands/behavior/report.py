"""`policyengine behavior report`: report which decisions of a log the learned conditions of policies would have hit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.atomic_write import refuse_to_replace_log, write_file
from policyengine.cli.errors import CommandError, log_error, short_log_messages
from policyengine.cli.load_engine import BUNDLE, load_engine
from policyengine.cli.log_input import check_log
from policyengine.cli.options.behavior import warn_of_profiles
from policyengine.cli.options.common import TextOrJson, TrustedKeys
from policyengine.cli.output.reading_progress import show_reading
from policyengine.cli.output.terminal import OutputFormat, Screen, json_text, print_json, show_progress
from policyengine.install_hints import install_command

if TYPE_CHECKING:
    from policyengine.analysis.behavior_report import BehaviorReport

OWNER_ONLY = 0o600  # the mode of a log
POLICY = ".policy"
OUTPUT_SUFFIXES = ("", ".html", ".htm", ".json")


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG|POLICY",
            help="Decision logs, each with its rotated files, or packed logs; then policies, folders of them, or a "
            "bundle.",
            show_default=False,
        ),
    ],
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Count only decisions from this time on, and learn from earlier decisions without counting them: a "
            "date, a time, or `7d` for a week ago.",
            show_default=False,
        ),
    ] = None,
    payloads: Annotated[
        bool,
        typer.Option(
            "--payloads",
            help="Find odd payloads, too: values with a size, a length or characters that are unusual for their field. "
            "The report names the fields, without the values.",
        ),
    ] = False,
    groups: Annotated[
        bool,
        typer.Option(
            "--groups",
            help="Find groups, too: callers that run the same workflow at the same irregular times. Needs numpy.",
        ),
    ] = False,
    trust: TrustedKeys = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write an HTML page to this file; JSON if its name ends in `.json`.",
            show_default=False,
        ),
    ] = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Report which requests learned conditions would have hit.

    The logs are read in order of time, as an engine learns from decisions; logs that were written before any policy
    read learned facts can be read, too. For each `when behavior.…` of the policies, the report says which requests,
    callers and days the condition would have hit. The report also compares the declared and the observed rate of false
    alarms, and shows levels, trust, new endpoints and the callers with the most alarms. Without policies, the report
    has no conditions, and uses the classes that the log names. `-o` writes a page that loads nothing and has no
    scripts; only the owner of the file may read it.

    \b
    Exit codes:
      0  reported, whether or not a condition would have hit anything
      1  a file cannot be read or written, is not a decision log, or a policy has an error; `--groups` without numpy
      2  wrong usage

    \b
    Example:
      policyengine behavior report decisions.jsonl payments/
      policyengine behavior report decisions.jsonl payments/ --since 7d -o behavior.html
      policyengine behavior report decisions.jsonl --payloads
      policyengine behavior report decisions.jsonl payments/ --groups
    """
    from policyengine.analysis.behavior_report import BehaviorReporter

    if groups:
        require_extra()
    logs = [path for path in paths if not is_policy(path)]
    policies = [path for path in paths if is_policy(path)]
    if not logs:
        raise CommandError("usage", "no log is named", "name the decision log before the policies", code=2)
    if output is not None:
        refuse_to_replace_log(output, logs)
        check_output(output)
    start = None if since is None else parse_since(since)
    for log in logs:
        check_log(log)
    engine = None
    if policies:
        with short_log_messages():
            engine = load_engine(policies, None, trust)
    elif trust:
        raise CommandError("usage", "`--trust` needs a bundle", "name a `.policybundle` after the logs", code=2)
    reporter = BehaviorReporter(engine, logs, start, payloads=payloads, groups=groups)
    try:
        with show_reading(log_bytes(logs), None) as reading, show_progress("reading the log"):
            found = reporter.report(reading)
    except OSError as error:
        raise log_error(Path(error.filename or logs[0]), error) from None
    report_skipped_lines(found)
    warn_of_profiles(engine, (one.name for one in found.classes), "after the logs")
    if output is not None:
        write_file(output, render_report(found, output, paths, since), OWNER_ONLY)
    if format is OutputFormat.JSON:
        print_json(found.to_dict())
    elif output is not None:
        Screen().line(f"wrote {output}: {found.decisions:,} decisions")
    else:
        show_report(found)
    return 0


def require_extra() -> None:
    """Check that numpy is installed, before the log is read. Raises CommandError."""
    from policyengine.behavior.lockstep.detection import EXTRA, LockstepError, require_numpy

    try:
        require_numpy()
    except LockstepError:
        hint = install_command(EXTRA)
        raise CommandError("install", "`--groups` needs numpy", hint) from None


def check_output(output: Path) -> None:
    """Check that the report can be written in the format that the file name requires. Raises CommandError."""
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        message = f"a report cannot be written as `{output.suffix}`: `{output}`"
        raise CommandError("usage", message, "use a file name that ends in `.html` or `.json`", code=2)


def render_report(found: BehaviorReport, output: Path, paths: Sequence[Path], since: str | None) -> str:
    if output.suffix.lower() == ".json":
        return json_text(found.to_dict()) + "\n"
    from policyengine.analysis.behavior_report.page import BehaviorPage

    return BehaviorPage(found, list(map(str, paths)), since).render()


def is_policy(path: Path) -> bool:
    return path.suffix in (POLICY, BUNDLE) or path.is_dir()


def parse_since(text: str) -> int:
    """Return a time in microseconds since 1970. Raises CommandError."""
    from policyengine.audit.query.query import QueryError, parse_moment
    from policyengine.clock import epoch_microseconds

    try:
        return epoch_microseconds(datetime.fromisoformat(parse_moment(text, datetime.now(UTC))))
    except QueryError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None


def log_bytes(logs: Sequence[Path]) -> int:
    from policyengine.audit.files import log_files

    return sum(file.stat().st_size for log in logs for file in log_files(log))


def report_skipped_lines(found: BehaviorReport) -> None:
    screen = Screen(sys.stderr)
    for file, (count, first) in found.skipped.items():
        lines = f"{count:,} line{'' if count == 1 else 's'}"
        screen.warn(f"{file}: {lines} could not be read, the first: {first}")


def show_report(found: BehaviorReport) -> None:
    from policyengine.analysis.behavior_report.text import text_parts

    screen = Screen()
    for part in text_parts(found):
        if isinstance(part, str):
            screen.line(part)
        else:
            screen.table([(f"  {first}", *others) for first, *others in part])
