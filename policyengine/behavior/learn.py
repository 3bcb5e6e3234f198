"""Learns the model of all classes from the rows of their callers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from policyengine.behavior.events import Caller
from policyengine.behavior.fold import MARGIN_UNIT, ProfileSettings, is_ready
from policyengine.behavior.model import (
    FORMAT,
    MODEL_VERSION,
    BehaviorModel,
    ClassModel,
    ClassName,
    ModelContent,
)
from policyengine.behavior.row import DAYS_KEPT, HOUR, HOURS_OF_DAY, MAX_SHORT, BehaviorRow

LEAST_TEACHERS: Final = 2  # minimum principals that use an endpoint of a class
LEAST_DAYS: Final = 20  # minimum caller-days to learn margins
MAX_WEIGHT: Final = 20  # a principal has at most 1/20 of the weight, if there are that many principals
MAX_PART: Final = 4  # a principal counts for at most 1/4 of the allowed alarms
WEIGHT_UNIT: Final = 2**20
SPARE: Final = 2  # with too few caller-days to calibrate, the margin is the highest ratio times this factor
LEAST_MARGIN: Final = MARGIN_UNIT * 9 // 8
MAX_MARGIN: Final = 8 * MARGIN_UNIT  # upper bound, so that callers cannot raise a margin without limit

SettingsOf = Callable[[str], ProfileSettings]


class CallerDay(NamedTuple):
    """A day of a caller: its highest levels relative to the days before it, in 1/1024, its weight, and the number of
    its principal."""

    slow: int
    fast: int
    weight: int
    principal: int


class Margins(NamedTuple):
    slow: int
    fast: int
    days: int
    declared: bool


NO_MARGINS: Final = Margins(0, 0, 0, False)


def learn_model(
    rows: Mapping[Caller, tuple[str, BehaviorRow]], settings_of: SettingsOf, now: int, serial: int, tags: str
) -> BehaviorModel:
    """Learn a model from rows, each with the name of its class. Classes are learned only from callers that are ready by
    their own runs and days, and that were active within the `learn` period. All instances and versions of an agent are
    one principal."""
    classes: defaultdict[ClassName, defaultdict[str, list[BehaviorRow]]] = defaultdict(lambda: defaultdict(list))
    for caller, (group, row) in rows.items():
        settings = settings_of(group)
        if is_ready(row, settings) and now - row.level_at <= settings.learn_days * HOURS_OF_DAY * HOUR:
            classes[caller.issuer, group][caller.agent].append(row)
    learned = [
        learn_class(name, [found for _, found in sorted(principals.items())], settings_of(name[1]), now)
        for name, principals in sorted(classes.items())
    ]
    return BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, serial, now, tags, tuple(learned)))


def learn_class(
    name: ClassName, principals: Sequence[Sequence[BehaviorRow]], settings: ProfileSettings, now: int
) -> ClassModel:
    users = Counter(tag for rows in principals for tag in {tag for row in rows for tag in row.seen})
    margins = learn_margins(caller_days(principals, settings, now), settings.burst_days)
    return ClassModel(
        *name, sum(row.runs for rows in principals for row in rows), len(principals),
        frozenset(tag for tag, count in users.items() if count >= LEAST_TEACHERS),
        margins.slow, margins.fast, margins.days, margins.declared,
    )  # fmt: skip


def caller_days(principals: Sequence[Sequence[BehaviorRow]], settings: ProfileSettings, now: int) -> list[CallerDay]:
    """Return the weighted days to learn from. The weight of each principal is limited (MAX_WEIGHT)."""
    today = now // HOUR // HOURS_OF_DAY
    found = [
        days for rows in principals if (days := [day for row in rows for day in row_days(row, today, settings)])
    ]  # fmt: skip
    most = max(-(-sum(map(len, found)) // min(MAX_WEIGHT, max(len(found), 1))), 1)
    return [
        CallerDay(slow, fast, min(len(days), most) * WEIGHT_UNIT // len(days), number)
        for number, days in enumerate(found)
        for slow, fast in days
    ]


def row_days(row: BehaviorRow, today: int, settings: ProfileSettings) -> list[tuple[int, int]]:
    """Return the slow and fast ratios of the learned days of a row."""
    day = row.hour // HOURS_OF_DAY
    places = [2 * (each % DAYS_KEPT) for each in range(max(day - DAYS_KEPT, today - settings.learn_days) + 1, day)]
    return [(row.ratios[place], row.ratios[place + 1]) for place in places if row.ratios[place]]


def days_to_calibrate(burst_days: int) -> int:
    """Return how many caller-days of equal weight `learn_margins` needs for the declared rate of false alarms."""
    return 2 * burst_days - 1


def learn_margins(days: Sequence[CallerDay], burst_days: int) -> Margins:
    """Return the smallest margins that at most one caller-day in `burst_days` exceeds, if the next caller-day is
    counted as an excess of each bucket (conformal ranks). If there are too few days for that, the margins are the
    highest ratios times SPARE. Margins are bounded."""
    if len(days) < LEAST_DAYS:
        return NO_MARGINS._replace(days=len(days))
    total = sum(day.weight for day in days)
    allowed = (total + WEIGHT_UNIT) // burst_days - 2 * WEIGHT_UNIT
    if allowed < 0:
        slow, fast = max(day.slow for day in days), max(day.fast for day in days)
        return Margins(bounded(SPARE * slow), bounded(SPARE * fast), len(days), declared=False)
    slows, fasts = RatioWeights(days, 0), RatioWeights(days, 1)
    part = max(allowed // MAX_PART, WEIGHT_UNIT)

    def at(above: int) -> tuple[int, int]:
        """Return the smallest margin of each bucket such that the weight of the ratios above it is at most `above`."""
        return slows.quantile(above), fasts.quantile(above)

    low, high = 0, max(allowed, WEIGHT_UNIT)
    while high < total and excess(days, *at(high), part) <= allowed:
        low, high = high, 2 * high
    slow, fast = at(high)
    tail = [day for day in days if day.slow > slow or day.fast > fast]
    best = at(0)
    while low <= high:
        above = (low + high) // 2
        if excess(tail, *at(above), part) <= allowed:
            best, low = at(above), above + 1
        else:
            high = above - 1
    return Margins(bounded(best[0]), bounded(best[1]), len(days), declared=True)


def excess(days: Iterable[CallerDay], slow: int, fast: int, part: int) -> int:
    """Return the weight of the days with a level above a margin. Each principal counts for at most `part`."""
    above: defaultdict[int, int] = defaultdict(int)
    for day in days:
        if day.slow > slow or day.fast > fast:
            above[day.principal] += day.weight
    return sum(min(weight, part) for weight in above.values())


class RatioWeights:
    """The weights of the ratios of one bucket. The ratios are counted, not sorted, because a sort in Python blocks all
    other threads, which decide requests."""

    def __init__(self, days: Iterable[CallerDay], column: int) -> None:
        weights = [0] * (MAX_SHORT + 1)
        for day in days:
            weights[day[column]] += day.weight
        self._least = next((ratio for ratio, weight in enumerate(weights) if weight), 0)
        # For each ratio, the negative weight of all higher ratios; the values ascend.
        self._above = [-weight for weight in accumulate(reversed(weights[1:]), initial=0)][::-1]

    def quantile(self, weight: int) -> int:
        """Return the smallest ratio such that the weight of all higher ratios is at most `weight`."""
        return max(bisect_left(self._above, -weight), self._least)


def bounded(margin: int) -> int:
    return min(max(margin, LEAST_MARGIN), MAX_MARGIN)
