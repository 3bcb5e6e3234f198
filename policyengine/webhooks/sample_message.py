"""A sample message, with which operators test a webhook; it is about no real approval."""

from __future__ import annotations

import secrets

from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.model import ApprovalRequest
from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.runtime.decision import ApproverSet, Principal
from policyengine.webhooks.messages import encode_message
from policyengine.webhooks.spool import SpoolMessage
from policyengine.webhooks.target import WebhookLinks, WebhookTarget

HOUR = 3_600 * MICROSECONDS_PER_SECOND


def create_sample_message(target: WebhookTarget, links: WebhookLinks, now: float) -> SpoolMessage:
    """Return a test message for a webhook, at a time in seconds since 1970."""
    moment = round(now * MICROSECONDS_PER_SECOND)
    approval = ApprovalRequest(
        "test", "test", "test", "test", "role approver", 1, ApproverSet(role="approver"),
        "this is a test; nothing waits for an answer", "POST /test", {"body": {"test": True}},
        Principal(agent="test", user="test"), "test", moment, moment + HOUR, HOUR,
    )  # fmt: skip
    event = ApprovalEvent(ApprovalEventKind.TEST, approval, moment)
    id = f"msg_{secrets.token_hex(16)}"
    return SpoolMessage(id, target.name, str(event.kind), encode_message(event, target, links), now, now)
