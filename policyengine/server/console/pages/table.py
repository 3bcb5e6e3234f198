"""All pages of the console, in the order of the menu."""

from __future__ import annotations

from policyengine.server.console.context import ConsolePage
from policyengine.server.console.pages import behavior, decision, log_search, overview

PAGES: tuple[ConsolePage, ...] = (
    ConsolePage("/", overview.answer_overview, title="Overview"),
    ConsolePage("/traffic", overview.answer_traffic, background=True),
    ConsolePage("/log", log_search.answer_log, title="Log"),
    ConsolePage("/behavior", behavior.answer_behavior, title="Behavior", is_listed=behavior.reads_behavior),
    ConsolePage("/decisions/{id}", decision.answer_decision),
    ConsolePage("/decisions/{id}/proof", decision.answer_proof),
)
