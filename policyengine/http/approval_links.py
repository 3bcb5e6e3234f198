"""The approval that a confirm waits for, as a member of problem documents and as a `Link` header, for clients that see
only one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import to_builtins

from policyengine.runtime.approval_tickets import PENDING
from policyengine.runtime.decision import ApprovalTicket, Remedy

LINK_HEADER = "link"
MAX_LINK_LENGTH = 1_024
# A URL that a header may contain between angle brackets. A path is not enough: the client would resolve it against the
# URL of the API, which does not serve the status.
ABSOLUTE_URL = re.compile(r"https?://[!#-;=?-~]+").fullmatch


def select_ticket(remedies: Sequence[Remedy]) -> ApprovalTicket | None:
    """Return the ticket that a client should follow: the first ticket that waits for an answer, or else the first
    ticket.
    """
    tickets = [remedy.approval for remedy in remedies if remedy.approval is not None]
    waiting = [ticket for ticket in tickets if ticket.state == PENDING]
    return next(iter((*waiting, *tickets)), None)


def approval_member(remedies: Sequence[Remedy], *, only_urls: bool = False) -> dict[str, object]:
    """Return the member `approval` of a problem document; nothing if no remedy has a ticket. With `only_urls`, the
    member has a `status` only if the status is a URL."""
    ticket = select_ticket(remedies)
    if ticket is None:
        return {}
    return {"approval": ticket_members(ticket) if only_urls else to_builtins(ticket)}


def ticket_members(ticket: ApprovalTicket) -> dict[str, object]:
    """Return the members of a ticket for the client of an application. A `status` that is not a URL is left out,
    because the application does not serve its path."""
    found: dict[str, object] = to_builtins(ticket)
    return {name: value for name, value in found.items() if name != "status" or ABSOLUTE_URL(str(value))}


def approval_links(remedies: Sequence[Remedy]) -> tuple[tuple[str, str], ...]:
    """Return a `Link` header to the state of the approval (`rel="status"`, RFC 8631), if its absolute URL is known."""
    ticket = select_ticket(remedies)
    url = None if ticket is None else ticket.status
    if url is None or len(url) > MAX_LINK_LENGTH or not ABSOLUTE_URL(url):
        return ()
    return ((LINK_HEADER, f'<{url}>; rel="status"'),)
