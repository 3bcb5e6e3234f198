"""An approval as plain data, for the people who answer and for other systems."""

from __future__ import annotations

from policyengine.approvals.model import ApprovalRequest, ApproverAnswer, to_datetime
from policyengine.clock import MICROSECOND
from policyengine.time_formats import format_duration, format_rfc3339


def describe_request(approval: ApprovalRequest) -> dict[str, object]:
    """Return an approval without its state and without the values of the request."""
    who = approval.requester
    requester = {"agent": who.agent, "issuer": who.issuer, "user": who.user, "chain": list(who.chain)}
    refusal = {} if approval.refusal is None or approval.withdrawn else {"denied": describe_answer(approval.refusal)}
    return {
        "id": approval.id,
        "decision": approval.decision,
        "rule": approval.rule,
        "message": approval.summary,
        "by": approval.by,
        "count": approval.count,
        "within": format_duration(approval.within * MICROSECOND),
        "opened": format_moment(approval.opened),
        "expires": format_moment(approval.expires),
        "endpoint": approval.endpoint,
        "requester": {name: value for name, value in requester.items() if value},
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
