"""Learned behavior on a virtual clock: a model is learned at the first request of each virtual day."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.behavior.events import Caller, RequestTags, Tagger
from policyengine.behavior.state import BehaviorState, CallerSnapshot, SettingsOf
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
        self._latest: CallerSnapshot | None = None

    def take_latest(self) -> CallerSnapshot | None:
        """Return the snapshot that the latest decision read, and forget it. Return None if it read none."""
        found, self._latest = self._latest, None
        return found

    def read(self, caller: Caller, group: str, tags: RequestTags, at: int, settings_of: SettingsOf) -> CallerSnapshot:
        self.state.learns = True  # in this thread for any number of callers: other threads have no virtual clock
        self.state.learn_if_due(at, settings_of)
        return super().read(caller, group, tags, at, settings_of)

    def learn(self, reading: CallerSnapshot, outcome: int, clamped: bool, settings_of: SettingsOf) -> int:
        self._latest, self.state.learns = reading, True
        return super().learn(reading, outcome, clamped, settings_of)


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
