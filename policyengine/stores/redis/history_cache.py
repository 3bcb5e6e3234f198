"""A cache of long histories: the server sends only the events that are new since the last fetch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

from msgspec import msgpack

from policyengine.runtime.history import History, PastEvent, count_events
from policyengine.stores.history_rows import EventRow, StoredHistory
from policyengine.stores.memory.history import EventSeries
from policyengine.typesystem import EntityRef

MIN_CACHED_EVENTS = 32  # minimum events of a cached line
MAX_CACHED_EVENTS = 100_000  # maximum number of cached events, of all lines together
ROW_DECODER = msgpack.Decoder(EventRow)


class SeriesHead(NamedTuple):
    """The header of a line of events on the server (`past.lua`). `unread` is the version of the last report that the
    server cannot send separately."""

    version: int
    within: int
    complete_after: int
    first: int
    born: int
    unread: int
    reports: tuple[int, ...]


HEAD_DECODER = msgpack.Decoder(SeriesHead)


class CachedSeries:
    """A cached line whose events are numbered from `start`. The line only grows, so views of it stay valid. When the
    server has dropped half of the line, a new object replaces it.
    """

    __slots__ = ("born", "line", "start", "version")

    def __init__(self, head: SeriesHead, events: Sequence[PastEvent]) -> None:
        self.born, self.version, self.start = head.born, head.version, head.first
        self.line = EventSeries(0, 0)
        self.line.events += events

    @property
    def next(self) -> int:
        return self.start + len(self.line.events)


class CachedHistory:
    """A history as it was when it was read, without later events."""

    __slots__ = ("_end", "_followed", "_lock", "_start", "complete_after", "now", "version")

    def __init__(self, followed: CachedSeries, lock: Lock, head: SeriesHead, end: int, after: int, now: int) -> None:
        self._followed, self._lock, self.now = followed, lock, now
        self._start, self._end = max(0, head.first - followed.start), end - followed.start
        self.complete_after, self.version = max(after, head.complete_after), head.version

    @property
    def events(self) -> Sequence[PastEvent]:
        with self._lock:
            return self._followed.line.events[self._start : self._end]

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        with self._lock:
            events = self._followed.line.events
            first, last = events[self._start].serial, events[self._end - 1].serial
            return [one for one in self._followed.line.among(place, wanted) if first <= one.serial <= last]

    def count_between(self, start: int, until: int | None) -> int:
        with self._lock:
            return count_events(self._followed.line.events, start, until, self._start, self._end)


class HistoryCache:
    """The cached long lines by name; the least recently used are evicted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lines: OrderedDict[str, CachedSeries] = OrderedDict()
        self._many = 0

    def known(self, name: str) -> tuple[int, int, int] | bool:
        """Return the cached part of a line, which `fetch.lua` can omit from its answer, or False if nothing is
        cached."""
        with self._lock:
            found = self._lines.get(name)
            if found is None:
                return False
            self._lines.move_to_end(name)
            return found.born, found.version, found.next

    def read(self, name: str, answer: Sequence[Any], now: int) -> History | None:
        """Return the history from an answer of `fetch.lua` and the cache; None if the cached part has been evicted."""
        after, raw, start, added, changed = answer
        if not raw:
            return StoredHistory((), int(after), now, 0)
        head, rows = HEAD_DECODER.decode(raw), [ROW_DECODER.decode(one) for one in added]
        if start == head.first and len(rows) < MIN_CACHED_EVENTS:
            return StoredHistory(rows, max(int(after), head.complete_after), now, head.version)
        with self._lock:
            found = self._lines.get(name)
            if start == head.first:
                found = self._anew(name, head, [row.happening for row in rows])
            elif found is None or found.born != head.born or not found.start <= head.first <= start <= found.next:
                return None
            else:
                self._grow(found, head, rows[found.next - start :], changed)
                gone = head.first - found.start
                if gone > len(found.line.events) // 2:
                    found = self._anew(name, head, found.line.events[gone:])
            return CachedHistory(found, self._lock, head, start + len(rows), int(after), now)

    def _anew(self, name: str, head: SeriesHead, events: Sequence[PastEvent]) -> CachedSeries:
        made, known = CachedSeries(head, events), self._lines.get(name)
        if known is None or known.version <= head.version:
            self._drop(name)
            self._lines[name] = made
            self._many += len(events)
            while self._many > MAX_CACHED_EVENTS:
                self._drop(next(iter(self._lines)))
        return made

    def _grow(self, found: CachedSeries, head: SeriesHead, rows: Sequence[EventRow], changed: Sequence[Any]) -> None:
        events = found.line.events
        for number, raw in zip(changed[::2], changed[1::2], strict=True) if found.version < head.version else ():
            if found.start <= number < found.next:
                events[number - found.start] = ROW_DECODER.decode(raw).happening
        for row in rows:
            found.line.add(row.happening)
        self._many += len(rows)
        found.version = max(found.version, head.version)

    def _drop(self, name: str) -> None:
        gone = self._lines.pop(name, None)
        self._many -= 0 if gone is None else len(gone.line.events)
