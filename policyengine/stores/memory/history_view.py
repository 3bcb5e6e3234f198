"""Reads histories in this process without the objects of `fetch`, for generated code that evaluates one condition.
Events are yielded latest first and only as needed, because the first one settles most conditions."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import TypeAlias

from policyengine.runtime.history import PastEvent
from policyengine.stores.memory.history import EventSeries, MemoryHistory
from policyengine.typesystem import EntityRef

# The events of a window, latest first; the time after which none is missing; and the start of the window
# (microseconds).
EventWindow: TypeAlias = tuple[Iterable[PastEvent], int, int]
# Arguments: a key, the time in nanoseconds and, if the lookup has a place, the string or entity that the fact must
# equal.
WindowLookup: TypeAlias = Callable[..., EventWindow]
EventCounter: TypeAlias = Callable[[str, int], tuple[int, int, int]]

EAGER_EVENTS = 8  # events looked up eagerly, under the lock
EVENT_TIME = itemgetter(0)


class HistoryLookup:
    """Creates lookups of histories. `changes` counts the changes of all histories; a decision that relied on them
    compares this number."""

    def __init__(self, memories: MemoryHistory, lock: Lock, clock: list[int], moved: Callable[[int], int]) -> None:
        """Create the lookup. `clock` contains the latest time (nanoseconds); `moved` returns the time to use if a given
        time is earlier, or raises StoreError."""
        self._memories, self._lock, self._clock, self._moved = memories, lock, clock, moved

    def changes(self) -> int:
        return self._memories.changes

    def looking(self, watch: str, within: int, place: int | None) -> WindowLookup:
        """Return a lookup of the events of a watch within a window (microseconds): all of them, or those whose fact at
        `place` may be the wanted one."""
        find, since, lock = self._memories.line, self._memories.since, self._lock
        clock, moved = self._clock, self._moved

        def look(key: str, moment: int, wanted: str | EntityRef | None = None) -> EventWindow:
            with lock:
                if moment < clock[0]:
                    moment = moved(moment)
                else:
                    clock[0] = moment
                start = moment // 1_000 - within
                line = find((watch, key))
                if line is None:
                    return (), since(watch), start
                found = (
                    newest_events(line, start) if place is None else events_with_fact(line, place, wanted, start, lock)
                )
                return found, line.complete_after, start

        return look

    def counting(self, watch: str, within: int) -> EventCounter:
        """Return a function that counts the events of a watch within a window (microseconds)."""
        find, since, lock = self._memories.line, self._memories.since, self._lock
        clock, moved = self._clock, self._moved

        def count(key: str, moment: int) -> tuple[int, int, int]:
            with lock:
                if moment < clock[0]:
                    moment = moved(moment)
                else:
                    clock[0] = moment
                start = moment // 1_000 - within
                line = find((watch, key))
                if line is None:
                    return 0, since(watch), start
                return len(line.events) - bisect_right(line.events, start, key=EVENT_TIME), line.complete_after, start

        return count


def newest_events(line: EventSeries, start: int) -> list[PastEvent]:
    return line.events[: bisect_right(line.events, start, key=EVENT_TIME) - len(line.events) - 1 : -1]


def events_with_fact(line: EventSeries, place: int, wanted: object, start: int, lock: Lock) -> Iterable[PastEvent]:
    """Return the events whose fact at `place` is, or may be, `wanted`. The caller holds the lock; reading beyond the
    first events takes it again."""
    index = line.index(place)
    surely, unsure = index.get(wanted), index.get(None)
    if unsure:
        return events_in_window(line, sorted((*(surely or ()), *unsure), reverse=True), start)
    if surely is None:
        return ()
    if len(surely) <= EAGER_EVENTS:
        return events_in_window(line, reversed(surely), start)
    return iterate_lazily(
        events_in_window(line, islice(reversed(surely), EAGER_EVENTS), start), line, surely, start, lock
    )


def events_in_window(line: EventSeries, numbers: Iterable[int], start: int) -> list[PastEvent]:
    """Return the events with these numbers, latest first, that are in the window."""
    found: list[PastEvent] = []
    for number in numbers:
        event = line.events[number - line.first]
        if event.at <= start:
            break
        found.append(event)
    return found


def iterate_lazily(
    first: list[PastEvent], line: EventSeries, numbers: deque[int], start: int, lock: Lock
) -> Iterator[PastEvent]:
    yield from first
    if len(first) < EAGER_EVENTS:
        return
    with lock:
        others = events_in_window(line, reversed(numbers), start)
    yield from (one for one in others if one.serial < first[-1].serial)
