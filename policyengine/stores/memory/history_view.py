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

from policyengine.runtime.history import Happening
from policyengine.stores.memory.history import Line, Memories
from policyengine.typesystem import EntityRef

# Events of a window, latest first; after which time none is missing; and when the window begins (microseconds).
Window: TypeAlias = tuple[Iterable[Happening], int, int]
# By a key, the time in nanoseconds, and the text or entity that one fact of the event has to be, where one has to.
Look: TypeAlias = Callable[..., Window]
Count: TypeAlias = Callable[[str, int], tuple[int, int, int]]

AT_ONCE = 8  # events that are looked up before anybody asks for them
AT = itemgetter(0)


class Recall:
    """Looks into histories. `changes` tells whether they are as they were: whoever acts on them asks again then."""

    def __init__(self, memories: Memories, lock: Lock, clock: list[int], moved: Callable[[int], int]) -> None:
        """`clock` holds the latest time (nanoseconds), and `moved` says what it is where it is earlier now, or raises
        StoreError."""
        self._memories, self._lock, self._clock, self._moved = memories, lock, clock, moved

    def changes(self) -> int:
        return self._memories.changes

    def looking(self, watch: str, within: int, place: int | None) -> Look:
        """For the events of a watch within a window (microseconds): all of them, or those that may have the wanted fact
        at a place."""
        find, since, lock = self._memories.line, self._memories.since, self._lock
        clock, moved = self._clock, self._moved

        def look(key: str, moment: int, wanted: str | EntityRef | None = None) -> Window:
            with lock:
                if moment < clock[0]:
                    moment = moved(moment)
                else:
                    clock[0] = moment
                start = moment // 1_000 - within
                line = find((watch, key))
                if line is None:
                    return (), since(watch), start
                found = newest(line, start) if place is None else among(line, place, wanted, start, lock)
                return found, line.complete_after, start

        return look

    def counting(self, watch: str, within: int) -> Count:
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
                return len(line.events) - bisect_right(line.events, start, key=AT), line.complete_after, start

        return count


def newest(line: Line, start: int) -> list[Happening]:
    return line.events[: bisect_right(line.events, start, key=AT) - len(line.events) - 1 : -1]


def among(line: Line, place: int, wanted: object, start: int, lock: Lock) -> Iterable[Happening]:
    """The lock is held now, and taken again by whoever wants more than the first."""
    index = line.index(place)
    surely, unsure = index.get(wanted), index.get(None)
    if unsure:
        return within_window(line, sorted((*(surely or ()), *unsure), reverse=True), start)
    if surely is None:
        return ()
    if len(surely) <= AT_ONCE:
        return within_window(line, reversed(surely), start)
    return lazily(within_window(line, islice(reversed(surely), AT_ONCE), start), line, surely, start, lock)


def within_window(line: Line, numbers: Iterable[int], start: int) -> list[Happening]:
    """The events of these numbers, latest first, as far as they are in the window."""
    found: list[Happening] = []
    for number in numbers:
        event = line.events[number - line.first]
        if event.at <= start:
            break
        found.append(event)
    return found


def lazily(first: list[Happening], line: Line, numbers: deque[int], start: int, lock: Lock) -> Iterator[Happening]:
    yield from first
    if len(first) < AT_ONCE:
        return
    with lock:
        others = within_window(line, reversed(numbers), start)
    yield from (one for one in others if one.serial < first[-1].serial)
