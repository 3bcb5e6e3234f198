"""Learns the model of all classes from the rows of their callers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from policyengine.behavior.row import DAYS_KEPT, HOUR, HOURS_OF_DAY, BehaviorRow

LEAST_TEACHERS: Final = 2  # callers that must use an endpoint before the class has it
LEAST_DAYS: Final = 20  # caller-days from which margins are learned
MAX_WEIGHT: Final = 20  # a caller counts at most for one part in so many
WEIGHT_UNIT: Final = 2**20
SPARE: Final = 3, 2  # the highest ratio times this is the margin of a class with too few caller-days
LEAST_MARGIN: Final = MARGIN_UNIT * 9 // 8

SettingsOf = Callable[[str], ProfileSettings]


class CallerDay(NamedTuple):
    """How high the levels of a day were relative to the days before, in 1/1024, and the weight of the day."""

    slow: int
    fast: int
    weight: int


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
    days teach a class."""
    classes: defaultdict[ClassName, list[BehaviorRow]] = defaultdict(list)
    for caller, (group, row) in rows.items():
        if is_ready(row, settings_of(group)):
            classes[caller.issuer, group].append(row)
    learned = [learn_class(name, found, settings_of(name[1]), now) for name, found in sorted(classes.items())]
    return BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, serial, now, tags, tuple(learned)))


def learn_class(name: ClassName, rows: Sequence[BehaviorRow], settings: ProfileSettings, now: int) -> ClassModel:
    users = Counter(tag for row in rows for tag in row.seen)
    margins = learn_margins(caller_days(rows, settings, now), settings.burst_days)
    return ClassModel(
        *name, sum(row.runs for row in rows), len(rows),
        frozenset(tag for tag, count in users.items() if count >= LEAST_TEACHERS),
        margins.slow, margins.fast, margins.days, margins.declared,
    )  # fmt: skip


def caller_days(rows: Sequence[BehaviorRow], settings: ProfileSettings, now: int) -> list[CallerDay]:
    """Return the days of all callers that are learned from; no caller has more than its part of their weight."""
    today = now // HOUR // HOURS_OF_DAY
    found: list[list[tuple[int, int]]] = []
    for row in rows:
        day = row.hour // HOURS_OF_DAY
        places = [2 * (each % DAYS_KEPT) for each in range(max(day - DAYS_KEPT, today - settings.learn_days) + 1, day)]
        days = [(row.ratios[place], row.ratios[place + 1]) for place in places if row.ratios[place]]
        if days:
            found.append(days)
    most = max(-(-sum(map(len, found)) // min(MAX_WEIGHT, max(len(found), 1))), 1)
    return [
        CallerDay(slow, fast, min(len(days), most) * WEIGHT_UNIT // len(days)) for days in found for slow, fast in days
    ]


def learn_margins(days: Sequence[CallerDay], burst_days: int) -> Margins:
    """Return the smallest margins that at most one caller-day in `burst_days` exceeds, counting the next one as an
    excess (conformal ranks). If there are too few days for that, the margins are the highest ratios with a reserve."""
    if len(days) < LEAST_DAYS:
        return NO_MARGINS._replace(days=len(days))
    total = sum(day.weight for day in days)
    allowed = (total + WEIGHT_UNIT) // burst_days - WEIGHT_UNIT
    if allowed < 0:
        times, by = SPARE
        slow, fast = max(day.slow for day in days), max(day.fast for day in days)
        return Margins(bounded(slow * times // by), bounded(fast * times // by), len(days), declared=False)
    slows, fasts = weighted(days, 0), weighted(days, 1)
    low, high = 0, allowed
    best = quantile(slows, 0), quantile(fasts, 0)
    while low <= high:  # the weight that each bucket alone may exceed
        each = (low + high) // 2
        slow, fast = quantile(slows, each), quantile(fasts, each)
        if sum(day.weight for day in days if day.slow > slow or day.fast > fast) <= allowed:
            best, low = (slow, fast), each + 1
        else:
            high = each - 1
    return Margins(bounded(best[0]), bounded(best[1]), len(days), declared=True)


def weighted(days: Iterable[CallerDay], column: int) -> list[tuple[int, int]]:
    """Return the ratios of a bucket with their weights, highest first."""
    return sorted([(day[column], day.weight) for day in days], reverse=True)


def quantile(ratios: Sequence[tuple[int, int]], weight: int) -> int:
    """Return the smallest ratio such that at most this weight is above it."""
    above = 0
    for ratio, each in ratios:
        above += each
        if above > weight:
            return ratio
    return ratios[-1][0]


def bounded(margin: int) -> int:
    return max(margin, LEAST_MARGIN)
