"""Places for sessions with a legacy server, and the line of callers that wait for one: a place goes to the caller with
the fewest sessions, so that a few busy callers do not keep others out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from policyengine.integrations.mcp.clients.sessions import Owner

MAX_OWNER_SESSIONS = 8  # of one caller, with those of parked calls; further calls wait


class SessionPlaces:
    """At most `most` places, of which one caller has at most a `share`. `wake` is called for a caller in the line when
    a place is kept for it."""

    def __init__(self, most: int, wake: Callable[[Owner], None]) -> None:
        self.most, self._wake = most, wake
        self.share = min(MAX_OWNER_SESSIONS, max(most // 2, 1))
        self._taken: Counter[Owner] = Counter()
        self._kept: Counter[Owner] = Counter()  # places of callers in the line, which they have not taken yet
        self._line: Counter[Owner] = Counter()  # requests that wait

    def count(self, owner: Owner) -> int:
        return self._taken[owner]

    @property
    def owners(self) -> int:
        """The number of callers with a place."""
        return len(self._taken)

    def take(self, owner: Owner) -> bool:
        """Take a place if one is free for the caller. Return whether it was taken."""
        if self._kept[owner]:
            subtract(self._kept, owner)
        elif self._is_full:
            return False
        self._taken[owner] += 1
        return True

    def give_back(self, owner: Owner) -> None:
        subtract(self._taken, owner)
        self._serve_line()

    @contextmanager
    def line(self, owner: Owner) -> Iterator[None]:
        """Wait in the line during the block. A place that is kept and was not taken in the block goes to others."""
        self._line[owner] += 1
        try:
            yield
        finally:
            subtract(self._line, owner)
            if self._kept[owner] > self._line[owner]:
                subtract(self._kept, owner)
                self._serve_line()

    def is_wanted(self, owner: Owner, *, is_needed: bool) -> bool:
        """Return whether a caller should give up an idle session for the first caller in the line. If the caller needs
        the session itself (`is_needed`), it should do so only if it then still has more sessions than the other caller
        had before, or if the other caller has no session."""
        first = self._find_first()
        if first is None:
            return False
        claims = self._claims(first)
        return not is_needed or claims == 0 or claims + 1 < self._taken[owner]

    @property
    def _is_full(self) -> bool:
        return self._taken.total() + self._kept.total() >= self.most

    def _serve_line(self) -> None:
        while not self._is_full and (first := self._find_first()) is not None:
            self._kept[first] += 1
            self._line[first] = self._line.pop(first)  # behind others with as few sessions
            self._wake(first)

    def _find_first(self) -> Owner | None:
        """Return the caller with the fewest sessions among those that wait without a place, and may have one more."""
        waiting = [owner for owner, many in self._line.items() if many > self._kept[owner]]
        first = min(waiting, key=self._claims, default=None)
        return None if first is None or self._claims(first) >= self.share else first

    def _claims(self, owner: Owner) -> int:
        return self._taken[owner] + self._kept[owner]


def subtract(counter: Counter[Owner], owner: Owner) -> None:
    """Count one less, and forget an owner without any."""
    counter[owner] -= 1
    if counter[owner] <= 0:
        del counter[owner]
