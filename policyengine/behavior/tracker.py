"""The behavior that one process has learned, shared by the threads and the engines of the process."""

from __future__ import annotations

import secrets
from threading import Lock
from typing import Final, NamedTuple

from policyengine.behavior.events import BehaviorEvent, Caller, Tagger
from policyengine.behavior.fold import BehaviorReading, ProfileSettings
from policyengine.behavior.state import BehaviorState, SettingsOf

MAX_REPORTABLE: Final = 100_000  # decisions whose failure can still be reported
KEY_BYTES: Final = 32
FACTS: Final = 5  # the first members of a reading are facts


class CallerReading(NamedTuple):
    """What was read about a caller for one request: the number of events that its row had, the model, and the facts."""

    caller: Caller
    group: str
    settings: ProfileSettings
    endpoint: str
    run: int
    at: int  # milliseconds since 1970
    serial: int
    model: str
    facts: BehaviorReading

    def to_facts(self) -> dict[str, object]:
        """Return the facts by their names after `behavior.`."""
        return self.facts.to_facts()


class BehaviorTracker:
    """Reads facts of callers, and learns from decisions."""

    def __init__(self, state: BehaviorState | None = None) -> None:
        self.state = state or BehaviorState(Tagger(secrets.token_bytes(KEY_BYTES)))
        self._lock = Lock()
        self._reportable: dict[str, Caller] = {}

    def read(
        self, caller: Caller, group: str, settings: ProfileSettings, endpoint: str, run: int, at: int
    ) -> CallerReading:
        """Read the facts of a request."""
        state = self.state
        with self._lock:
            row = state.row_at(caller, at, settings)
            found = state.read(row, caller.issuer, group, endpoint, at, settings)
            serial = row.serial
        return CallerReading(caller, group, settings, endpoint, run, at, serial, state.model.digest, found)

    def peek(self, caller: Caller, group: str, settings: ProfileSettings, endpoint: str, at: int) -> BehaviorReading:
        """Return the facts of a request that is not decided for good, and may be at another time. Nothing changes."""
        state = self.state
        with self._lock:
            known = state.rows.get(caller)
            if known is not None:
                state.rows[caller] = known._replace(row=known.row.copy())
            try:
                row = state.row_at(caller, at, settings)
                return state.read(row, caller.issuer, group, endpoint, at, settings)
            finally:
                if known is not None:
                    state.rows[caller] = known

    def is_current(self, reading: CallerReading) -> bool:
        """Return whether a request would still have the facts that were read."""
        state = self.state
        with self._lock:
            found = state.rows.get(reading.caller)
            if found is None or found.row.serial == reading.serial:
                return True
            row = state.row_at(reading.caller, reading.at, reading.settings)
            again = state.read(
                row, reading.caller.issuer, reading.group, reading.endpoint, reading.at, reading.settings
            )
        return again[:FACTS] == reading.facts[:FACTS]

    def learn(self, reading: CallerReading, outcome: int, clamped: bool, settings_of: SettingsOf) -> int:
        """Learn from a decision, and return the number of its event in the row of the caller."""
        event = BehaviorEvent(
            reading.at, reading.caller, reading.group, reading.endpoint, reading.run, outcome, clamped
        )
        with self._lock:
            self.state.fold(event, settings_of)
            return self.state.rows[reading.caller].row.serial

    def await_report(self, decision: str, caller: Caller) -> None:
        """Remember the caller of an allowed request until its failure is reported. Of too many, the oldest are
        dropped."""
        known = self._reportable
        with self._lock:
            if len(known) >= MAX_REPORTABLE:
                del known[next(iter(known))]
            known[decision] = caller

    def report(self, decision: str, failed: bool) -> None:
        """Learn how a request came out, once."""
        with self._lock:
            caller = self._reportable.pop(decision, None)
            if caller is not None and failed:
                self.state.fold_failure(caller)
