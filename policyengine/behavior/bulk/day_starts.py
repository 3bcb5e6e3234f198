"""Finds the decisions before which a model is learned or groups are searched for: the first decision of each day, in
the order of the logs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from policyengine.behavior.state import DAY, BehaviorState, SettingsOf, begins_day


class DayStart(NamedTuple):
    """The time of a decision, in milliseconds, before which a model is learned, groups are searched for, or both."""

    at: int
    learns: bool
    searches: bool

    def apply(self, state: BehaviorState, settings_of: SettingsOf) -> None:
        """Learn a model and search for groups, with a state that contains everything before the decision."""
        if self.learns:
            state.learn(self.at, settings_of)
        if self.searches and state.searches:
            state.search_groups(self.at)


class DayStarts:
    """Finds the first decision of each day among decisions that follow the content of a state and are added in their
    order. Groups are searched for if `groups` is true."""

    def __init__(self, state: BehaviorState, groups: bool) -> None:
        self._learned, self._searched, self._groups = state.learned_day, state.model.content.grouped, groups
        self._day = -1  # of the latest decision

    def add(self, at: int) -> DayStart | None:
        """Add a decision at a time in milliseconds. Return a DayStart if a model is learned, or groups are searched
        for, before the decision; otherwise None."""
        day = at // DAY
        if day == self._day:
            return None
        self._day = day
        learns = begins_day(day, self._learned)
        searches = self._groups and begins_day(day, self._searched)
        if learns:
            self._learned = day
        if searches:
            self._searched = day
        return DayStart(at, learns, searches) if learns or searches else None


class DayPlaces(NamedTuple):
    """The places of the first and the last decision of a day in the order of the logs, and the time of the first."""

    day: int
    first: int
    at: int
    last: int


def start_places(days: Iterable[DayPlaces], latest: int) -> list[tuple[int, int]] | None:
    """Return the places and times of the decisions that begin a day after a model was learned, or groups were searched
    for, on the day `latest`. Return None if a decision is so much earlier than a decision before it that it begins its
    day again, because `days` does not contain the place of such a decision."""
    found: list[tuple[int, int]] = []
    ordered = sorted(days)
    for day in sorted(ordered, key=lambda each: each.first):
        if begins_day(day.day, latest):
            if day.day < latest:
                return None
            latest = day.day
            found.append((day.first, day.at))
    numbers = [day.day for day in ordered]
    firsts = list(accumulate((day.first for day in reversed(ordered)), min))[
        ::-1
    ]  # the first place of a day and of all later days
    for day in ordered:
        later = bisect_left(numbers, day.day + 2)
        if later < len(firsts) and firsts[later] < day.last:
            return None
    return found


def merge_starts(learned: Iterable[tuple[int, int]], searched: Iterable[tuple[int, int]]) -> list[tuple[int, DayStart]]:
    """Return the places and the starts of days, from the places and times at which models are learned and groups are
    searched for."""
    learns, searches = dict(learned), dict(searched)
    return [
        (place, DayStart(at, place in learns, place in searches)) for place, at in sorted((learns | searches).items())
    ]
