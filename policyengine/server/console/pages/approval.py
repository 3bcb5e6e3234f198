"""One approval: everything that a person must see to answer it, and the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from starlette.responses import Response

from policyengine.approvals.eligibility import REFUSAL_HINTS, ApproverRefusal
from policyengine.approvals.model import ApprovalChangeError
from policyengine.audit import SystemEvent
from policyengine.clock import MICROSECOND
from policyengine.engine import Engine
from policyengine.engine.approval_context import describe_details
from policyengine.engine.approval_desk import (
    CHANGED_POLICIES,
    MAX_REASON_LENGTH,
    ApprovalDesk,
    ApprovalNotFoundError,
    ApproverRefusedError,
    TrackedApproval,
)
from policyengine.runtime.halts import fold_name
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.server.console.pages.approvals import SILENT_STORE, may_answer
from policyengine.server.console.roles import ConsoleRole
from policyengine.stores.base import StoreError
from policyengine.time_formats import format_duration

MICROSECONDS, MINUTE = 1_000_000, 60
APPROVAL_ID = re.compile(r"[0-9a-f]{48}")
NO_CONFIRMS = "the current policies request no approvals"
NO_ROLE = "you do not have the role `approve`"
NO_ROLE_HINT = "the operator gives roles in `[console]` of `policyengine.toml`"
LINK_HINT = "sign in at an issuer, or let the operator set `link_issuer` in `[console]` (docs/console.md)"
LINE_ENDS = re.compile(r"[\r\n]+")


@dataclass(frozen=True, slots=True)
class TreeLine:
    """A member or an item of a request: its name, and its text or its parts. `kind` is the type of the value."""

    name: str
    kind: str
    text: str = ""
    parts: tuple[TreeLine, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerProblem:
    """Why a person may not answer an approval, and what helps."""

    message: str
    hint: str = ""


async def answer_approval(visit: ConsoleVisit) -> Response:
    """Show an approval."""
    console = visit.console
    try:
        desk, tracked = await console.run(find_approval, visit)
        problem = await console.run(find_problem, visit, desk, tracked)
        async with console.reading.turn() as reader:
            details = await console.run(describe_details, console.engine, tracked, reader)
    except (ApprovalNotFoundError, StoreError) as error:
        return refuse_page(visit, error)
    approval = tracked.approval
    return render_visit(
        visit, "approval.html.j2", "Approval", approval=approval, details=details, state=tracked.state.value,
        request=tree_lines(approval.question), directory=directory_lines(details), problem=problem,
        remaining=describe_remaining(console.engine, tracked), voted=has_voted(visit, tracked),
        answers_of=console.proved(visit.person).issuer, may_halt=ConsoleRole.HALT in visit.roles,
        has_log=console.engine.log is not None, most=MAX_REASON_LENGTH,
    )  # fmt: skip


def find_approval(visit: ConsoleVisit) -> tuple[ApprovalDesk, TrackedApproval]:
    """Return the approval of the path. Raises ApprovalNotFoundError and StoreError."""
    desk, id = visit.console.engine.approvals, visit.http.path_params["id"]
    if desk is None:
        raise ApprovalNotFoundError(NO_CONFIRMS)
    if not APPROVAL_ID.fullmatch(id):
        raise ApprovalNotFoundError
    return desk, desk.find(id)


def find_problem(visit: ConsoleVisit, desk: ApprovalDesk, tracked: TrackedApproval) -> AnswerProblem | None:
    """Return why the person may not answer a pending approval; None if the person may."""
    if not may_answer(visit):
        return AnswerProblem(NO_ROLE, NO_ROLE_HINT)
    if not desk.is_current(tracked.approval):
        return AnswerProblem(CHANGED_POLICIES)
    refusal = desk.find_refusal(tracked.approval, visit.console.proved(visit.person))
    return None if refusal is None else describe_refused(visit, refusal)


def describe_refused(visit: ConsoleVisit, refusal: ApproverRefusal) -> AnswerProblem:
    no_issuer = visit.person.issuer is None and visit.console.options.link_issuer is None
    if no_issuer and refusal in (ApproverRefusal.ISSUER, ApproverRefusal.OTHER_ISSUER):
        return AnswerProblem("no issuer vouches for the person who signs in with a link", LINK_HINT)
    return AnswerProblem(refusal.value, REFUSAL_HINTS[refusal])


def has_voted(visit: ConsoleVisit, tracked: TrackedApproval) -> bool:
    return any(fold_name(vote.by) == fold_name(visit.person.user) for vote in tracked.approval.votes)


def describe_remaining(engine: Engine, tracked: TrackedApproval) -> str:
    """Return in words how long the approval can still be answered."""
    left = max(0, tracked.approval.expires - engine.decider.now()) // MICROSECONDS
    return format_duration(timedelta(seconds=left if left < MINUTE else left - left % MINUTE))


def refuse_page(visit: ConsoleVisit, error: ApprovalNotFoundError | StoreError) -> Response:
    status, message = (404, str(error)) if isinstance(error, ApprovalNotFoundError) else (503, SILENT_STORE)
    return render_visit(visit, "message.html.j2", "No approval", status=status, message=message, hint="")


# ── The answer ────────────────────────────────────────────────────────────────────────────────


async def answer_approve(visit: ConsoleVisit) -> Response:
    """Approve a request."""
    return await answer(visit, "approve", lambda desk, id: desk.approve(id, visit.console.proved(visit.person)))


async def answer_deny(visit: ConsoleVisit) -> Response:
    """Deny a request, with the reason of the form."""
    reason = LINE_ENDS.sub(" ", visit.form.get("reason", "").strip()) or None
    return await answer(visit, "deny", lambda desk, id: desk.deny(id, visit.console.proved(visit.person), reason))


async def answer(visit: ConsoleVisit, verb: str, act: Callable[[ApprovalDesk, str], TrackedApproval]) -> Response:
    """Answer an approval, record the act and its result, and show the result."""
    console = visit.console

    def work() -> TrackedApproval:
        desk, found = find_approval(visit)
        return act(desk, found.approval.id)

    try:
        tracked = await console.run(work)
    except ApprovalNotFoundError as error:
        return await refuse_answer(visit, verb, 404, str(error))
    except ApproverRefusedError as error:
        problem = describe_refused(visit, error.refusal)
        return await refuse_answer(visit, verb, 403, problem.message, problem.hint)
    except ApprovalChangeError as error:
        return await refuse_answer(visit, verb, 409, str(error))
    except StoreError as error:
        return await refuse_answer(visit, verb, 503, error.reason, "the approval has not changed; try again")
    record_answer(visit, verb, tracked.state.value)
    visit = await visit.refresh()
    approval = tracked.approval
    return render_visit(
        visit, "answered.html.j2", "Denied" if verb == "deny" else "Approved", approval=approval,
        state=tracked.state.value, missing=approval.count - len(approval.votes), verb=verb,
        within=format_duration(approval.within * MICROSECOND),
    )  # fmt: skip


async def refuse_answer(visit: ConsoleVisit, verb: str, status: int, message: str, hint: str = "") -> Response:
    """Record that an answer was refused, and show the reason."""
    record_answer(visit, verb, f"refused: {message}")
    visit = await visit.refresh()
    id = visit.http.path_params["id"] if status in (403, 409, 503) else ""
    return render_visit(
        visit, "not_answered.html.j2", "Not approved" if verb == "approve" else "Not denied", status=status,
        message=message, hint=hint, id=id,
    )  # fmt: skip


def record_answer(visit: ConsoleVisit, verb: str, result: str) -> None:
    """Record the act in the console. The desk records the answer itself; an answer counts only if the desk has recorded
    it."""
    by = "link" if visit.person.issuer is None else "issuer"
    id = visit.http.path_params["id"][:64]
    visit.console.records.act(
        SystemEvent.CONSOLE_ANSWERED, visit.person, by=by, approval=id, answer=verb, result=result
    )


# ── The request as a tree ─────────────────────────────────────────────────────────────────────


def tree_lines(members: Mapping[str, Any]) -> tuple[TreeLine, ...]:
    """Return the members of an object as lines."""
    return tuple(tree_line(str(name), value) for name, value in members.items())


def tree_line(name: str, value: object) -> TreeLine:
    match value:
        case dict():
            return TreeLine(name, "object", "" if value else "empty", tree_lines(value))
        case list() | tuple():
            parts = tuple(tree_line(str(number), item) for number, item in enumerate(value, 1))
            return TreeLine(name, "list", "" if value else "empty", parts)
        case str():
            return TreeLine(name, "text", value)
        case bool():
            return TreeLine(name, "word", "true" if value else "false")
        case None:
            return TreeLine(name, "word", "null")
        case _:
            return TreeLine(name, "number", str(value))


def directory_lines(details: Mapping[str, object]) -> list[tuple[dict[str, Any], tuple[TreeLine, ...]]]:
    """Return each entity row with its attributes as lines."""
    rows = cast(list[dict[str, Any]], details["directory"])
    return [(row, tree_lines(row.get("attributes", {}))) for row in rows]
