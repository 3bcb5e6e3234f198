"""`policyengine audit query`: find, count and measure the records of a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.audit_query import (
    AgentFilter,
    Count,
    CountBy,
    EndpointFilter,
    Format,
    IdFilter,
    IssuerFilter,
    KindFilter,
    Limit,
    Logs,
    Measure,
    NewestFirst,
    OutcomeFilter,
    QueryFormat,
    RecordKind,
    ResourceFilter,
    RuleFilter,
    Since,
    Until,
    UserFilter,
    Values,
    WhereFilter,
)
from policyengine.cli.output.reading_progress import show_reading
from policyengine.cli.output.records import print_csv_rows, print_json_rows, print_table
from policyengine.cli.output.terminal import Screen, show_progress

if TYPE_CHECKING:
    from policyengine.audit.query.near_names import MissingName
    from policyengine.audit.query.query import AuditQuery, FieldFilter, QueryAnswer
    from policyengine.audit.query.source import LogFiles, Reader
    from policyengine.audit.query.stream import SkippedLines

USAGE = 2


def query(
    logs: Logs,
    agent: AgentFilter = None,
    issuer: IssuerFilter = None,
    user: UserFilter = None,
    endpoint: EndpointFilter = None,
    resource: ResourceFilter = None,
    outcome: OutcomeFilter = None,
    rule: RuleFilter = None,
    id: IdFilter = None,
    kind: KindFilter = None,
    where: WhereFilter = None,
    since: Since = None,
    until: Until = None,
    count_by: CountBy = None,
    count: Count = False,
    measure: Measure = None,
    newest_first: NewestFirst = False,
    limit: Limit = 1_000,
    format: Format = QueryFormat.TEXT,
) -> int:
    """Find, count and measure the records of decision logs.

    Without other options, the newest decisions are printed. A filter option may be repeated: a record must match one of
    its values. All filter options must match. Lines that are malformed are skipped and counted. Times are UTC.

    \b
    Exit codes:
      0  answered, whether or not a record matches
      1  a file cannot be read, or is not a decision log
      2  wrong usage

    \b
    Example:
      policyengine audit query decisions.jsonl --agent invoice-bot --outcome deny --since 7d
      policyengine audit query decisions.jsonl --outcome deny --count-by rule
      policyengine audit query decisions.jsonl --kind outcome --measure latency_ms --count-by endpoint
    """
    from policyengine.audit.query.query import AuditQuery, FieldFilter, QueryError, parse_moment

    now = datetime.now(UTC)
    named: dict[str, Values] = {
        "agent": agent, "issuer": issuer, "user": user, "endpoint": endpoint, "resource": resource,
        "outcome": outcome, "rule": rule, "id": id,
    }  # fmt: skip
    try:
        asked = AuditQuery(
            filters=(
                *kind_filters(kind, default_kind(bool(id), measure)),
                *(FieldFilter(name, tuple(values)) for name, values in named.items() if values),
                *where_filters(where or ()),
            ),
            since=None if since is None else parse_moment(since, now),
            until=None if until is None else parse_moment(until, now),
            count_by=tuple(count_by or ()),
            count=count,
            measure=measure,
            newest_first=newest_first,
            limit=limit,
        )
    except QueryError as error:
        raise CommandError("usage", error.message, error.hint, code=USAGE) from None
    if asked.lists and not asked.limit:
        if format is QueryFormat.TEXT:
            raise CommandError(
                "usage", "`--limit 0` prints no table", "add `--format json` or `--format csv`", code=USAGE
            )
        print_all(asked, logs, format)
    else:
        print_answer(asked, logs, format)
    return 0


def default_kind(by_id: bool, measure: str | None) -> RecordKind:
    """Return the default of `--kind`: outcomes with `--measure`, because only outcomes have numbers to measure; all
    records with an ID; otherwise decisions.
    """
    if measure is not None:
        return RecordKind.OUTCOME
    return RecordKind.ALL if by_id else RecordKind.DECISION


def kind_filters(kinds: Sequence[RecordKind] | None, default: RecordKind) -> Iterator[FieldFilter]:
    from policyengine.audit.query.query import FieldFilter

    chosen = kinds or [default]
    if RecordKind.ALL not in chosen:
        yield FieldFilter("kind", tuple(one.value for one in chosen))


def where_filters(texts: Sequence[str]) -> Iterator[FieldFilter]:
    """Parse `FIELD=VALUE`; values of one field are alternatives. Raises CommandError."""
    from policyengine.audit.query.query import FieldFilter

    found: dict[str, list[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise CommandError(
                "usage", f"`--where {text}` has no value", "write `--where gate=guard`, for example", code=USAGE
            )
        found.setdefault(name, []).append(value)
    return (FieldFilter(name, tuple(values)) for name, values in found.items())


@contextmanager
def report_query_errors(logs: Sequence[Path]) -> Iterator[None]:
    """Convert a QueryError or an OSError to a CommandError."""
    from policyengine.audit.query.query import QueryError

    try:
        yield
    except QueryError as error:
        raise CommandError("log", error.message, error.hint, (("file", str(logs[0])),)) from None
    except OSError as error:
        raise file_error(error.filename or logs[0], error) from None


@contextmanager
def opened_logs(logs: Sequence[Path], *, in_order: bool = False) -> Iterator[Reader]:
    """Yield a reader of the logs, and show its progress on stderr. `in_order` is for reading all records in the order
    of the log. Raises OSError, QueryError.
    """
    from policyengine.audit.query.source import LogFiles, open_reader

    files = LogFiles.find(logs)
    streamed = not files.with_duckdb or (in_order and not files.packed)
    hint = faster_hint(files) if streamed else None
    with (
        show_reading(files.size, hint) as progress,
        show_progress("reading the log with DuckDB" if not streamed else "reading the log"),
        open_reader(files, progress, in_order=in_order) as reader,
    ):
        yield reader


def faster_hint(files: LogFiles) -> str:
    from policyengine.audit.query.duck import EXTRA, has_duckdb
    from policyengine.install_hints import install_command

    pack = "`policyengine audit pack` writes a file that can be queried in seconds"
    return pack if has_duckdb() else f"{pack}; it needs DuckDB, {install_command(EXTRA)}"


def print_answer(asked: AuditQuery, logs: Sequence[Path], format: QueryFormat) -> None:
    """Print the records or the groups that answer a query, up to its limit. Raises CommandError."""
    from policyengine.audit.query.near_names import find_missing_names
    from policyengine.audit.query.source import check_logs

    with report_query_errors(logs), opened_logs(logs) as reader:
        [found] = reader.answer([asked])
        check_logs(reader.skipped)
        missing = [] if is_answered(found) else find_missing_names(asked, reader)
    if format is QueryFormat.TEXT:
        show_answer(found)
    else:
        print_rows(asked, found.rows, format)
    report_skipped(reader.skipped)
    report_missing(missing)


def is_answered(answer: QueryAnswer) -> bool:
    """Return whether a record matches. A count without groups always has one row, which contains 0 if no record
    matches.
    """
    asked = answer.query
    return bool(answer.rows) and (not asked.count or bool(asked.count_by) or bool(answer.rows[0][0]))


def report_missing(missing: Iterable[MissingName]) -> None:
    """Warn on stderr about names that no record has."""
    for name in missing:
        Screen(sys.stderr).warn(name.words())


def print_all(asked: AuditQuery, logs: Sequence[Path], format: QueryFormat) -> None:
    """Print records while they are read. Raises CommandError."""
    from policyengine.audit.query.near_names import find_missing_names
    from policyengine.audit.query.source import check_logs

    def rows() -> Iterator[Sequence[object]]:  # a generator, so that `report_query_errors` sees no errors of writing
        with report_query_errors(logs), opened_logs(logs, in_order=True) as reader:
            count = 0
            for row in reader.rows(asked):
                count += 1
                yield row
            check_logs(reader.skipped)
            skipped.append(reader.skipped)
            missing.extend([] if count else find_missing_names(asked, reader))

    skipped: list[SkippedLines] = []
    missing: list[MissingName] = []
    print_rows(asked, rows(), format)
    for lines in skipped:
        report_skipped(lines)
    report_missing(missing)


def print_rows(asked: AuditQuery, rows: Iterable[Sequence[object]], format: QueryFormat) -> None:
    if format is QueryFormat.CSV:
        print_csv_rows(asked.columns, rows)
    else:
        print_json_rows(asked.columns, rows, sparse=asked.lists)


def show_answer(answer: QueryAnswer) -> None:
    """Print an answer as text."""
    screen, asked = Screen(), answer.query
    print_table(screen, answer.columns, answer.rows, records=asked.lists)
    what = "record" if asked.lists else "group"
    shown, total = len(answer.rows), answer.total
    if shown < total:
        newest = "newest " if asked.lists or asked.by_time or asked.newest_first else "largest "
        screen.line(f"the {newest}{shown:,} of {total:,} {what}s; `--limit` changes this number")
    elif asked.lists or not asked.count:
        screen.line(f"{total:,} {what}{'' if total == 1 else 's'}")


def report_skipped(skipped: SkippedLines, what: str = "skipped {lines}") -> None:
    """Warn on stderr about lines that were not read. `what` is the text for malformed lines; `{lines}` stands for their
    number.
    """
    screen = Screen(sys.stderr)
    for file, number in skipped.lines.items():
        text = what.format(lines=f"{number:,} malformed line{'' if number == 1 else 's'}")
        screen.warn(f"{file}: {text}")
    for file, why in skipped.broken.items():
        screen.warn(f"{file}: skipped the rest of this file: {why}")
