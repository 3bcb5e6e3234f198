"""An engine whose answers are counted, each at the door that it was asked for by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency_key import IdempotencyKey, KeyInProgressError, KeyReuseError
from policyengine.runtime.idempotent_decision import IdempotentDecision
from policyengine.runtime.request import RequestError
from policyengine.server.telemetry.shared_counters import CountFunction, ServerCounters, TimingTurns, time_always

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.engine.question import QuestionLike
    from policyengine.explain.explanation import Explanation
    from policyengine.identity.authenticator import CredentialAuthenticator
    from policyengine.kernel import Kernel
    from policyengine.reload import ReloadableEngine
    from policyengine.runtime.history import OutcomeReport, ReportStatus


class EngineInterface(Protocol):
    """What doors ask: an engine, counted or not."""

    @property
    def shares_state(self) -> bool: ...
    @property
    def identity(self) -> CredentialAuthenticator | None: ...
    def waits_for(self, question: QuestionLike | None = None) -> bool: ...
    def awaits_issuer(self, question: QuestionLike) -> bool: ...
    def takes_long(self, question: QuestionLike) -> bool: ...
    def authenticate(self, question: QuestionLike) -> QuestionLike: ...
    @property
    def remote(self) -> bool: ...
    @property
    def loops(self) -> bool: ...
    @property
    def package(self) -> str: ...
    @property
    def revision(self) -> str: ...
    def decide(self, question: QuestionLike, *, at_once: bool = False) -> Decision: ...
    def evaluate(self, question: QuestionLike) -> Decision: ...
    def decide_once(self, question: QuestionLike, once: IdempotencyKey) -> IdempotentDecision: ...
    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]: ...
    def explain(self, question: QuestionLike) -> Explanation: ...
    def reported(self, decision: str, report: OutcomeReport, *, refund: bool = False) -> ReportStatus | None: ...


class EngineProvider(Protocol):
    """Where whoever decides now is found: read once for each question, as another may decide the next."""

    @property
    def current(self) -> EngineInterface: ...


@dataclass(frozen=True, slots=True)
class MeteredEngineProvider:
    """A door at which whoever decides now is asked, and counted."""

    reloading: ReloadableEngine
    tally: ServerCounters
    count: CountFunction
    timed: TimingTurns = field(default_factory=time_always)

    @property
    def current(self) -> MeteredEngine:
        return MeteredEngine(self.reloading.current, self.tally, self.count, self.timed)


@dataclass(frozen=True)
class MeteredEngine:
    """Asked as an engine is. What was decided before, and is given once more, is told by `policyengine_once_total`."""

    engine: Engine
    tally: ServerCounters
    count: CountFunction
    timed: TimingTurns = field(default_factory=time_always)

    @property
    def shares_state(self) -> bool:
        return self.engine.shares_state

    @property
    def identity(self) -> CredentialAuthenticator | None:
        return self.engine.identity

    def waits_for(self, question: QuestionLike | None = None) -> bool:
        return self.engine.waits_for(question)

    def awaits_issuer(self, question: QuestionLike) -> bool:
        return self.engine.awaits_issuer(question)

    def takes_long(self, question: QuestionLike) -> bool:
        return self.engine.takes_long(question)

    def authenticate(self, question: QuestionLike) -> QuestionLike:
        return self.engine.authenticate(question)

    @property
    def remote(self) -> bool:
        return self.engine.remote

    @property
    def loops(self) -> bool:
        return self.engine.loops

    @property
    def kernel(self) -> Kernel:
        return self.engine.kernel

    @property
    def package(self) -> str:
        return self.engine.package

    @property
    def revision(self) -> str:
        return self.engine.revision

    def decide(self, question: QuestionLike, *, at_once: bool = False) -> Decision:
        began = perf_counter_ns() if next(self.timed) else 0
        decision = self.engine.decide(question, at_once=at_once)
        self.count(decision.answer, began)
        return decision

    def evaluate(self, question: QuestionLike) -> Decision:
        began = perf_counter_ns()
        decision = self.engine.evaluate(question)
        self.count(decision.answer, began)
        return decision

    def decide_once(self, question: QuestionLike, once: IdempotencyKey) -> IdempotentDecision:
        began = perf_counter_ns()
        try:
            found = self.engine.decide_once(question, once)
        except (KeyInProgressError, KeyReuseError) as error:
            self.tally.add("once", "used" if isinstance(error, KeyReuseError) else "under_way")
            raise
        self.tally.add("once", "again" if found.again else "first")
        if not found.again:
            self.count(found.decision.answer, began)
        return found

    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]:
        """Each took its share."""
        began = perf_counter_ns()
        answers = self.engine.decide_many(questions)
        each = (perf_counter_ns() - began) // (len(answers) or 1)
        for answer in answers:
            if isinstance(answer, Decision):
                self.count(answer.answer, perf_counter_ns() - each)
        return answers

    def explain(self, question: QuestionLike) -> Explanation:
        return self.engine.explain(question)

    def reported(self, decision: str, report: OutcomeReport, *, refund: bool = False) -> ReportStatus | None:
        return self.engine.reported(decision, report, refund=refund)
