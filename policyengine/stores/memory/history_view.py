"""What `fetch` says of histories in this process, without its words: for generated code, which asks for one condition.

Events come latest first, as few as may matter: most conditions are settled by the first.
"""

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

# Events of a window, latest first; after which time none is missing; and when the window begins (microseconds).
EventWindow: TypeAlias = tuple[Iterable[PastEvent], int, int]
# By a key, the time in nanoseconds, and the text or entity that one fact of the event has to be, where one has to.
WindowLookup: TypeAlias = Callable[..., EventWindow]
EventCounter: TypeAlias = Callable[[str, int], tuple[int, int, int]]

EAGER_EVENTS = 8  # events that are looked up before anybody asks for them
EVENT_TIME = itemgetter(0)


class HistoryLookup:
    """Looks into histories. `changes` tells whether they are as they were: whoever acts on them asks again then."""

    def __init__(self, memories: MemoryHistory, lock: Lock, clock: list[int], moved: Callable[[int], int]) -> None:
        """`clock` holds the latest time (nanoseconds), and `moved` says what it is where it is earlier now, or raises
        StoreError."""
        self._memories, self._lock, self._clock, self._moved = memories, lock, clock, moved

    def changes(self) -> int:
        return self._memories.changes

    def looking(self, watch: str, within: int, place: int | None) -> WindowLookup:
        """For the events of a watch within a window (microseconds): all of them, or those that may have the wanted fact
        at a place."""
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
        """How many there are."""
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
    """The lock is held now, and taken again by whoever wants more than the first."""
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
    """The events of these numbers, latest first, as far as they are in the window."""
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
