"""The search in the decision log: the newest records that match, read by the reader of `policyengine audit query`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.responses import Response

from policyengine.audit.query.log_process import (
    DecisionSearch,
    LogAnswer,
    LoggedDecision,
    LogQuestion,
    LogReadError,
    LogSearch,
)
from policyengine.audit.query.query import OUTCOMES, AuditQuery, FieldFilter, QueryAnswer, QueryError, parse_moment
from policyengine.server.console.context import ConsoleContext, ConsoleVisit
from policyengine.server.console.html import render_visit

FILTERS = ("agent", "user", "endpoint", "resource", "rule", "outcome", "id")
KINDS = ("decision", "outcome", "system", "issued", "not_issued", "ended", "seal")
PAGE_SIZE = 50
MAX_FILTER_LENGTH = 500
COLUMNS = ("time", "id", "outcome", "agent", "user", "endpoint", "rule", "event", "status", "latency_ms")


async def answer_log(visit: ConsoleVisit) -> Response:
    asked = {name: text.strip()[:MAX_FILTER_LENGTH] for name, text in visit.http.query_params.items() if text.strip()}
    problem: LogReadError | None = None
    answer: QueryAnswer | None = None
    try:
        answer = await search_log(visit.console, parse_search(asked))
    except QueryError as error:
        problem = LogReadError(error.message, error.hint)
    except LogReadError as error:
        problem = error
    rows = [] if answer is None else [shown_row(answer, row) for row in reversed(answer.rows)]
    older = older_page(asked, answer)
    return render_visit(
        visit, "log.html.j2", "Log", status=200 if problem is None else 400, asked=asked, rows=rows, problem=problem,
        total=0 if answer is None else answer.total, older=older, kinds=KINDS, outcomes=OUTCOMES,
        command=search_command(visit.console, answer),
    )  # fmt: skip


def search_command(console: ConsoleContext, answer: QueryAnswer | None) -> str | None:
    """Return the command that asks the same question."""
    log = console.engine.log
    return None if answer is None or log is None else answer.query.command([str(log.path)])


def parse_search(asked: Mapping[str, str]) -> AuditQuery:
    """Return the question of a search form. Raises QueryError."""
    now = datetime.now(UTC)
    since, until = (None if name not in asked else parse_moment(asked[name], now) for name in ("since", "until"))
    return AuditQuery(tuple(search_filters(asked)), since, until, limit=PAGE_SIZE)


def search_filters(asked: Mapping[str, str]) -> Iterator[FieldFilter]:
    kind = asked.get("kind", "decision")
    if kind != "all":
        yield FieldFilter("kind", (kind,))
    yield from (FieldFilter(name, (asked[name],)) for name in FILTERS if name in asked)


def shown_row(answer: QueryAnswer, row: tuple[object, ...]) -> dict[str, object]:
    """Return the cells of a row that are shown, by column."""
    cells = dict(zip(answer.columns, row, strict=True))
    return {name: "" if cells[name] is None else cells[name] for name in COLUMNS} | {"kind": cells["kind"]}


def older_page(asked: Mapping[str, str], answer: QueryAnswer | None) -> str | None:
    """Return the link to the records before the shown records; None if the log has no earlier records."""
    if answer is None or answer.total <= len(answer.rows):
        return None
    times = [str(row[0]) for row in answer.rows]
    return f"/log?{urlencode({**asked, 'until': min(times)})}"


async def search_log(console: ConsoleContext, query: AuditQuery) -> QueryAnswer:
    """Answer a question about the log. Raises LogReadError."""
    log = console.engine.log
    found = await read_log_file(console, None if log is None else LogSearch(log.path, query))
    assert isinstance(found, QueryAnswer)
    return found


async def find_decision(console: ConsoleContext, id: str) -> LoggedDecision | None:
    """Return a decision of the log. Raises LogReadError."""
    log = console.engine.log
    found = await read_log_file(console, None if log is None else DecisionSearch(log.path, id))
    assert found is None or isinstance(found, LoggedDecision)
    return found


async def read_log_file(console: ConsoleContext, question: LogQuestion | None) -> LogAnswer:
    """Answer a question in a child process, when its turn comes. Raises LogReadError."""
    if question is None:
        raise LogReadError("this server writes no decision log", "start it with `--log FILE`")
    async with console.reading.turn() as reader:
        return await console.run(reader.ask, question)
