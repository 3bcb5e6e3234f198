"""Schedules when a full store searches for keys to evict, so that not every new key causes a search."""

from __future__ import annotations

REST = 10  # microseconds of pause for each searched key, a multiple of the time that the search takes


class SweepSchedule:
    """A schedule that limits the cost of new keys, because sending a key is cheap, but searching a million keys is not.
    A store that is still full after a search pauses before the next search (10 s with 1,000,000 keys), and finds keys
    that expire during the pause only after it. Times are microseconds by the store's clock."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = 0

    def due(self, now: int) -> bool:
        return now >= self._until

    def done(self, now: int, left: int) -> None:
        """Record the end of a search after which `left` keys remain."""
        self._until = now + REST * left
