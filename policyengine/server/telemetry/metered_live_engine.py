"""The current engine for integrations that counts its decisions and the outcomes of the requests."""

from __future__ import annotations

from time import perf_counter_ns

from policyengine.integrations.enforcement_point import Facts
from policyengine.reload.integration_engine import LiveEngine
from policyengine.reload.reloadable_engine import ReloadableEngine
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import Request
from policyengine.server.telemetry.shared_counters import ServerCounters


class MeteredLiveEngine(LiveEngine):
    """The engine interface for integrations. `tally` counts its decisions under the name `door`; evaluations, such as
    those of the items of a list, are not counted.
    """

    def __init__(self, reloading: ReloadableEngine, tally: ServerCounters, door: str) -> None:
        super().__init__(reloading)
        self._tally, self._count = tally, tally.apart(door)

    async def decide_async(self, question: Facts) -> Decision:
        began = perf_counter_ns()
        decision = await super().decide_async(question)
        self._count(decision.answer, began)
        return decision

    def decide_directly(self, question: Facts | Request, size: int) -> Decision | None:
        began = perf_counter_ns()
        decision = super().decide_directly(question, size)
        if decision is not None:
            self._count(decision.answer, began)
        return decision

    def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Facts | None = None,
        size: int | None = None,
    ) -> bool:
        is_first = super().report(decision, status=status, latency_ms=latency_ms, output=output, size=size)
        if is_first:
            self._tally.outcome(status, latency_ms)
        return is_first

    async def report_async(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Facts | None = None,
        size: int | None = None,
    ) -> bool:
        is_first = await super().report_async(decision, status=status, latency_ms=latency_ms, output=output, size=size)
        if is_first:
            self._tally.outcome(status, latency_ms)
        return is_first
