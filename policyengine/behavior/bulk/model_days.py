"""Finds when models are learned: at the first decision of each day, in the order of the logs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from policyengine.behavior.state import DAY, begins_day


class ModelDays:
    """The times at which models are learned, in milliseconds (`times`), as decisions are added in their order.
    `learned_day` is the day of the latest model before."""

    def __init__(self, learned_day: int) -> None:
        self._day = learned_day
        self.times: list[int] = []

    @property
    def count(self) -> int:
        """The number of models that are learned before the next decision, if it is not the first of a day."""
        return len(self.times)

    def add(self, at: int) -> None:
        """Add a decision at a time in milliseconds."""
        day = at // DAY
        if day != self._day and begins_day(day, self._day):
            self._day = day
            self.times.append(at)


class DayPlaces(NamedTuple):
    """The places of the first and the last decision of a day in the order of the logs, and the time of the first."""

    day: int
    first: int
    at: int
    last: int


def model_times(days: Iterable[DayPlaces], learned_day: int) -> list[tuple[int, int]] | None:
    """Return the places and times of the decisions before which models are learned, as ModelDays does. Return None if a
    decision is so much earlier than one before it that a model is learned again: the days do not say which."""
    found: list[tuple[int, int]] = []
    ordered, latest = sorted(days), learned_day
    for day in sorted(ordered, key=lambda each: each.first):
        if begins_day(day.day, latest):
            if day.day < latest:
                return None
            latest = day.day
            found.append((day.first, day.at))
    numbers = [day.day for day in ordered]
    firsts = list(accumulate((day.first for day in reversed(ordered)), min))[::-1]  # of a day and of all later ones
    for day in ordered:
        later = bisect_left(numbers, day.day + 2)
        if later < len(firsts) and firsts[later] < day.last:
            return None
    return found
