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

LEAST_TEACHERS: Final = 2  # principals that must use an endpoint before the class has it
LEAST_DAYS: Final = 20  # caller-days from which margins are learned
MAX_WEIGHT: Final = 20  # a principal counts at most for one part in so many
MAX_PART: Final = 4  # a principal causes at most one part in so many of the alarms that are allowed
WEIGHT_UNIT: Final = 2**20
SPARE: Final = 2  # the highest ratio times this is the margin of a class with too few caller-days
LEAST_MARGIN: Final = MARGIN_UNIT * 9 // 8
MAX_MARGIN: Final = 8 * MARGIN_UNIT  # whatever the callers of a class do

SettingsOf = Callable[[str], ProfileSettings]


class CallerDay(NamedTuple):
    """How high the levels of a day were relative to the days before, in 1/1024, the weight of the day, and the number
    of the principal."""

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
    """Return the model of the rows, each with the name of its class. Only callers that are ready by their own runs and
    days, and that are not forgotten, teach a class. All instances and versions of an agent are one principal."""
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
    """Return the days that are learned from; no principal has more than its part of their weight."""
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
    """Return the ratios of the learned days of a row."""
    day = row.hour // HOURS_OF_DAY
    places = [2 * (each % DAYS_KEPT) for each in range(max(day - DAYS_KEPT, today - settings.learn_days) + 1, day)]
    return [(row.ratios[place], row.ratios[place + 1]) for place in places if row.ratios[place]]


def days_to_calibrate(burst_days: int) -> int:
    """Return how many caller-days of equal weight `learn_margins` needs for the declared rate of false alarms."""
    return 2 * burst_days - 1


def learn_margins(days: Sequence[CallerDay], burst_days: int) -> Margins:
    """Return the smallest margins that at most one caller-day in `burst_days` exceeds, counting the next one as an
    excess of each bucket (conformal ranks). If there are too few days for that, the margins are the highest ratios with
    a reserve."""
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
        """Return the margins that each bucket alone exceeds with at most this weight."""
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
    """Return the weight of the days with a level above the margins. A principal has this part of it at most."""
    above: defaultdict[int, int] = defaultdict(int)
    for day in days:
        if day.slow > slow or day.fast > fast:
            above[day.principal] += day.weight
    return sum(min(weight, part) for weight in above.values())


class RatioWeights:
    """The weights of the ratios of one bucket. Python sorts in one step, in which no decision can be made, so they are
    counted instead."""

    def __init__(self, days: Iterable[CallerDay], column: int) -> None:
        weights = [0] * (MAX_SHORT + 1)
        for day in days:
            weights[day[column]] += day.weight
        self._least = next((ratio for ratio, weight in enumerate(weights) if weight), 0)
        # Of each ratio, the negative weight of those above it, which rises with the ratio.
        self._above = [-weight for weight in accumulate(reversed(weights[1:]), initial=0)][::-1]

    def quantile(self, weight: int) -> int:
        """Return the smallest ratio such that at most this weight is above it."""
        return max(bisect_left(self._above, -weight), self._least)


def bounded(margin: int) -> int:
    return min(max(margin, LEAST_MARGIN), MAX_MARGIN)
