"""All pages of the console, in the order of the menu."""

from __future__ import annotations

from policyengine.server.console.context import ConsolePage
from policyengine.server.console.pages import (
    approval,
    approvals,
    behavior,
    decision,
    halts,
    log_search,
    overview,
    traffic,
)
from policyengine.server.console.roles import ConsoleRole

APPROVE, HALT = ConsoleRole.APPROVE, ConsoleRole.HALT
PAGES: tuple[ConsolePage, ...] = (
    ConsolePage("/", overview.answer_overview, title="Overview"),
    ConsolePage("/counts", overview.answer_counts, background=True),
    ConsolePage(
        "/approvals", approvals.answer_inbox, title="Approvals", is_listed=approvals.requests_approvals,
        badge=lambda notices: notices.waiting,
    ),
    ConsolePage("/approvals/waiting", approvals.answer_waiting, background=True),
    ConsolePage("/approvals/{id}", approval.answer_approval),
    ConsolePage("/approvals/{id}/approve", approval.answer_approve, APPROVE, "POST"),
    ConsolePage("/approvals/{id}/deny", approval.answer_deny, APPROVE, "POST"),
    ConsolePage("/traffic", traffic.answer_traffic, title="Traffic"),
    ConsolePage("/traffic/rows", traffic.answer_traffic_rows, background=True),
    ConsolePage("/log", log_search.answer_log, title="Log"),
    ConsolePage("/behavior", behavior.answer_behavior, title="Behavior", is_listed=behavior.reads_behavior),
    ConsolePage("/halts", halts.answer_halts, title="Halts", badge=lambda notices: len(notices.halts)),
    ConsolePage("/halts/new", halts.answer_halt_form, HALT),
    ConsolePage("/halts/check", halts.answer_halt_check, HALT, "POST"),
    ConsolePage("/halts", halts.answer_halt, HALT, "POST"),
    ConsolePage("/halts/{id}", halts.answer_halt_page),
    ConsolePage("/halts/{id}/lift", halts.answer_lift, HALT, "POST"),
    ConsolePage("/decisions/{id}", decision.answer_decision),
    ConsolePage("/decisions/{id}/proof", decision.answer_proof),
)  # fmt: skip
