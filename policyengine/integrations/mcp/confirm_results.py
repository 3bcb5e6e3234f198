"""The result of a tool call that a person must approve: words for the model, data for programs. Nothing here depends on
an SDK.
"""

from __future__ import annotations

from typing import Any

from policyengine.approvals.links import approval_url
from policyengine.integrations.denial_messages import denial_data
from policyengine.runtime.decision import ApprovalTicket, Decision, Outcome, Remedy
from policyengine.runtime.format_values import format_value

META_KEY = "policyengine/confirm"  # the member of `_meta` with the data
SAME_CALL = "call this tool again with exactly the same arguments"


def confirm_result(decision: Decision, pages: str | None, *, structured: bool) -> dict[str, Any]:
    """Return the result of a `tools/call`. Clients compare `structuredContent` with the schema of the tool, if it has
    one, even in an error; so it is left out unless `structured`.
    """
    data = confirm_data(decision, pages)
    return {
        "content": [{"type": "text", "text": confirm_text(decision, pages)}],
        **({"structuredContent": data} if structured else {}),
        "isError": True,
        "_meta": {META_KEY: data},
    }


def confirm_data(decision: Decision, pages: str | None) -> dict[str, Any]:
    """Return the data of a confirm, with the page of each approval if it is known."""
    data = denial_data(decision)
    for remedy, members in zip(decision.remedies, data["remedies"], strict=True):
        if remedy.approval is not None and (page := ticket_page(remedy.approval, pages)) is not None:
            members["approval"]["page"] = page
    return data


def ticket_page(ticket: ApprovalTicket, pages: str | None) -> str | None:
    """Return the page of the approval: the one that the ticket names, or the one below the URL of a console."""
    return ticket.page or (None if ticket.id is None else approval_url(pages, ticket.id))


def confirm_text(decision: Decision, pages: str | None) -> str:
    """Return what a model reads: why the call did not happen, who must approve it, and what to do."""
    reasons = "; ".join(one.message for one in decision.reasons if one.outcome is Outcome.CONFIRM)
    first = f"The tool was not called, because a person must approve the call first: {reasons}."
    helps = [describe_remedy_step(one, pages) for one in decision.remedies if one.kind == "approval"]
    return " ".join((first, *helps))


def describe_remedy_step(remedy: Remedy, pages: str | None) -> str:
    ticket, by = remedy.approval, "the user of the request" if remedy.by == "user" else remedy.by
    if ticket is None or ticket.id is None:
        why = "" if ticket is None or ticket.refused is None else f": {ticket.refused}"
        return f"Required: an approval by {by}, which could not be requested{why}."
    match ticket.state:
        case "pending":
            page = ticket_page(ticket, pages)
            where = "" if page is None else f" at {page}"
            return (
                f"Approval {ticket.id} is pending until {ticket.expires}. Tell the user that it needs an answer by {by}"
                f"{where}; after that, {SAME_CALL}. Do not change the arguments, and do not try another way."
            )
        case "approved":
            return f"Approval {ticket.id} by {by} was given: {SAME_CALL}."
        case "denied":
            why = "" if ticket.reason is None else f", with the reason {format_value(ticket.reason)}"
            return f"Approval {ticket.id} was denied{why}: do not repeat the call, and tell the user."
        case state:
            return f"Approval {ticket.id} is {state}: to request another by {by}, {SAME_CALL}."
