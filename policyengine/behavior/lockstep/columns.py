"""Events in columns, from which groups are found, and the numbers of their callers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Final

from policyengine.behavior.events import DENIED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.lockstep.bounds import MAX_CALLER_EVENTS, MAX_CALLERS, MAX_EVENTS, MAX_WINDOW

MAX_TAG: Final = 2**32 - 1
PART: Final = 4_096


class EventColumns:
    """Events from `begin` to `end` (exclusive), in milliseconds since 1970, of callers with the numbers 0, 1, … The
    order of the events does not matter.

    `outside` counts the events at other times, `denied` those that were denied, and `crowded` those beyond MAX_EVENTS,
    MAX_CALLERS or MAX_CALLER_EVENTS; all of these are left out. Denied requests are left out because a caller that may
    do nothing could otherwise move with any other caller.
    """

    def __init__(self, begin: int, end: int) -> None:
        if not 0 <= end - begin <= MAX_WINDOW:
            raise ValueError(f"a window has at most {MAX_WINDOW} milliseconds")
        self.begin, self.end = begin, end
        self.times, self.callers = array("I"), array("I")  # milliseconds since `begin`
        self.endpoints, self.runs = array("I"), array("I")  # tags
        self.outside = self.denied = self.crowded = 0
        self._counts = array("I")  # of the events of each caller

    def __len__(self) -> int:
        return len(self.times)

    def add(self, at: int, caller: int, endpoint: int, run: int, outcome: int) -> bool:
        """Add an event. Return False if the event was left out."""
        if not self.begin <= at < self.end:
            self.outside += 1
        elif outcome == DENIED:
            self.denied += 1
        elif len(self.times) >= MAX_EVENTS or not self._count(caller):
            self.crowded += 1
        else:
            self.times.append(at - self.begin)
            self.callers.append(caller)
            self.endpoints.append(endpoint & MAX_TAG)
            self.runs.append(run & MAX_TAG)
            return True
        return False

    def extend(self, other: EventColumns, count: int, numbers: Sequence[int]) -> None:
        """Add the first `count` events of another window within this one. `numbers` are the numbers of its callers
        here; events of callers whose number is too high are left out. Events are added in parts, because each `extend`
        blocks all other threads, which decide requests."""
        offset, end = other.begin - self.begin, min(count, MAX_EVENTS - len(self))
        is_crowded = max(numbers, default=0) >= MAX_CALLERS
        for begin in range(0, end, PART):
            part = slice(begin, min(begin + PART, end))
            times = array("I", map(offset.__add__, other.times[part]))
            callers = array("I", map(numbers.__getitem__, other.callers[part]))
            columns = [times, callers, other.endpoints[part], other.runs[part]]
            if is_crowded:
                chosen = [number < MAX_CALLERS for number in callers]
                columns = [array("I", compress(column, chosen)) for column in columns]
                self.crowded += len(callers) - len(columns[0])
            for mine, found in zip((self.times, self.callers, self.endpoints, self.runs), columns, strict=True):
                mine.extend(found)

    def _count(self, caller: int) -> bool:
        """Count an event of a caller. Return whether the caller may have another event."""
        if not 0 <= caller < MAX_CALLERS:
            return False
        missing = caller + 1 - len(self._counts)
        if missing > 0:
            self._counts.frombytes(bytes(missing * self._counts.itemsize))
        if self._counts[caller] >= MAX_CALLER_EVENTS:
            return False
        self._counts[caller] += 1
        return True


class CallerNumbers:
    """Numbers callers from 0 in the order in which they appear."""

    def __init__(self) -> None:
        self._numbers: dict[Caller, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, caller: Caller) -> int:
        """Return the number of a caller. A new caller beyond MAX_CALLERS has the number MAX_CALLERS."""
        known = self._numbers.get(caller)
        if known is not None or len(self._numbers) >= MAX_CALLERS:
            return MAX_CALLERS if known is None else known
        return self._numbers.setdefault(caller, len(self._numbers))

    def callers(self) -> list[Caller]:
        """Return all callers. The index of each caller is its number."""
        return list(self._numbers)


def fill_columns(
    columns: EventColumns, numbers: CallerNumbers, events: Iterable[BehaviorEvent], tagger: Tagger
) -> None:
    """Add events to columns. Endpoints are replaced by their tags."""
    for event in events:
        columns.add(event.at, numbers.number(event.caller), tagger.tag(event.endpoint), event.run, event.outcome)
