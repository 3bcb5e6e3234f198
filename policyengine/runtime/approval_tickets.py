"""The approvals that a confirm waits for, as its remedies name them, and their states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import structs

from policyengine.runtime.decision import ApprovalTicket, Decision, Outcome, Remedy

PENDING, APPROVED = "pending", "approved"


class TicketState(NamedTuple):
    """The state of an approval and, after a denial, its reason."""

    state: str
    reason: str | None = None


def find_tickets(decision: Decision) -> list[ApprovalTicket]:
    """Return the tickets of the approvals that a confirm opened or found open; other decisions have none."""
    if decision.outcome is not Outcome.CONFIRM:
        return []
    tickets = (remedy.approval for remedy in decision.remedies)
    return [ticket for ticket in tickets if ticket is not None and ticket.id is not None]


def can_be_lifted(decision: Decision) -> bool:
    """Return whether the answers of people can still lift a confirm: every approval waits, or was given."""
    needed = sum(remedy.kind == "approval" for remedy in decision.remedies)
    states = [ticket.state for ticket in find_tickets(decision)]
    return bool(states) and len(states) == needed and set(states) <= {PENDING, APPROVED}


def is_approved(decision: Decision) -> bool:
    """Return whether every approval that a confirm needs was given, so that the same request passes."""
    return can_be_lifted(decision) and all(ticket.state == APPROVED for ticket in find_tickets(decision))


def with_ticket_states(decision: Decision, states: Mapping[str, TicketState]) -> Decision:
    """Return the decision with these states of approvals, by id."""

    def update(remedy: Remedy) -> Remedy:
        ticket = remedy.approval
        known = None if ticket is None or ticket.id is None else states.get(ticket.id)
        if ticket is None or known is None:
            return remedy
        return structs.replace(remedy, approval=structs.replace(ticket, state=known.state, reason=known.reason))

    answer = structs.replace(decision.answer, remedies=tuple(map(update, decision.remedies)), written={})
    return structs.replace(decision, answer=answer)
