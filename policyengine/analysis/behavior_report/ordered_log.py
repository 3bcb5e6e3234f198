"""Reads logs as one sequence in the order of time, in bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path

from policyengine.audit import DecisionRecord, OutcomeRecord
from policyengine.audit.reader import search_log

WINDOW = 1_000  # lines that are sorted at a time, because processes write lines slightly out of order
LINES_BETWEEN_REPORTS = 2_000


@dataclass(slots=True)
class OrderedLog:
    """The decisions and the outcomes of several logs. `skipped` counts the lines that cannot be read, by file, and has
    the first message about each; `late` counts lines that are too far out of order to be sorted. `progress` receives
    the number of bytes read."""

    paths: Sequence[Path]
    progress: Callable[[int], None] = lambda _: None
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)
    late: int = 0
    bytes_read: int = 0
    lines_read: int = 0

    def read(self) -> Iterator[DecisionRecord | OutcomeRecord]:
        """Yield the entries. Raises OSError."""
        waiting: list[tuple[datetime, int, DecisionRecord | OutcomeRecord]] = []
        latest = datetime.min.replace(tzinfo=UTC)
        for number, (time, entry) in enumerate(heapq.merge(*map(self._entries, self.paths), key=itemgetter(0))):
            heapq.heappush(waiting, (time, number, entry))
            if len(waiting) > WINDOW:
                at, _, first = heapq.heappop(waiting)
                self.late += at < latest
                latest = max(latest, at)
                yield first
        while waiting:
            yield heapq.heappop(waiting)[-1]

    def _entries(self, path: Path) -> Iterator[tuple[datetime, DecisionRecord | OutcomeRecord]]:
        """Yield the entries of one log with their times. An outcome is never earlier than the decision before it.
        Raises OSError.
        """

        def note(message: str) -> None:
            count, first = self.skipped.get(str(path), (0, message))
            self.skipped[str(path)] = count + 1, first

        decided = datetime.min.replace(tzinfo=UTC)
        for entry in search_log(path, self._count, note):
            if isinstance(entry, DecisionRecord):
                decided = entry.time
                yield decided, entry
            elif isinstance(entry, OutcomeRecord):
                yield max(decided, entry.time), entry

    def _count(self, line: bytes) -> bool:
        self.bytes_read += len(line)
        self.lines_read += 1
        if self.lines_read % LINES_BETWEEN_REPORTS == 0:
            self.progress(self.bytes_read)
        return True
