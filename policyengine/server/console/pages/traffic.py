"""The live traffic: the newest decisions, read from the end of the log, so that the page does not slow down
decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from policyengine.audit.query.log_process import LogReadError
from policyengine.audit.query.log_tail import TrafficDecision, TrafficSearch
from policyengine.audit.query.query import OUTCOMES
from policyengine.plurals import pluralize
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.server.console.pages.live_rows import LiveCell, LiveRow, describe_tables
from policyengine.server.console.pages.log_search import MAX_FILTER_LENGTH, read_log_file

FILTERS = ("outcome", "agent")
HEADERS = ("time", "outcome", "agent", "user", "endpoint", "rule or gate")
NO_DECISIONS: tuple[TrafficDecision, ...] = ()


async def answer_traffic(visit: ConsoleVisit) -> Response:
    asked = read_filters(visit.http.query_params)
    try:
        rows, problem = show_decisions(await find_recent(visit, asked)), None
    except LogReadError as error:
        rows, problem = [], error
    return render_visit(
        visit, "traffic.html.j2", "Traffic", status=200 if problem is None else 503, asked=asked, rows=rows,
        problem=problem, outcomes=OUTCOMES, headers=HEADERS, status_text=describe_number(rows),
        source=f"/traffic/rows?{urlencode(asked)}", here=f"/traffic?{urlencode(asked)}",
    )  # fmt: skip


async def answer_traffic_rows(visit: ConsoleVisit) -> Response:
    """Answer the script that shows new decisions."""
    try:
        rows = show_decisions(await find_recent(visit, read_filters(visit.http.query_params)))
    except LogReadError as error:
        return JSONResponse({"problem": error.message}, 503)
    return JSONResponse(describe_tables({"traffic": rows}, describe_number(rows)))


def read_filters(query: Mapping[str, str]) -> dict[str, str]:
    """Return the filters of a form; unknown outcomes are ignored."""
    asked = {name: query.get(name, "").strip()[:MAX_FILTER_LENGTH] for name in FILTERS}
    if asked["outcome"] not in OUTCOMES:
        asked["outcome"] = ""
    return {name: text for name, text in asked.items() if text}


async def find_recent(visit: ConsoleVisit, asked: Mapping[str, str]) -> tuple[TrafficDecision, ...]:
    """Return the newest decisions. Raises LogReadError."""
    log = visit.console.engine.log
    search = None if log is None else TrafficSearch(log.path, asked.get("outcome", ""), asked.get("agent", ""))
    found = await read_log_file(visit.console, search)
    assert isinstance(found, tuple)
    return found


def show_decisions(found: Sequence[TrafficDecision]) -> list[LiveRow]:
    return [
        LiveRow(
            one.id,
            (
                LiveCell(one.time[:23].replace("T", " "), f"/decisions/{one.id}"),
                LiveCell(one.outcome, badge=one.outcome),
                LiveCell(one.agent),
                LiveCell(one.user, label="for"),
                LiveCell(one.endpoint),
                LiveCell(one.rule or one.gate, label="by"),
            ),
        )
        for one in found
    ]


def describe_number(rows: Sequence[LiveRow]) -> str:
    return f"The newest {pluralize(len(rows), 'decision')}." if rows else "No decision matches."
