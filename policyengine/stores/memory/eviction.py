"""When a store that is full of callers is looked through for those that may be forgotten: not for each that is new."""

from __future__ import annotations

REST = 10  # microseconds for each key that was looked through, which takes a fraction of that


class SweepSchedule:
    """To be new is cheap, to look through a million keys is not: whoever sends new names must not cause it each time.

    A store that stays full rests after it was looked through, 10 s where it has 1,000,000 keys; what has become free
    meanwhile is found afterwards. Times are microseconds by the store's own clock.
    """

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = 0

    def due(self, now: int) -> bool:
        return now >= self._until

    def done(self, now: int, left: int) -> None:
        """It was looked through, and so many keys are left."""
        self._until = now + REST * left
