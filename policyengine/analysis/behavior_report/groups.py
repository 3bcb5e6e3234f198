"""Finds groups of callers that move as one in logs, among the decisions of the last 31 days at most."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from policyengine.analysis.behavior_report.group_report import GroupReport, MoveRequests
from policyengine.behavior.events import ALLOWED, DENIED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.lockstep.bounds import MAX_CALLERS, MAX_EVENTS, MAX_WINDOW
from policyengine.behavior.lockstep.columns import CallerNumbers, EventColumns
from policyengine.behavior.lockstep.detection import find_groups, require_numpy
from policyengine.behavior.lockstep.group import LockstepFindings
from policyengine.behavior.state import DAY

MAX_DAYS: Final = MAX_WINDOW // DAY
MAX_MOMENTS: Final = 100  # of a group
NEVER: Final = 2**62  # milliseconds
KEY: Final = b"report"  # names groups: groups with the same members have the same name in every report


class GroupWatch:
    """Collects the decisions of the last days. If there are too many, the decisions of the earliest days are dropped.

    Raises LockstepError without numpy. Days are in the order of time; each has its own columns until the end, because
    only then the first day of the window is known.
    """

    def __init__(self, tagger: Tagger, most_events: int = MAX_EVENTS) -> None:
        require_numpy()
        self._tag = tagger.tag
        self._most = most_events
        self._numbers = CallerNumbers()
        self._ready = array("q")  # for each number of a caller: since when it is ready
        self._days: dict[int, EventColumns] = {}
        self._count = self._earlier = self._denied = self._crowded = 0

    def is_ready(self, caller: Caller) -> bool:
        number = self._number(caller)
        return number < MAX_CALLERS and self._ready[number] != NEVER

    def set_ready(self, caller: Caller, at: int) -> None:
        """Note that a caller is ready by its own runs."""
        number = self._number(caller)
        if number < MAX_CALLERS:
            self._ready[number] = at

    def read(self, event: BehaviorEvent) -> None:
        """Add a decision. Decisions are in the order of time."""
        columns = self._columns(event.at // DAY)
        is_full = event.outcome != DENIED and self._count >= self._most
        while is_full and len(self._days) > 1:
            self._drop_first()
            is_full = self._count >= self._most
        if is_full:
            self._crowded += 1
        else:
            number, endpoint = self._number(event.caller), self._tag(event.endpoint)
            self._count += columns.add(event.at, number, endpoint, event.run, event.outcome)

    def report(self) -> GroupReport:
        """Search for groups and return the report. Raises LockstepError."""
        if not self._days:
            return GroupReport(0, 0, MoveRequests(0, 0, 0, 0, 0), LockstepFindings((), (), 0, 0, 0))
        begin, end = DAY * min(self._days), DAY * (max(self._days) + 1)
        window = EventColumns(begin, end)
        for event in self._events():
            window.add(*event)
        callers = self._numbers.callers()
        requests = MoveRequests(
            len(window), len(set(window.callers)), self._denied, self._crowded + window.crowded, self._earlier
        )
        findings = find_groups(window, callers, KEY, ready=self._ready, most_moments=MAX_MOMENTS)
        return GroupReport(begin, end, requests, findings)

    def _number(self, caller: Caller) -> int:
        number = self._numbers.number(caller)
        if number == len(self._ready) < MAX_CALLERS:
            self._ready.append(NEVER)
        return number

    def _columns(self, day: int) -> EventColumns:
        """Return the columns of a day. A new day drops the days that are too far before it."""
        known = self._days.get(day)
        if known is not None:
            return known
        self._days[day] = EventColumns(day * DAY, (day + 1) * DAY)
        while day - next(iter(self._days)) >= MAX_DAYS:
            self._drop_first()
        return self._days[day]

    def _drop_first(self) -> None:
        columns = self._days.pop(next(iter(self._days)))
        self._count -= len(columns)
        self._earlier += len(columns) + columns.denied + columns.crowded

    def _events(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield the events of all days, and forget each day after its events."""
        for day in list(self._days):
            columns = self._days.pop(day)
            self._denied += columns.denied
            self._crowded += columns.crowded
            for at, caller, endpoint, run in zip(
                columns.times, columns.callers, columns.endpoints, columns.runs, strict=True
            ):
                yield columns.begin + at, caller, endpoint, run, ALLOWED
