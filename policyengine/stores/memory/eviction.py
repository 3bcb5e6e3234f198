"""Schedules when a full store searches for keys to evict, so that not every new key causes a search."""

from __future__ import annotations

REST = 10  # microseconds of pause for each searched key, a multiple of the time that the search takes


class SweepSchedule:
    """A schedule that bounds the cost of new keys: sending one key is cheap, but searching a million is not. A store
    that is still full after a search pauses, for 10 s with 1,000,000 keys; keys that expire during the pause are found
    after it. Times are microseconds by the store's clock."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = 0

    def due(self, now: int) -> bool:
        return now >= self._until

    def done(self, now: int, left: int) -> None:
        """Note the end of a search that left `left` keys."""
        self._until = now + REST * left
