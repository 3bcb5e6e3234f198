"""Approvals as plain data: their state for requesters, and everything for the people who answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyengine.approvals.model import ApproverAnswer, to_datetime
from policyengine.clock import MICROSECOND
from policyengine.time_formats import format_duration, format_rfc3339

if TYPE_CHECKING:
    from policyengine.engine.approval_desk import TrackedApproval

POLL_SECONDS = 5


def describe_status(status: TrackedApproval) -> dict[str, object]:
    """Return the state of an approval, with nothing of the request except its decision."""
    approval = status.approval
    found: dict[str, object] = {
        "id": approval.id, "state": status.state.value, "expires": format_moment(approval.expires),
        "poll": POLL_SECONDS, "decision": approval.decision,
    }  # fmt: skip
    refusal = approval.refusal
    return found if refusal is None or refusal.reason is None else {**found, "reason": refusal.reason}


def describe_approval(status: TrackedApproval) -> dict[str, object]:
    """Return an approval for the people who may answer it."""
    approval, who = status.approval, status.approval.requester
    requester = {"agent": who.agent, "issuer": who.issuer, "user": who.user, "chain": list(who.chain)}
    refusal = {} if approval.refusal is None or approval.withdrawn else {"denied": describe_answer(approval.refusal)}
    return {
        **describe_status(status),
        "rule": approval.rule,
        "message": approval.summary,
        "by": approval.by,
        "count": approval.count,
        "within": format_duration(approval.within * MICROSECOND),
        "opened": format_moment(approval.opened),
        "endpoint": approval.endpoint,
        "requester": {name: value for name, value in requester.items() if value},
        "question": approval.question,
        "approved": [describe_answer(vote) for vote in approval.votes],
        **refusal,
    }


def describe_answer(answer: ApproverAnswer) -> dict[str, object]:
    found = {
        "by": answer.by, "issuer": answer.issuer, "at": format_moment(answer.at), "reason": answer.reason,
        "channel": answer.channel,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def format_moment(moment: int) -> str:
    return format_rfc3339(to_datetime(moment))
