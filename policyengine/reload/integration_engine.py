"""The current engine for integrations; it logs requests that passed only because of observe mode."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policyengine.engine import Engine
from policyengine.engine.decider import WouldBlockError
from policyengine.engine.question import parse_request
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.integrations.enforcement_point import Facts
from policyengine.reload.reloadable_engine import ReloadableEngine
from policyengine.runtime.decision import Decision
from policyengine.runtime.format_values import format_value
from policyengine.runtime.request import Request, RequestError

if TYPE_CHECKING:
    from policyengine.engine.approval_desk import ApprovalDesk
    from policyengine.engine.recorder import DecisionRecorder

_LOG = logging.getLogger("policyengine")


class LiveEngine:
    """The engine interface for integrations, which uses the current engine for each question."""

    def __init__(self, reloading: ReloadableEngine) -> None:
        self._reloading = reloading

    @property
    def engine(self) -> Engine:
        """The engine that decides now."""
        return self._reloading.current

    @property
    def approvals(self) -> ApprovalDesk | None:
        return self._reloading.current.approvals

    @property
    def recorder(self) -> DecisionRecorder:
        return self._reloading.current.recorder

    async def prove_async(self, facts: Facts) -> Facts:
        return await self._reloading.current.prove_async(facts)

    async def decide_async(self, question: Facts) -> Decision:
        decision = await self._reloading.current.decide_async(question)
        if decision.observed:
            log_observed(decision, question)
        return decision

    def decide_directly(self, question: Facts | Request, size: int) -> Decision | None:
        """Decide on an event loop. Return None if the decision may wait or take long, or if the question is malformed:
        then nothing was decided. `size` is the maximum number of bytes of the encoded question.
        """
        engine = self._reloading.current
        if engine.forecast.may_wait or engine.identity is not None:
            return None
        try:
            decision = engine.decide(question, without_waiting=True, size=size)
        except (RequestError, WouldBlockError):
            return None
        if decision.observed:
            log_observed(decision, question)
        return decision

    async def evaluate_async(self, question: Facts) -> Decision:
        return await self._reloading.current.evaluate_async(question)

    async def evaluate_listed_async(self, question: Facts) -> Decision:
        return await self._reloading.current.evaluate_listed_async(question)

    @property
    def reports_at_once(self) -> bool:
        """Whether the current engine reports without waiting, so that `report` may run on an event loop."""
        return self._reloading.current.reports_at_once

    def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Facts | None = None,
        size: int | None = None,
    ) -> bool:
        engine = self._reloading.current
        return engine.report(decision, status=status, latency_ms=latency_ms, output=output, size=size)

    async def report_async(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Facts | None = None,
        size: int | None = None,
    ) -> bool:
        engine = self._reloading.current
        return await engine.report_async(decision, status=status, latency_ms=latency_ms, output=output, size=size)


def log_observed(decision: Decision, question: Facts | Request) -> None:
    """Log one line, with texts from callers in quotes."""
    reasons = [one.message for one in decision.reasons if one.outcome is decision.would_be]
    # Proved facts replace the credentials.
    asked = (
        question
        if isinstance(question, Request)
        else parse_request({name: value for name, value in question.items() if name != "credentials"})
    )
    words = format_value(endpoint_words(asked.endpoint)), decision.would_be, "; ".join(reasons)
    _LOG.warning("observing: %s passed; the outcome would be %s: %s", *words, extra={"event": "observed"})
