"""The state of one sequence of requests in a test: spent approvals, limits and history. The state is empty at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.behavior.reader import BehaviorReader
from policyengine.clock import epoch_microseconds, epoch_nanoseconds
from policyengine.compiler.evaluator import Evaluator
from policyengine.runtime.apply_limits import apply_limits
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.history import OutcomeReport as HowItCameOut
from policyengine.runtime.limits import LimitCharge, LimitState
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import LearnedFacts
from policyengine.stores.floors import choose_parts
from policyengine.stores.memory.store import MemoryStore
from policyengine.testcases import Case
from policyengine.testing.learned_traces import learn_traces

MICROSECOND = timedelta(microseconds=1)
ORDER_MEMBERS = {"sequence", "step"}  # members of learned facts that belong to the declared order of calls
LAST_REQUEST = "last"  # the id of the decision from which the sequence learns

LimitStandings: TypeAlias = tuple[tuple[LimitCharge, LimitState], ...]


@dataclass(slots=True)
class CaseSequence:
    """The state of a sequence. `spent` holds the ids of spent approvals. The store uses the clock of the test; it is
    created only for sequences that count or record requests.
    """

    spent: frozenset[str] = frozenset()
    store: MemoryStore | None = None
    requests: int = 0
    behavior: BehaviorReader | None = None

    def read_behavior(self, case: Case, request: Request, evaluator: Evaluator) -> LearnedFacts:
        """Return the learned facts that the case gives, or those that were learned from its traces and from earlier
        cases. Without traces, only the declared order of calls is followed. Raises PlainEventError."""
        if not evaluator.kernel.reads_behavior or not (case.traces or declares_order(evaluator.kernel)):
            return case.behavior
        if self.behavior is None:
            self.behavior = learn_traces(case.traces, epoch_microseconds(case.now) // 1_000, evaluator)
        read = self.behavior.peek(request.endpoint, request.facts, epoch_nanoseconds(case.now))
        learned = {} if read is None else read.to_facts()
        names = learned.keys() if case.traces else learned.keys() & ORDER_MEMBERS
        if "sequence" in case.behavior:
            names -= ORDER_MEMBERS
        return {**{name: learned[name] for name in names}, **case.behavior}

    def learn(self, case: Case, decision: Decision) -> None:
        """Learn from the final decision of a case, and from the response that the case gives."""
        behavior = self.behavior
        if behavior is None:
            return
        request = Request.from_mapping(case.question)
        read = behavior.read(request.endpoint, request.facts, epoch_nanoseconds(case.now))
        if read is not None:
            behavior.learn(read[0], decision.with_id(LAST_REQUEST))
            if case.responded is not None and decision.allowed:
                behavior.report(LAST_REQUEST, case.responded.status)

    def made(self, decision: Decision, effects: Effects, case: Case) -> tuple[Decision, LimitStandings]:
        """Commit a decision and report the response that the case gives; return the final decision and the states of
        its limits.
        """
        if not (effects.limits or effects.records):
            self.spent |= frozenset(effects.spends)
            self.learn(case, decision)
            return decision, ()
        self.requests += 1
        store = self.store = self.store or MemoryStore(history_complete=True)
        name, now = str(self.requests), epoch_microseconds(case.now)
        effects = choose_parts(store, effects, name, now)
        answer = store.commit(effects, name, now)
        assert answer is not None  # spent approvals are known before the decision
        if answer.admitted:
            self.spent |= frozenset(effects.spends)
        decision = apply_limits(decision, effects.limits, answer.standings) if effects.limits else decision
        stood = tuple(zip(effects.limits, answer.standings, strict=True))
        self.learn(case, Decision(decision.answer, decision.asker, name, stood))
        if case.responded is not None and decision.allowed:
            store.report(name, HowItCameOut(case.responded.status, case.responded.output), now)
            store.finish(name, now)
        return decision, stood

    def fetched(self, keys: frozenset[WindowKey], moment: datetime) -> Mapping[WindowKey, History]:
        """Return the history windows with these keys. The history of a sequence is complete."""
        store = self.store or MemoryStore(history_complete=True)
        return store.fetch(keys, epoch_microseconds(moment))


def declares_order(kernel: k.Kernel) -> bool:
    """Return whether a profile declares an order of calls."""
    return any(profile.order for profile in kernel.profiles)


def settle_alone(decision: Decision, effects: Effects, case: Case) -> Decision:
    """Return the final decision of a request without other requests in its sequence."""
    return CaseSequence().made(decision, effects, case)[0] if effects.limits else decision
