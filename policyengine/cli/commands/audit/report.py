"""`policyengine audit report`: write an HTML page that reports on a log."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.atomic_write import refuse_to_replace_log, write_file
from policyengine.cli.commands.audit.query import opened_logs, report_query_errors, report_skipped
from policyengine.cli.errors import CommandError
from policyengine.cli.options.audit_query import Logs, Since, Until
from policyengine.cli.output.terminal import Screen
from policyengine.plurals import pluralize

STDOUT = Path("-")
OWNER_ONLY = 0o600  # the mode of a log


def report(
    logs: Logs,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The HTML page to write; `-` is the standard output.",
            show_default=False,
        ),
    ],
    since: Since = None,
    until: Until = None,
) -> int:
    """Write an HTML page that reports on decision logs.

    The page shows decisions over time, what was denied, new agents and endpoints, chains, confirms and how they ended,
    upstreams, usage and tokens. Each number is shown with the `audit query` command that computes it. The page loads
    nothing and has no scripts. Only the owner of the file may read it.

    \b
    Exit codes:
      0  written
      1  a file cannot be read or written, or is not a decision log
      2  wrong usage

    \b
    Example:
      policyengine audit report decisions.jsonl -o report.html
      policyengine audit report decisions.parquet --since 7d -o week.html
    """
    from policyengine.audit.query.query import QueryError, parse_moment
    from policyengine.audit.query.source import check_logs
    from policyengine.audit.report.page import ReportPage
    from policyengine.audit.report.questions import ask_questions

    if output != STDOUT:
        refuse_to_replace_log(output, logs)
    now = datetime.now(UTC)
    try:
        period = [None if text is None else parse_moment(text, now) for text in (since, until)]
    except QueryError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None
    with report_query_errors(logs), opened_logs(logs) as reader:
        answers = ask_questions(reader, *period)
        check_logs(reader.skipped)
    page = ReportPage(answers, [str(log) for log in logs], reader.skipped, period[0])
    if output == STDOUT:
        sys.stdout.write(page.render())
        report_skipped(reader.skipped)
        return 0
    write_file(output, page.render(), OWNER_ONLY)
    report_skipped(reader.skipped)
    Screen().line(f"wrote {output}: {pluralize(int(answers['all'].rows[0][0] or 0), 'record')}")
    return 0
