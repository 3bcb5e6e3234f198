"""An event of an approval as plain data: enough for an approver to know what is asked, and no values of the request
unless the webhook includes them."""

from __future__ import annotations

from policyengine.approvals.events import ApprovalEvent
from policyengine.approvals.views import describe_request
from policyengine.webhooks.target import WebhookLinks


def event_data(event: ApprovalEvent, links: WebhookLinks, *, include_request: bool) -> dict[str, object]:
    """Return the data of an event; absent members are left out."""
    approval = event.approval
    found: dict[str, object] = {
        **describe_request(approval),
        "state": approval.state(event.at).value,
        "page": links.page(approval.id),
        "status": links.status(approval.id),
        "question": approval.question if include_request else None,
    }
    return {name: value for name, value in found.items() if value not in (None, [])}
