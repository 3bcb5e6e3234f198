"""An event of an approval as plain data: enough for an approver to decide to look, and no values of the request unless
the webhook includes them."""

from __future__ import annotations

from policyengine.approvals.events import ApprovalEvent
from policyengine.approvals.model import ApproverAnswer, to_datetime
from policyengine.clock import MICROSECOND
from policyengine.time_formats import format_duration, format_rfc3339
from policyengine.webhooks.target import WebhookLinks


def event_data(event: ApprovalEvent, links: WebhookLinks, *, include_request: bool) -> dict[str, object]:
    """Return the data of an event; absent members are left out."""
    approval, who = event.approval, event.approval.requester
    requester = {"agent": who.agent, "issuer": who.issuer, "user": who.user, "chain": list(who.chain)}
    withdrawn, refusal = approval.withdrawn, approval.refusal
    found: dict[str, object] = {
        "id": approval.id,
        "state": str(event.kind) if approval.state(event.at) != "pending" else "pending",
        "rule": approval.rule,
        "message": approval.summary,
        "endpoint": approval.endpoint,
        "requester": {name: value for name, value in requester.items() if value},
        "by": approval.by,
        "count": approval.count,
        "opened": format_moment(approval.opened),
        "expires": format_moment(approval.expires),
        "within": format_duration(approval.within * MICROSECOND),
        "decision": approval.decision,
        "approved": [answer_data(vote) for vote in approval.votes],
        "denied": None if refusal is None or withdrawn else answer_data(refusal),
        "page": links.page(approval.id),
        "status": links.status(approval.id),
        "question": approval.question if include_request else None,
    }
    return {name: value for name, value in found.items() if value not in (None, [])}


def answer_data(answer: ApproverAnswer) -> dict[str, object]:
    """Return the answer of a person."""
    found = {"by": answer.by, "issuer": answer.issuer, "at": format_moment(answer.at), "reason": answer.reason}
    return {name: value for name, value in found.items() if value is not None}


def format_moment(moment: int) -> str:
    return format_rfc3339(to_datetime(moment))
