"""Approvals as plain data: their state for requesters, and everything for the people who answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyengine.approvals.views import describe_request, format_moment

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
    return {
        **describe_status(status),
        **describe_request(status.approval),
        "question": status.approval.question,
    }
