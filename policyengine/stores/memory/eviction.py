"""Schedule when a full store searches its keys for ones to evict, so that not every new key causes a search."""

from __future__ import annotations

REST = 10  # microseconds of pause for each key searched, a multiple of the search time


class SweepSchedule:
    """A schedule that bounds the cost of new keys: sending one is cheap, searching a million is not. A store that stays
    full pauses after a search, for 10 s with 1,000,000 keys; keys that expire meanwhile are found afterwards. Times are
    microseconds by the store's clock."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = 0

    def due(self, now: int) -> bool:
        return now >= self._until

    def done(self, now: int, left: int) -> None:
        """Note a search that left `left` keys."""
        self._until = now + REST * left
