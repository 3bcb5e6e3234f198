"""The fold: how an event changes the row of its caller, and which facts a row gives for a request.

Everything is in whole numbers and depends only on the row, the model of the class, the settings and the event, so that
folding a log again gives the same rows byte for byte.

A burst is measured by two leaky buckets. Each request adds LEVEL_UNIT; they fall at SLOW_FACTOR and FAST_FACTOR times
the pace that the caller usually has at that hour of the day. A level above its ceiling is a burst: the ceiling is the
highest level of the previous days, times the margin of the class.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

from policyengine.behavior.events import ALLOWED, DENIED
from policyengine.behavior.model import ClassModel
from policyengine.behavior.row import (
    DAYS_KEPT,
    HOUR,
    HOURS_OF_DAY,
    MAX_COUNT,
    MAX_LEVEL,
    MAX_SEEN,
    MAX_SHORT,
    MILLION,
    BehaviorRow,
)

LEVEL_UNIT: Final = 16 * HOUR  # one request; a pace of 1/16 request per hour removes one unit per millisecond
PEAK_UNIT: Final = LEVEL_UNIT // 16
SLOW_FACTOR: Final = 2
FAST_FACTOR: Final = 10
LEAST_PACE: Final = 16  # one request per hour
LEAST_PEAK: Final = 4 * 16  # requests that never are a burst
PACE_WEIGHT: Final = 4  # a day changes the pace of an hour by a quarter of the difference
SHARE_WEIGHT: Final = 32
MARGIN_UNIT: Final = 1_024
CLEAN_REQUESTS: Final = 5  # allowed requests of an hour that earns trust
GAINS_PER_DAY: Final = 8


class ProfileSettings(NamedTuple):
    """What a profile says about learning; the defaults hold for callers without a profile."""

    name: str = ""
    run_idle: int = 300_000  # milliseconds
    learn_days: int = 14
    ready_runs: int = 20
    ready_days: int = 7
    burst_days: int = 100  # caller-days to one false alarm


class BehaviorReading(NamedTuple):
    """The facts of one request, and what it does to the levels. `trust`, `novelty` and `error_rate` are thousandths."""

    ready: bool
    trust: int
    burst: bool
    novelty: int
    error_rate: int
    is_new: bool  # the endpoint was used neither by the caller nor by its class
    over: bool  # a level is over its ceiling, whether or not the caller is ready
    level_slow: int
    level_fast: int

    def to_facts(self) -> dict[str, object]:
        """Return the facts by their names after `behavior.`."""
        return {
            "ready": self.ready,
            "trust": THOUSANDTHS[self.trust],
            "burst": self.burst,
            "novelty": THOUSANDTHS[self.novelty],
            "error_rate": THOUSANDTHS[self.error_rate],
        }


THOUSANDTHS: Final = tuple([Decimal(number).scaleb(-3) for number in range(1_001)])


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def advance(row: BehaviorRow, at: int, settings: ProfileSettings) -> None:
    """Bring the row to a time: end the hours and days that have passed. Two steps give the same as one."""
    hour = at // HOUR
    if hour <= row.hour:
        return
    if hour - row.level_at // HOUR > settings.learn_days * HOURS_OF_DAY:
        row.clear(at)  # nothing was heard of the caller for longer than is learned
        return
    end_hour(row)
    for each in range(row.hour + 1, min(hour, row.hour + HOURS_OF_DAY * DAYS_KEPT)):
        slot = each % HOURS_OF_DAY
        row.paces[slot] -= -(-row.paces[slot] // PACE_WEIGHT)
    day, days = hour // HOURS_OF_DAY, hour // HOURS_OF_DAY - row.hour // HOURS_OF_DAY
    if days:
        end_day(row, settings)
        row.days = (row.days << days) & ((1 << DAYS_KEPT) - 1)
        for each in range(day - min(days, DAYS_KEPT) + 1, day + 1):
            place = 2 * (each % DAYS_KEPT)
            row.peaks[place] = row.peaks[place + 1] = row.ratios[place] = row.ratios[place + 1] = 0
    row.hour, row.hour_count, row.hour_allowed, row.hour_alarm = hour, 0, 0, False


def end_hour(row: BehaviorRow) -> None:
    """Learn the pace of the hour, and give trust for a clean one."""
    slot = row.hour % HOURS_OF_DAY
    pace, count = row.paces[slot], 16 * row.hour_count
    if row.hour_alarm:
        count = min(count, pace)
    if count and not pace:
        row.paces[slot] = min(count, MAX_COUNT)
    elif count >= pace:
        row.paces[slot] = min(pace + (count - pace) // PACE_WEIGHT, MAX_COUNT)
    else:
        row.paces[slot] = pace - -(-(pace - count) // PACE_WEIGHT)
    if row.hour_allowed >= CLEAN_REQUESTS and not row.hour_alarm:
        day = row.hour // HOURS_OF_DAY
        gains = row.gains if row.gain_day == day else 0
        if gains < GAINS_PER_DAY:
            row.trust += 12 * (MILLION - row.trust) // 1_000
            row.gain_day, row.gains = day, gains + 1


def end_day(row: BehaviorRow, settings: ProfileSettings) -> None:
    """Keep how high the levels of the day were relative to those of the days before it, from which margins are
    learned."""
    if row.top_slow and is_ready(row, settings):
        slow, fast = ceilings(row, settings)
        place = 2 * (row.hour // HOURS_OF_DAY % DAYS_KEPT)
        row.ratios[place] = min(row.top_slow * MARGIN_UNIT // slow, MAX_SHORT)
        row.ratios[place + 1] = min(row.top_fast * MARGIN_UNIT // fast, MAX_SHORT)
    row.top_slow = row.top_fast = 0


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


def read_behavior(
    row: BehaviorRow, model: ClassModel, endpoint: int, at: int, settings: ProfileSettings
) -> BehaviorReading:
    """Return the facts of a request to an endpoint (its tag), this request included. The row must be at that time."""
    pace = max(row.paces[row.hour % HOURS_OF_DAY], LEAST_PACE)
    passed = max(at - row.level_at, 0)
    slow = min(max(row.level_slow - passed * SLOW_FACTOR * pace, 0) + LEVEL_UNIT, MAX_LEVEL)
    fast = min(max(row.level_fast - passed * FAST_FACTOR * pace, 0) + LEVEL_UNIT, MAX_LEVEL)
    top_slow, top_fast = ceilings(row, settings)
    over = (
        slow * MARGIN_UNIT > top_slow * PEAK_UNIT * model.margin_slow
        or fast * MARGIN_UNIT > top_fast * PEAK_UNIT * model.margin_fast
    )
    is_new = endpoint not in row.seen and endpoint not in model.seen
    if not (model.is_ready and is_ready(row, settings)):
        return BehaviorReading(False, 500, False, 0, 0, is_new, False, slow, fast)
    novelty = mix(row.novelty, is_new)
    return BehaviorReading(
        True, row.trust // 1_000, over and model.has_margins, novelty // 1_000, row.errors // 1_000, is_new,
        over and model.has_margins, slow, fast,
    )  # fmt: skip


def is_ready(row: BehaviorRow, settings: ProfileSettings) -> bool:
    """Return whether the caller has enough own runs and active days."""
    if row.runs < settings.ready_runs:
        return False
    return (row.days & ((1 << settings.learn_days) - 1)).bit_count() >= settings.ready_days


def ceilings(row: BehaviorRow, settings: ProfileSettings) -> tuple[int, int]:
    """Return the highest peaks of the days before today, in sixteenths of a request."""
    day = row.hour // HOURS_OF_DAY
    if row.ceiling_day != day:
        slow = fast = LEAST_PEAK
        for each in range(day - settings.learn_days, day):
            place = 2 * (each % DAYS_KEPT)
            slow, fast = max(slow, row.peaks[place]), max(fast, row.peaks[place + 1])
        row.ceiling_day, row.ceiling_slow, row.ceiling_fast = day, slow, fast
    return row.ceiling_slow, row.ceiling_fast


def mix(share: int, hit: bool) -> int:
    """Return a share after one more request, which weighs 1/32."""
    return share + ((MILLION if hit else 0) - share) // SHARE_WEIGHT


# ── Events ────────────────────────────────────────────────────────────────────────────────────


def apply_decision(
    row: BehaviorRow,
    reading: BehaviorReading,
    at: int,
    endpoint: int,
    run: int,
    outcome: int,
    clamped: bool,
    settings: ProfileSettings,
) -> None:
    """Change the row by a decision whose facts were read from it. `run` is the tag of the run's key, or 0."""
    row.serial += 1
    row.level_at, row.level_slow, row.level_fast = max(at, row.level_at), reading.level_slow, reading.level_fast
    row.novelty = mix(row.novelty, reading.is_new and reading.ready)
    row.errors = mix(row.errors, outcome == DENIED)
    if reading.over or (reading.ready and reading.is_new):
        raise_alarm(row)
    if outcome != ALLOWED:
        return
    row.hour_allowed = min(row.hour_allowed + 1, MAX_COUNT)
    row.days |= 1
    count_run(row, at, run, settings)
    learn_endpoint(row, endpoint)
    if not clamped:
        row.hour_count = min(row.hour_count + 1, MAX_COUNT)
        learn_peaks(row, reading, settings)


