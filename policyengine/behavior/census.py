"""Counts the known callers by class, a part of the callers per call, so that no call takes long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Final

from policyengine.behavior.events import Caller
from policyengine.behavior.state import CallerRow

RECOUNT_SECONDS: Final = 60.0
COUNTED_AT_ONCE: Final = 20_000  # maximum rows that one call counts


class CallerCensus:
    """The number of known callers by class. A count begins at most once a minute; `counts` is the result of the last
    complete count."""

    def __init__(self) -> None:
        self.counts: Mapping[str, int] = {}
        self._counting: Counter[str] = Counter()
        self._parts: Iterator[Sequence[Caller]] = iter(())
        self._next = 0.0

    def advance(self, rows: Mapping[Caller, CallerRow]) -> None:
        """Count the next part of the rows, or begin a new count if one is due. Decisions may add rows between the
        calls."""
        part = next(self._parts, None)
        if part is None:
            now = monotonic()
            if now < self._next:
                return
            self._next = now + RECOUNT_SECONDS
            self._counting, self._parts = Counter(), parts_of(list(rows))
            part = next(self._parts, ())
        self._counting.update(found.group for caller in part if (found := rows.get(caller)) is not None)
        if len(part) < COUNTED_AT_ONCE:
            self.counts, self._parts = self._counting, iter(())


def parts_of(callers: Sequence[Caller]) -> Iterator[Sequence[Caller]]:
    """Yield the callers in parts. The last part is shorter than the others, possibly empty."""
    for start in range(0, len(callers) + 1, COUNTED_AT_ONCE):
        yield callers[start : start + COUNTED_AT_ONCE]
