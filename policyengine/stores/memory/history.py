"""History in the memory of this process: events by watch and key, limited by the longest window and by a maximum
number."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from policyengine.runtime.history import (
    ALWAYS,
    MAX_EVENTS_PER_KEY,
    History,
    HistoryList,
    HistoryRecord,
    OutcomeReport,
    PastEvent,
    ReportStatus,
    WindowKey,
    count_events,
    reported_values,
)
from policyengine.runtime.values import Unknown, Value
from policyengine.stores.memory.capacity import CapacityAlarm
from policyengine.stores.memory.eviction import SweepSchedule
from policyengine.typesystem import EntityRef

NEVER = 2**62  # a watch that has not begun records nothing


class EventSeries:
    """The events of one watch and key, oldest first, with indexes of events by fact (place and value). Events are
    numbered from `first` on, and keep their numbers when earlier ones are dropped. An index is created when it is first
    used."""

    __slots__ = ("complete_after", "events", "first", "places", "version", "within")

    def __init__(self, complete_after: int, within: int) -> None:
        self.complete_after, self.within = complete_after, within
        self.version = self.first = 0
        self.events: list[PastEvent] = []
        self.places: dict[int, dict[Any, deque[int]]] = {}

    def matters(self, now: int) -> bool:
        return bool(self.events) and self.events[-1].at > now - self.within

    def add(self, event: PastEvent) -> None:
        for place, found in self.places.items():
            found.setdefault(index_key(event.facts[place]), deque()).append(self.first + len(self.events))
        self.events.append(event)

    def shorten(self, now: int) -> None:
        """Drop events that have left the longest window, and the oldest events beyond the maximum number."""
        gone = max(0, len(self.events) - MAX_EVENTS_PER_KEY)
        while self.events[gone].at <= now - self.within:
            gone += 1
        if not gone:
            return
        self.complete_after = max(self.complete_after, self.events[gone - 1].at)
        for event in self.events[:gone] if self.places else ():
            for place, found in self.places.items():
                numbers = found[index_key(event.facts[place])]
                numbers.popleft()
                if not numbers:
                    del found[index_key(event.facts[place])]
        del self.events[:gone]
        self.first += gone

    def index(self, place: int) -> dict[Any, deque[int]]:
        """Return the numbers of events, in ascending order, by the index key of their fact at `place`."""
        found = self.places.get(place)
        if found is None:
            found = self.places[place] = {}
            for number, event in enumerate(self.events, self.first):
                found.setdefault(index_key(event.facts[place]), deque()).append(number)
        return found

    def among(self, place: int, wanted: Value, end: int | None = None) -> list[PastEvent]:
        """Return the events before number `end` whose fact at `place` is, or may be, `wanted`."""
        found = self.index(place)
        surely, unsure = found.get(wanted, ()), found.get(None, ())
        numbers = sorted((*surely, *unsure)) if unsure else list(surely)
        if end is not None:
            del numbers[bisect_left(numbers, end) :]
        return [self.events[number - self.first] for number in numbers]

    def replace(self, event: PastEvent) -> None:
        """Replace all earlier events with this event."""
        self.first += len(self.events)
        self.events, self.places = [event], {}


def index_key(fact: Value) -> Any:
    """Return the key under which an event is indexed by a fact: the fact itself if it is a string or an entity, None if
    it is unknown, and ANOTHER for all other values, which are never searched for.
    """
    return None if isinstance(fact, Unknown) else fact if isinstance(fact, str | EntityRef) else ANOTHER


ANOTHER = object()


class EventSeriesView:
    """A view of the events that existed when they were fetched, without later events. If reports or evictions change
    these events, `commit` detects the change by the version.
    """

    __slots__ = ("_end", "_line", "_lock", "complete_after", "now", "version")

    def __init__(self, line: EventSeries, lock: Lock, now: int) -> None:
        self._line, self._lock, self.now = line, lock, now
        self.complete_after, self.version = line.complete_after, line.version
        self._end = line.first + len(line.events)  # the number of the next event

    @property
    def events(self) -> Sequence[PastEvent]:
        with self._lock:
            return self._line.events[: max(0, self._end - self._line.first)]

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        with self._lock:
            return self._line.among(place, wanted, self._end)

    def count_between(self, start: int, until: int | None) -> int:
        with self._lock:
            return count_events(self._line.events, start, until, 0, max(0, self._end - self._line.first))


@dataclass(slots=True)
class PendingOutcome:
    """A decision whose outcome is awaited: the events that await it, and the end of the wait."""

    until: int
    records: tuple[HistoryRecord, ...]
    reported: bool = False


class MemoryHistory:
    """The history of a memory store. Not thread-safe: the store passes in its lock, which later reads use."""

    def __init__(self, lock: Lock, *, complete: bool, most_keys: int, fullness: CapacityAlarm) -> None:
        self._lock = lock
        self._complete, self._most, self._sweeps = complete, most_keys, SweepSchedule()
        self._fullness = fullness
        self._begun: dict[str, int] = {}
        self._lines: dict[WindowKey, EventSeries] = {}
        self._of_watch: Counter[str] = Counter()  # number of lines of each watch
        self._awaited: dict[str, PendingOutcome] = {}
        self.changes = 0

    def begin(self, watches: Iterable[str], now: int) -> None:
        for watch in watches:
            if watch not in self._begun:
                self._begun[watch] = ALWAYS if self._complete else now - 1
            elif self._begun[watch] == NEVER:  # the watch had already ended
                self._begun[watch] = now - 1
                self._drop(key for key in list(self._lines) if key[0] == watch)

    def end(self, watches: frozenset[str]) -> None:
        for watch in watches:
            self._begun[watch] = NEVER
        self._drop(key for key in list(self._lines) if key[0] in watches)

    def _drop(self, keys: Iterable[WindowKey]) -> None:
        for key in keys:
            del self._lines[key]
            self._of_watch[key[0]] -= 1

    def fetch(self, keys: Iterable[WindowKey], now: int) -> dict[WindowKey, History]:
        found: dict[WindowKey, History] = {}
        for key in keys:
            line = self._lines.get(key)
            if line is None:
                found[key] = HistoryList((), self.since(key[0]), now)
            else:
                found[key] = EventSeriesView(line, self._lock, now)
        return found

    def have_versions(self, relied: Iterable[tuple[WindowKey, int]]) -> bool:
        """Return whether these histories still have these versions."""
        for key, version in relied:
            line = self._lines.get(key)
            if version != (0 if line is None else line.version):
                return False
        return True

    def make_room(self, records: tuple[HistoryRecord, ...], now: int) -> None:
        """Make room for new lines. Raises StoreFullError, and then changes nothing."""
        grown = [one.watch for one in records if (one.watch, one.key) not in self._lines]
        if not grown or self._has_room(grown):
            return
        if self._sweeps.due(now):
            self.forget(now)
            self._sweeps.done(now, len(self._lines))
        if not self._has_room(grown):
            held = f"the rule holds {max(self._of_watch[watch] for watch in grown):,} of at most {self._most:,}"
            raise self._fullness.refusal(f"the memory store has no room for another history of one rule: {held}")

    def _has_room(self, grown: Sequence[str]) -> bool:
        """Return whether each watch may add a line. A watch may have at most as many lines as remain free, so that
        other watches have room."""
        free = self._most - len(self._lines) - len(grown)
        return all(self._of_watch[watch] <= free for watch in grown)

    def keep(self, records: tuple[HistoryRecord, ...], decision: str, now: int) -> None:
        if not records:
            return
        self.changes += 1
        awaits = False
        for record in records:
            line = self._line(record)
            event = PastEvent(now, self.changes, decision, record.facts)
            line.version = self.changes
            if record.within > line.within:
                line.within = record.within
            awaits = awaits or record.awaits
            if record.latest:
                line.replace(event)
            else:
                line.add(event)
                line.shorten(now)
        if awaits:
            awaiting = tuple(one for one in records if one.awaits)
            self._awaited[decision] = PendingOutcome(now + max(one.within for one in awaiting), awaiting)

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        awaited = self._awaited.get(decision)
        if awaited is None or awaited.until <= now:
            return None
        if awaited.reported:
            return "again"
        awaited.reported = True
        self.changes += 1
        for record in awaited.records:
            line = self._lines.get((record.watch, record.key))
            if line is not None:
                self._report_on(line, record, decision, report)
        return "first"

    def forget(self, now: int) -> None:
        over = [(key, line) for key, line in self._lines.items() if not line.matters(now)]
        self._drop(key for key, _ in over)
        for (watch, _), line in over:
            if line.events:
                self._begun[watch] = max(self._begun.get(watch, ALWAYS), line.events[-1].at)
        self._awaited = {one: awaited for one, awaited in self._awaited.items() if awaited.until > now}

    # ── One line ──────────────────────────────────────────────────────────────────────────────

    def _report_on(self, line: EventSeries, record: HistoryRecord, decision: str, report: OutcomeReport) -> None:
        for place in reversed(range(len(line.events))):
            if line.events[place].decision == decision:
                output = reported_values(report.output, record.outputs)
                line.events[place] = line.events[place]._replace(status=report.status, output=output)
                line.version = self.changes
                return

    def _line(self, record: HistoryRecord) -> EventSeries:
        key = (record.watch, record.key)
        found = self._lines.get(key)
        if found is None:
            found = self._lines[key] = EventSeries(self.since(record.watch), record.within)
            self._of_watch[record.watch] += 1
        return found

    def since(self, watch: str) -> int:
        """Return the time, in microseconds, after which the history of a key without events is complete."""
        return self._begun.get(watch, ALWAYS if self._complete else NEVER)
