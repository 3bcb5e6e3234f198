"""The inbox: the requests that wait for the person, and those that wait for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from policyengine.approvals.views import format_moment
from policyengine.engine import Engine
from policyengine.engine.approval_desk import TrackedApproval
from policyengine.plurals import pluralize
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.server.console.pages.live_rows import LiveCell, LiveRow, describe_tables
from policyengine.server.console.roles import ConsoleRole
from policyengine.stores.base import StoreError

MAX_APPROVALS_SHOWN = 100
HEADERS = ("request", "requester", "rule", "asked", "answer until")
SILENT_STORE = "the store does not answer"


@dataclass(frozen=True, slots=True)
class Inbox:
    """The approvals that wait: `mine` for the person, `others` for other people; the newest MAX_APPROVALS_SHOWN of
    each. `problem` says why they are unknown."""

    mine: tuple[LiveRow, ...] = ()
    others: tuple[LiveRow, ...] = ()
    waiting: int = 0
    problem: str | None = None

    @property
    def status(self) -> str:
        """The text that a screen reader reads when it changes."""
        if self.problem is not None:
            return f"The inbox is unknown: {self.problem}."
        return f"{pluralize(self.waiting, 'request')} {'waits' if self.waiting == 1 else 'wait'} for you."


def requests_approvals(engine: Engine) -> bool:
    """Return whether a rule requests approvals."""
    return engine.approvals is not None


async def answer_inbox(visit: ConsoleVisit) -> Response:
    inbox = await visit.console.run(read_inbox, visit)
    return render_visit(
        visit, "approvals.html.j2", "Approvals", inbox=inbox, headers=HEADERS, may_answer=may_answer(visit),
        requests=requests_approvals(visit.console.engine), most=MAX_APPROVALS_SHOWN,
    )  # fmt: skip


async def answer_waiting(visit: ConsoleVisit) -> Response:
    """Answer the script that renews the inbox."""
    inbox = await visit.console.run(read_inbox, visit)
    tables = {"mine": inbox.mine, "others": inbox.others}
    return JSONResponse(describe_tables(tables, inbox.status, waiting=inbox.waiting), 503 if inbox.problem else 200)


def may_answer(visit: ConsoleVisit) -> bool:
    return ConsoleRole.APPROVE in visit.roles


def read_inbox(visit: ConsoleVisit) -> Inbox:
    """Read the approvals that wait. May wait for the store."""
    desk = visit.console.engine.approvals
    if desk is None:
        return Inbox()
    try:
        every = desk.list()
    except StoreError:
        return Inbox(problem=SILENT_STORE)
    mine = desk.select_answerable(every, visit.console.proved(visit.person)) if may_answer(visit) else []
    own = {one.approval.id for one in mine}
    others = [one for one in every if one.approval.id not in own]
    return Inbox(show_waiting(mine), show_waiting(others), len(mine))


def show_waiting(found: Sequence[TrackedApproval]) -> tuple[LiveRow, ...]:
    return tuple(map(show_row, found[:MAX_APPROVALS_SHOWN]))


def show_row(tracked: TrackedApproval) -> LiveRow:
    approval = tracked.approval
    who, href = approval.requester, f"/approvals/{approval.id}"
    requester = who.agent or who.user or "anonymous"
    if who.agent is not None and who.user is not None:
        requester = f"{who.agent} for {who.user}"
    votes = f" ({len(approval.votes)} of {approval.count} have approved)" if approval.votes else ""
    return LiveRow(
        f"{approval.id}/{len(approval.votes)}",
        (
            LiveCell(f"{approval.summary}{votes}", href),
            LiveCell(requester, label="by"),
            LiveCell(approval.rule, label="rule"),
            LiveCell(short_time(format_moment(approval.opened)), label="asked"),
            LiveCell(short_time(format_moment(approval.expires)), label="until"),
        ),
    )


def short_time(text: str) -> str:
    """Return an RFC 3339 time in UTC without its fraction, as lists show it."""
    return text[:19].replace("T", " ")
