"""Reads and learns the behavior of callers that only this process knows: the steps that each decision takes.

`BehaviorTracker` does the work that decisions do not wait for. `make compiled` compiles this module.
"""

from __future__ import annotations

from typing import Final, Protocol

from policyengine.behavior.compiled_class import mypyc_attr
from policyengine.behavior.events import ALLOWED, HELD, Caller, RequestTags
from policyengine.behavior.fold import ALARM_FACTS, FLAGGED, CallerFacts, ProfileSettings
from policyengine.behavior.learner_lock import make_lock
from policyengine.behavior.model import BehaviorModel
from policyengine.behavior.reportable import ReportableDecisions
from policyengine.behavior.row import BehaviorRow
from policyengine.behavior.state import BehaviorState, CallerRow, CallerSnapshot, SettingsOf
from policyengine.runtime.behavior import CallerCharge
from policyengine.runtime.limits import LimitState

MAX_INLINE_CALLERS: Final = 200  # with more of them, a model is learned in the thread


class StartedThread(Protocol):
    """A thread that learns models and saves rows."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> None: ...


class LocalLearner:
    """Reads the facts of callers from a state, and learns from decisions. It is thread-safe: `lock` protects the state.

    `counts` are the alarms by fact, and `reportable` the callers of allowed decisions. `latest` is the snapshot of the
    latest decision, and `settings_of` returns the settings of a class. `has_changed` says whether anything was learned
    since the rows were saved. With more callers than `most_inline`, if the rows are `saved`, or if groups are learned,
    learning starts the `thread`.
    """

    def __init__(self, state: BehaviorState, thread: StartedThread, *, saved: bool) -> None:
        self.state, self.thread, self.saved = state, thread, saved
        self.lock = make_lock()
        self.counts = dict.fromkeys(ALARM_FACTS, 0)
        self.reportable = ReportableDecisions()
        self.latest: CallerSnapshot | None = None
        self.settings_of: SettingsOf | None = None
        self.has_changed = False
        self.most_inline = MAX_INLINE_CALLERS

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def tag(self, text: str) -> int:
        """Return the tag of a text."""
        return self.state.tagger.tag(text)

    def read(
        self,
        caller: Caller,
        group: str,
        tags: RequestTags,
        at: int,
        settings: ProfileSettings,
        settings_of: SettingsOf,
        known: CallerRow | None = None,
    ) -> LocalSnapshot:
        """Read the facts of a request. `settings` are those of the class, and `known` is the `known` member of an
        earlier snapshot of the caller, if there is one."""
        state = self.state
        lock = self.lock
        lock.acquire()  # `with` takes longer in compiled code
        try:
            state.learns = state.count <= self.most_inline
            known, row, current, facts = state.look_up(caller, group, tags, at, settings, settings_of, known)
            return LocalSnapshot(
                self, settings_of, caller, group, current, tags, at, row, row.serial, state.model, facts, known
            )
        finally:
            lock.release()

    def peek(self, caller: Caller, group: str, settings: ProfileSettings, tags: RequestTags, at: int) -> CallerSnapshot:
        """Read the facts of a request that consumes nothing, possibly at another time. Nothing changes."""
        state = self.state
        settings = state.settings_at(settings, group, at)
        with self.lock:
            row = state.row_to_read(caller, at, settings)
            facts = state.read_caller(row, caller, group, tags, at, settings)
            return CallerSnapshot(caller, group, settings, tags, at, row, row.serial, state.model, facts)

    def is_current(self, reading: CallerSnapshot) -> bool:
        """Return whether a request would still have the facts that were read."""
        if self.state.is_unchanged(reading):
            return True
        with self.lock:
            return self.state.has_same_facts(reading)

    # ── Learning ──────────────────────────────────────────────────────────────────────────────

    def charge(self, reading: CallerSnapshot, outcome: int, settings_of: SettingsOf) -> LocalSnapshot:
        """Return what the commit of a decision changes: the reading itself."""
        if not isinstance(reading, LocalSnapshot):
            raise TypeError("the facts were read by another tracker")
        reading.outcome = outcome
        return reading

    def learn(
        self, reading: CallerSnapshot, outcome: int, clamped: bool, settings_of: SettingsOf, decision: str = ""
    ) -> int:
        """Learn from a decision, and return the number of its event in the row of the caller. `decision` is the key of
        an allowed decision, whose caller is remembered until a failure is reported."""
        facts, state, lock = reading.facts, self.state, self.lock
        lock.acquire()
        try:
            if facts.ready and (facts.burst or facts.is_new or facts.deviation > FLAGGED):
                self.counts["burst"] += facts.burst
                self.counts["novelty"] += facts.is_new
                self.counts["deviation"] += facts.deviation > FLAGGED
            number = state.settle(reading, outcome, clamped)
            self.latest, self.has_changed, self.settings_of = reading, True, settings_of
            if decision:
                self.reportable.add(decision, reading.caller)
        finally:
            lock.release()
        searches = reading.settings.groups and not state.searches_inline
        if (self.saved or not state.learns or searches) and not self.thread.is_running:
            self.thread.start()
        return number

    def note(self, reading: CallerSnapshot, charge: CallerCharge) -> bool:
        """Return True: learned facts can be read, because they are in this process."""
        return True

    def finish(self, reading: CallerSnapshot, charge: CallerCharge, decision: str | None) -> int:
        """Return the number of a committed event in the row of the caller."""
        return charge.number if isinstance(charge, LocalSnapshot) else 0

    def report(self, decision: str, failed: bool) -> bool:
        """Learn once whether the request of a decision failed. Return whether the outcome was awaited."""
        with self.lock:
            caller = self.reportable.take(decision)
            if caller is not None and failed:
                self.state.fold_failure(caller)
        return caller is not None


@mypyc_attr(free_list_len=1)
class LocalSnapshot(CallerSnapshot):
    """The facts of a request that a learner read. The learner learns from the decision in the step of the memory store.
    `number` is the number of the event of the decision, after that step."""

    __slots__ = ("_learner", "_settings_of", "number")

    def __init__(
        self,
        learner: LocalLearner,
        settings_of: SettingsOf,
        caller: Caller,
        group: str,
        settings: ProfileSettings,
        tags: RequestTags,
        at: int,
        row: BehaviorRow,
        serial: int,
        model: BehaviorModel,
        facts: CallerFacts,
        known: CallerRow | None,
    ) -> None:
        super().__init__(caller, group, settings, tags, at, row, serial, model, facts, known)
        self._learner = learner
        self._settings_of = settings_of
        self.number = 0

    def is_current(self) -> bool:
        """Return whether the request still has the learned facts with which it was decided."""
        return self._learner.is_current(self)

    def settle(self, decision: str, standings: tuple[LimitState, ...]) -> None:
        """Learn from the decision with this key, in the step of the memory store that returned these states of its
        limits."""
        admitted, clamped = True, False
        for standing in standings:
            if not standing[0]:
                admitted = False
            if standing[5] < 1.0:
                clamped = True
        self.learn(decision, admitted, clamped)

    def learn(self, decision: str, admitted: bool, clamped: bool) -> None:
        """Learn from the decision with this key."""
        learner, outcome = self._learner, self.outcome
        if outcome == ALLOWED and admitted:
            self.number = learner.learn(self, ALLOWED, clamped, self._settings_of, decision)
        else:
            outcome = HELD if outcome == ALLOWED else outcome
            self.number = learner.learn(self, outcome, clamped, self._settings_of)
