"""The state of one sequence of a test, which begins empty: what its requests have spent, and what is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from policyengine.runtime.apply_limits import apply_limits
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.history import OutcomeReport as HowItCameOut
from policyengine.runtime.limits import LimitCharge, LimitState
from policyengine.stores.memory.store import MemoryStore
from policyengine.testcases import Case

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

LimitStandings: TypeAlias = tuple[tuple[LimitCharge, LimitState], ...]


@dataclass(slots=True)
class CaseSequence:
    """Stores count by the clock of the test. `spent` are approvals, by their ids; most sequences need no store."""

    spent: frozenset[str] = frozenset()
    store: MemoryStore | None = None
    requests: int = 0

    def made(self, decision: Decision, effects: Effects, case: Case) -> tuple[Decision, LimitStandings]:
        """What becomes of a decision, and how its limits stand, once it is spent and its response is reported."""
        if not (effects.limits or effects.records):
            self.spent |= frozenset(effects.spends)
            return decision, ()
        self.requests += 1
        store = self.store = self.store or MemoryStore(history_complete=True)
        name, now = str(self.requests), (case.now - EPOCH) // MICROSECOND
        answer = store.commit(effects, name, now)
        assert answer is not None  # what was spent is known before it is decided
        if answer.admitted:
            self.spent |= frozenset(effects.spends)
        decision = apply_limits(decision, effects.limits, answer.standings) if effects.limits else decision
        if case.responded is not None and decision.allowed:
            store.report(name, HowItCameOut(case.responded.status, case.responded.output), now)
            store.finish(name, now)
        return decision, tuple(zip(effects.limits, answer.standings, strict=True))

    def fetched(self, keys: frozenset[WindowKey], moment: datetime) -> Mapping[WindowKey, History]:
        """What happened before in this sequence: nothing else ever did."""
        store = self.store or MemoryStore(history_complete=True)
        return store.fetch(keys, (moment - EPOCH) // MICROSECOND)


def settle_alone(decision: Decision, effects: Effects, case: Case) -> Decision:
    """What becomes of the only request there is."""
    return CaseSequence().made(decision, effects, case)[0] if effects.limits else decision
