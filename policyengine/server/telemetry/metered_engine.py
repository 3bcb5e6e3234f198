"""An engine that counts its decisions under the name of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from policyengine.engine.record_group import RecordGroup, count_when_written
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency import IdempotencyKey, KeyInProgressError, KeyReuseError
from policyengine.runtime.idempotent_decision import IdempotentDecision
from policyengine.runtime.request import RequestError
from policyengine.server.telemetry.shared_counters import CountFunction, ServerCounters, TimingTurns, time_always

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.engine.question import QuestionLike
    from policyengine.engine.state_use import StateUse
    from policyengine.engine.wait_forecast import WaitForecast
    from policyengine.explain.explanation import Explanation
    from policyengine.identity.authenticator import CredentialAuthenticator
    from policyengine.kernel import Kernel
    from policyengine.reload import ReloadableEngine
    from policyengine.runtime.history import OutcomeReport, ReportStatus


class EngineInterface(Protocol):
    """The engine as adapters use it, metered or not."""

    @property
    def state(self) -> StateUse: ...
    @property
    def forecast(self) -> WaitForecast: ...
    @property
    def identity(self) -> CredentialAuthenticator | None: ...
    @property
    def is_recording(self) -> bool: ...
    def authenticate(self, question: QuestionLike) -> QuestionLike: ...
    @property
    def package(self) -> str: ...
    @property
    def revision(self) -> str: ...
    def decide(
        self, question: QuestionLike, *, without_waiting: bool = False, records: RecordGroup | None = None
    ) -> Decision: ...
    def evaluate(
        self, question: QuestionLike, *, without_waiting: bool = False, records: RecordGroup | None = None
    ) -> Decision: ...
    def decide_once(self, question: QuestionLike, key: IdempotencyKey) -> IdempotentDecision: ...
    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]: ...
    def explain(self, question: QuestionLike) -> Explanation: ...
    def report_outcome(self, decision: str, report: OutcomeReport, *, refund: bool = False) -> ReportStatus | None: ...


class EngineProvider(Protocol):
    """A source of the current engine. Adapters read it once per question, because a reload may replace it."""

    @property
    def current(self) -> EngineInterface: ...


@dataclass(frozen=True, slots=True)
class MeteredEngineProvider:
    """A source of the current engine, metered for one adapter."""

    reloading: ReloadableEngine
    tally: ServerCounters
    count: CountFunction
    timed: TimingTurns = field(default_factory=time_always)

    @property
    def current(self) -> MeteredEngine:
        return MeteredEngine(self.reloading.current, self.tally, self.count, self.timed)


@dataclass(frozen=True)
class MeteredEngine:
    """An engine that counts its decisions. `policyengine_once_total` counts replayed decisions instead."""

    engine: Engine
    tally: ServerCounters
    count: CountFunction
    timed: TimingTurns = field(default_factory=time_always)

    @property
    def state(self) -> StateUse:
        return self.engine.state

    @property
    def forecast(self) -> WaitForecast:
        return self.engine.forecast

    @property
    def identity(self) -> CredentialAuthenticator | None:
        return self.engine.identity

    @property
    def is_recording(self) -> bool:
        return self.engine.is_recording

    def authenticate(self, question: QuestionLike) -> QuestionLike:
        return self.engine.authenticate(question)

    @property
    def kernel(self) -> Kernel:
        return self.engine.kernel

    @property
    def package(self) -> str:
        return self.engine.package

    @property
    def revision(self) -> str:
        return self.engine.revision

    def decide(
        self, question: QuestionLike, *, without_waiting: bool = False, records: RecordGroup | None = None
    ) -> Decision:
        began = perf_counter_ns() if next(self.timed) else 0
        decision = self.engine.decide(question, without_waiting=without_waiting, records=records)
        count_when_written(records, decision, self.count, began)
        return decision

    def evaluate(
        self, question: QuestionLike, *, without_waiting: bool = False, records: RecordGroup | None = None
    ) -> Decision:
        began = perf_counter_ns() if next(self.timed) else 0
        decision = self.engine.evaluate(question, without_waiting=without_waiting, records=records)
        count_when_written(records, decision, self.count, began)
        return decision

    def decide_once(self, question: QuestionLike, key: IdempotencyKey) -> IdempotentDecision:
        began = perf_counter_ns()
        try:
            found = self.engine.decide_once(question, key)
        except (KeyInProgressError, KeyReuseError) as error:
            self.tally.add("once", "used" if isinstance(error, KeyReuseError) else "under_way")
            raise
        self.tally.add("once", "again" if found.again else "first")
        if not found.again:
            self.count(found.decision.answer, began)
        return found

    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]:
        """Decide several questions; the duration is divided among them."""
        began = perf_counter_ns()
        answers = self.engine.decide_many(questions)
        each = (perf_counter_ns() - began) // (len(answers) or 1)
        for answer in answers:
            if isinstance(answer, Decision):
                self.count(answer.answer, perf_counter_ns() - each)
        return answers

    def explain(self, question: QuestionLike) -> Explanation:
        return self.engine.explain(question)

    def report_outcome(self, decision: str, report: OutcomeReport, *, refund: bool = False) -> ReportStatus | None:
        status = self.engine.report_outcome(decision, report, refund=refund)
        if status in ("first", "unrecorded"):
            self.tally.outcome(report.status, report.latency_ms)
        return status
