"""Decides from which lines of logs behavior is learned: each decision once, unless it is too late, and each report of a
failure once.

What is decided about the lines of an agent depends only on the lines of that agent and their positions, so that the
agents can be distributed over processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from policyengine.behavior.bulk.log_lines import LearnedLine, LoggedOutcome
from policyengine.behavior.events import ALLOWED, MAX_TIME, BehaviorEvent, Caller, event_time
from policyengine.behavior.log_events import EventGap, FailureReport
from policyengine.behavior.state import DAY

MAX_DISTANCE: Final = 100_000  # lines after which a repetition or a report is not recognized any more
NANOSECONDS: Final = 1_000  # in a microsecond


class LearnedPeriod(NamedTuple):
    """The time from which decisions are learned, and the time before which they are learned, in milliseconds."""

    since: int = 0
    until: int = MAX_TIME + 1


ALL_TIMES: Final = LearnedPeriod()


@dataclass(slots=True)
class LogTally:
    """Numbers of decisions: all, without an identified caller (`unidentified`), of a class that only policies could
    determine (`unknown`), learned, already `known` to the folder, `late` (more than a day earlier than the latest
    decision of their caller), and those with a time more than a day in the `future`. `latest` is the time of the latest
    learned decision, in milliseconds. `outside` counts decisions outside the period that is learned."""

    decisions: int = 0
    unidentified: int = 0
    unknown: int = 0
    learned: int = 0
    known: int = 0
    late: int = 0
    future: int = 0
    latest: int = 0
    outside: int = 0

    def merge(self, other: LogTally) -> None:
        """Add the numbers of other lines."""
        latest = max(self.latest, other.latest)
        for member in fields(self):
            setattr(self, member.name, getattr(self, member.name) + getattr(other, member.name))
        self.latest = latest


class LineFilter:
    """Reads lines with their positions, in their order. `known` are the times of the latest decisions of callers, in
    milliseconds: a decision that is not later is already known. `now` is in milliseconds. Decisions and reports outside
    the `period` are left out, and so are reports about decisions outside it."""

    def __init__(self, known: Mapping[Caller, int], now: int, period: LearnedPeriod = ALL_TIMES) -> None:
        self._known, self._end = known, now + DAY
        self._since, self._until = period
        self._latest: dict[Caller, int] = {}
        self._recent = DecisionWindow()
        self.tally = LogTally()

    def read(self, position: int, line: LearnedLine) -> BehaviorEvent | FailureReport | None:
        """Return what is learned from a line; None if nothing is learned from it."""
        if isinstance(line, LoggedOutcome):
            caller = self._recent.take(line.decision, position)
            return None if caller is None or not line.failed else self._report(caller, line.time)
        event, tally = line.event, self.tally
        is_outside = event is not None and not self._since <= event.at < self._until
        reportable = event.caller if event is not None and event.outcome == ALLOWED and not is_outside else None
        if not self._recent.add(line.id, position, reportable):
            return None  # each repetition of an idempotency key has its own line
        tally.decisions += 1
        if event is None:
            tally.unidentified += line.gap is EventGap.UNIDENTIFIED
            tally.unknown += line.gap is EventGap.UNKNOWN
            return None
        if is_outside:
            tally.outside += 1
            return None
        return event if self._is_learned(event.at, event.caller) else None

    def _report(self, caller: Caller, time: int) -> FailureReport | None:
        at = event_time(time * NANOSECONDS)
        is_learned = at > self._known.get(caller, -1) and at < self._until
        return FailureReport(caller, at) if is_learned else None

    def _is_learned(self, at: int, caller: Caller) -> bool:
        """Return whether a decision is learned, and count it."""
        tally = self.tally
        if at > self._end:
            tally.future += 1
            return False
        latest = self._latest.get(caller)
        if latest is None:
            if at <= self._known.get(caller, -1):
                tally.known += 1
                return False
        elif at <= latest:
            if at <= self._known.get(caller, -1):
                tally.known += 1
                return False
            if at < latest - DAY:
                tally.late += 1
                return False
            tally.learned += 1
            return True
        self._latest[caller] = at
        tally.learned += 1
        if at > tally.latest:
            tally.latest = at
        return True


class DecisionWindow:
    """The positions of the decisions of the last MAX_DISTANCE lines, by id, with the callers whose failure can be
    reported."""

    def __init__(self) -> None:
        self._recent: dict[str, tuple[int, Caller | None]] = {}
        self._older: dict[str, tuple[int, Caller | None]] = {}
        self._turn = 0  # the position at which the recent decisions become the older ones

    def add(self, id: str, position: int, caller: Caller | None) -> bool:
        """Add a decision. Return False, and change nothing, if it was added within the last MAX_DISTANCE lines."""
        if position >= self._turn:
            self._older, self._recent, self._turn = self._recent, {}, position + MAX_DISTANCE
        found = self._recent.get(id) or self._older.get(id)
        if found is not None and position - found[0] <= MAX_DISTANCE:
            return False
        self._recent[id] = position, caller
        return True

    def take(self, id: str, position: int) -> Caller | None:
        """Return the caller of a decision, once; None if the decision was not allowed, or not added within the last
        MAX_DISTANCE lines."""
        for decisions in (self._recent, self._older):
            found = decisions.get(id)
            if found is not None:
                decisions[id] = found[0], None
                return found[1] if position - found[0] <= MAX_DISTANCE else None
        return None
