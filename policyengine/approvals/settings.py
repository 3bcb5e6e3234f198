"""Settings of approvals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyengine.approvals.events import ApprovalListener


@dataclass(frozen=True, slots=True)
class ApprovalSettings:
    """How approvals are opened and answered.

    With `trust_callers`, `approvals` in a question count; otherwise only answers that this engine recorded count. A
    person can answer for the duration `wait`. At most `most_per_requester` approvals of one requester may be open,
    denied or withdrawn at a time, and `most_per_approver` may wait for the same approvers, at most half of these from
    one agent. `issuers` are the issuers whose users may answer; if it is empty, the policies must distinguish the users
    of different issuers (`may_name_approvers`). `url` is the public URL of the server, for links to approvals;
    `console_url` is that of the console, where people answer. `listener` receives what happens to approvals.
    """

    trust_callers: bool = False
    wait: timedelta = timedelta(days=1)
    most_per_requester: int = 20
    most_per_approver: int = 100
    issuers: tuple[str, ...] = ()
    url: str | None = None
    console_url: str | None = None
    listener: ApprovalListener | None = None


DEFAULT_APPROVAL_SETTINGS = ApprovalSettings()
MAX_WAITING = 10_000  # maximum approvals that wait for an answer at a time
