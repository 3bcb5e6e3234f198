"""Learned behavior on a virtual clock: a model is learned at the first request of each virtual day."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.behavior.events import Tagger
from policyengine.behavior.state import MAX_CALLERS, BehaviorState, CallerSnapshot
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.clock import MICROSECOND
from policyengine.runtime.decision import Decision, RateState
from policyengine.runtime.limits import RateCharge

DIGITS = 9  # digits of a relative pace, so that the declared pace is exactly 1
KEY = b"simulation"  # a fixed key, so that each simulation has the same tags


class SimulatedTracker(BehaviorTracker):
    """A tracker that learns in one thread, without a folder, and remembers the snapshot that the latest decision
    read."""

    def __init__(self) -> None:
        super().__init__(BehaviorState(Tagger(KEY)))
        self.learner.most_inline = MAX_CALLERS  # learned in this thread, because other threads have no virtual clock
        self.state.searches_inline = True

    def take_latest(self) -> CallerSnapshot | None:
        """Return the snapshot that the latest decision read, and forget it. Return None if it read none."""
        found, self.learner.latest = self.learner.latest, None
        return found


class DeclaredPaces:
    """The paces of the rates of a policy, without raises and clamps, as requests per microsecond."""

    def __init__(self, kernel: k.Kernel) -> None:
        self._paces = {
            limit.name: limit.pace.count / (limit.pace.within // MICROSECOND)
            for limit in kernel.limits
            if isinstance(limit, k.Rate) and isinstance(limit.pace, k.Pace)
        }

    def relative(self, decision: Decision) -> Iterator[float]:
        """Yield the current paces of the rates of a decision, each relative to the pace of its rule."""
        for standing in decision.standings:
            if isinstance(standing, RateState):
                yield standing.factor
                continue
            limited, state = standing
            charge, declared = limited.charge, self._paces.get(limited.name)
            if isinstance(charge, RateCharge) and declared is not None:
                yield round(state.base * charge.flow.drain / (charge.token * charge.tick * declared), DIGITS)