def apply_failure(row: BehaviorRow) -> None:
    """Change the row by the report that an allowed request failed."""
    row.serial += 1
    row.errors = min(row.errors + MILLION // SHARE_WEIGHT, MILLION)


def raise_alarm(row: BehaviorRow) -> None:
    """Take trust away, once an hour."""
    if row.fall_hour != row.hour:
        row.fall_hour, row.trust = row.hour, 3 * row.trust // 10
    row.hour_alarm = True


def count_run(row: BehaviorRow, at: int, run: int, settings: ProfileSettings) -> None:
    """Count the request in its run; a run that ended is complete."""
    if row.run_length and (run != row.run_tag or at - row.run_last > settings.run_idle):
        row.runs, row.run_length = min(row.runs + 1, MAX_SHORT), 0
    row.run_tag, row.run_last = run, max(at, row.run_last)
    row.run_length = min(row.run_length + 1, MAX_SHORT)


def learn_endpoint(row: BehaviorRow, endpoint: int) -> None:
    """Remember that the caller uses the endpoint; the one that was not used for longest makes room."""
    if endpoint not in row.seen and len(row.seen) >= MAX_SEEN:
        del row.seen[min(row.seen, key=lambda tag: (row.seen[tag], tag))]
    row.seen[endpoint] = row.hour // HOURS_OF_DAY


def learn_peaks(row: BehaviorRow, reading: BehaviorReading, settings: ProfileSettings) -> None:
    """Raise the peaks of today. Of a burst, a quarter of what is above the earlier peaks is learned."""
    slow = min(reading.level_slow // PEAK_UNIT, MAX_COUNT)
    fast = min(reading.level_fast // PEAK_UNIT, MAX_COUNT)
    row.top_slow, row.top_fast = max(row.top_slow, slow), max(row.top_fast, fast)
    if reading.over:
        top_slow, top_fast = ceilings(row, settings)
        slow, fast = learned_part(slow, top_slow), learned_part(fast, top_fast)
    place = 2 * (row.hour // HOURS_OF_DAY % DAYS_KEPT)
    row.peaks[place], row.peaks[place + 1] = max(row.peaks[place], slow), max(row.peaks[place + 1], fast)


def learned_part(level: int, top: int) -> int:
    return min(level, top + min(level - top, top) // 4) if level > top else level
