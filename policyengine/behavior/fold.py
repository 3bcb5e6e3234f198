"""The fold: how an event changes the row of its caller, and which facts a row gives for a request.

Everything is in whole numbers and depends only on the row, the model of the class, the settings and the event, so that
folding a log again gives the same rows byte for byte.

A burst is measured by two leaky buckets. Each request adds LEVEL_UNIT to both; their levels fall at SLOW_FACTOR and
FAST_FACTOR times the pace that the caller usually has around that hour of the day. A level above its base times the
margin of the class is a burst. The base grows with the ceiling, but more slowly (`base_of`). The ceiling is the highest
level that was learned in the previous days; a day raises it by an eighth at most, so that no caller can raise it
quickly. Requests that were not allowed have their own bucket, which counts for bursts but not for ceilings.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from policyengine.behavior.compiled_class import mypyc_attr
from policyengine.behavior.deviation_table import DeviationTable
from policyengine.behavior.events import ALLOWED, DENIED, RequestTags
from policyengine.behavior.grams import (
    SURPRISE_UNIT,
    class_surprise,
    extend_context,
    learn_grams,
    own_surprise,
    symbol_of,
)
from policyengine.behavior.known_shapes import is_new_shape, learn_shape
from policyengine.behavior.model import ClassModel
from policyengine.behavior.row import (
    DAYS_KEPT,
    HOUR,
    HOURS_OF_DAY,
    LEAST_PEAK,
    MAX_COUNT,
    MAX_LEVEL,
    MAX_SEEN,
    MAX_SHORT,
    MILLION,
    SCORE_BUCKETS,
    SCORE_LENGTHS,
    USUAL_DAYS,
    BehaviorRow,
    base_of,
)
from policyengine.kernel.sequence_automaton import LEFT, NO_MACHINE, START, SequenceAutomaton

LEVEL_UNIT: Final = 16 * HOUR  # one request; a pace of 1/16 request per hour removes one unit per millisecond
PEAK_UNIT: Final = LEVEL_UNIT // 16
SLOW_FACTOR: Final = 2
FAST_FACTOR: Final = 10
LEAST_PACE: Final = 16  # one request per hour
MAX_CEILINGS: Final = 10  # maximum level in ceilings, so that a burst ends within hours after a flood
PACE_WEIGHT: Final = 8  # a day changes the pace of an hour by an eighth of the difference
ALARM_WEIGHT: Final = 32  # a day changes the pace of an hour with an alarm by 1/32 of the difference
MAX_GROWTH: Final = 8  # a day raises a ceiling by at most an eighth
SHARE_WEIGHT: Final = 32
MARGIN_UNIT: Final = 1_024
LEAST_LIMIT: Final = MARGIN_UNIT * 9 // 8  # a level up to 9/8 of its ceiling is never a burst
MAX_LIMIT: Final = MARGIN_UNIT * 8  # a level above 8 times its ceiling always is one
CLEAN_REQUESTS: Final = 5  # minimum allowed requests of an hour that raises trust
GAINS_PER_DAY: Final = 8
MAX_SCORED: Final = 64  # maximum requests that share one score; a longer run has several scores
SHORT_RUN: Final = 8  # requests; a run with more of them is scored among the longer runs
SURPRISE_STEP: Final = 213  # size of a bucket of scores to the class; the last bucket begins at 19 bits
EXCESS_STEP: Final = 256
MAX_EXPECTED: Final = 6 * SURPRISE_UNIT  # a caller is compared with its class only up to this surprise
ALARM_FACTS: Final = ("burst", "novelty", "deviation")  # facts whose alarms are counted
FLAGGED: Final = 990  # thousandths of deviation; little is learned from a run with more
MATURE_RUNS: Final = (50, 200)  # minimum runs of a caller in the second and in the third class
MAX_SCORE_COUNT: Final = 255
LEARNED_PART: Final = 4  # one in 4 flagged runs is learned
HALF_DAYS: Final = DAYS_KEPT // 2
HALF_MASK: Final = (1 << HALF_DAYS) - 1
BIT_COUNTS: Final = bytes(map(int.bit_count, range(1 << HALF_DAYS)))  # compiled code calls `int.bit_count` slowly


class ProfileSettings:
    """The settings for learning the behavior of callers with a profile; the defaults apply to callers without a
    profile. They never change.

    `run_idle` is in milliseconds. `burst_days` is the number of caller-days in which one false alarm is expected.
    `days_mask` has a bit for each of the `learn_days`. `sequences` says whether sequences of endpoints are learned. If
    `released`, a planned change is under way: requests raise no alarm, and everything is learned from them. `automaton`
    is the automaton of the declared order of calls, if the profile declares one. `groups` says whether groups of
    callers that move as one are learned.
    """

    __slots__ = (
        "automaton", "burst_days", "days_mask", "groups", "learn_days", "name", "ready_days", "ready_runs", "released",
        "run_idle", "sequences",
    )  # fmt: skip

    def __init__(
        self,
        name: str = "",
        *,
        run_idle: int = 300_000,
        learn_days: int = USUAL_DAYS,
        ready_runs: int = 20,
        ready_days: int = 7,
        burst_days: int = 100,
        released: bool = False,
        sequences: bool = True,
        automaton: SequenceAutomaton | None = None,
        groups: bool = False,
    ) -> None:
        self.name = name
        self.run_idle = run_idle
        self.learn_days = learn_days
        self.days_mask = (1 << learn_days) - 1
        self.ready_runs = ready_runs
        self.ready_days = ready_days
        self.burst_days = burst_days
        self.released = released
        self.sequences = sequences
        self.automaton = automaton
        self.groups = groups

    def release(self, released: bool = True) -> ProfileSettings:
        """Return the settings with a planned change under way (`released`) or without one."""
        return ProfileSettings(
            self.name, run_idle=self.run_idle, learn_days=self.learn_days, ready_runs=self.ready_runs,
            ready_days=self.ready_days, burst_days=self.burst_days, released=released, sequences=self.sequences,
            automaton=self.automaton, groups=self.groups,
        )  # fmt: skip


@mypyc_attr(acyclic=True, free_list_len=1)
class CallerFacts:
    """The facts of one request, and the levels after the request, as if it were allowed. `trust`, `novelty`,
    `error_rate` and `deviation` are thousandths. `is_new` is true if neither the caller nor its class used the
    endpoint, or the structure of the payload (`has_new_shape`), before. `level_denied` is the level before the request.
    `surprise` is the surprise of the endpoint to the class, and `own_surprise` its surprise to the caller, or -1 if it
    was not computed. `sequence` says whether the run follows the declared order of calls, and `step` is the state of
    the automaton before the request. `cluster` is the group in which the caller shares limits, and `cluster_size` the
    number of its members; empty and 1 for a caller in no group."""

    __slots__ = (
        "burst", "cluster", "cluster_size", "deviation", "error_rate", "has_new_shape", "is_new", "level_denied",
        "level_fast", "level_slow", "novelty", "own_surprise", "ready", "sequence", "step", "surprise", "trust",
    )  # fmt: skip

    def __init__(
        self,
        ready: bool,
        trust: int,
        burst: bool,
        novelty: int,
        error_rate: int,
        is_new: bool,
        level_slow: int,
        level_fast: int,
        level_denied: int,
        deviation: int = 0,
        surprise: int = 0,
        sequence: bool = True,
        step: int = START,
        has_new_shape: bool = False,
        own_surprise: int = -1,
    ) -> None:
        self.ready = ready
        self.trust = trust
        self.burst = burst
        self.novelty = novelty
        self.error_rate = error_rate
        self.is_new = is_new
        self.level_slow = level_slow
        self.level_fast = level_fast
        self.level_denied = level_denied
        self.deviation = deviation
        self.surprise = surprise
        self.sequence = sequence
        self.step = step
        self.has_new_shape = has_new_shape
        self.own_surprise = own_surprise
        self.cluster = ""
        self.cluster_size = 1

    def values(self) -> tuple[bool, int, bool, int, int, int, bool]:
        """Return the facts about the caller alone, without the levels."""
        return self.ready, self.trust, self.burst, self.novelty, self.error_rate, self.deviation, self.sequence

    def is_same(self, other: CallerFacts) -> bool:
        """Return whether the other facts have the same names and values."""
        return (
            self.ready == other.ready
            and self.trust == other.trust
            and self.burst == other.burst
            and self.novelty == other.novelty
            and self.error_rate == other.error_rate
            and self.deviation == other.deviation
            and self.sequence == other.sequence
            and self.step == other.step
            and self.cluster == other.cluster
            and self.cluster_size == other.cluster_size
        )

    def group(self) -> tuple[str, int]:
        """Return the facts about the group of the caller."""
        return self.cluster, self.cluster_size

    def levels(self) -> tuple[int, int, int]:
        """Return the levels: slow, fast and denied."""
        return self.level_slow, self.level_fast, self.level_denied

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CallerFacts)
            and self.values() == other.values()
            and self.group() == other.group()
            and self.levels() == other.levels()
            and self.is_new == other.is_new
        )

    def __hash__(self) -> int:
        return hash((self.values(), self.levels()))

    def to_facts(self) -> dict[str, object]:
        """Return the facts by the names of `learned_name`, and the step for explanations. The facts `cluster.*` of a
        caller in no group are missing: they are neutral."""
        facts: dict[str, object] = {
            "ready": self.ready,
            "trust": THOUSANDTHS[self.trust],
            "burst": self.burst,
            "novelty": THOUSANDTHS[self.novelty],
            "error_rate": THOUSANDTHS[self.error_rate],
            "deviation": THOUSANDTHS[self.deviation],
            "sequence": self.sequence,
            "step": self.step,
        }
        if self.cluster:
            facts["cluster.id"], facts["cluster.size"] = self.cluster, self.cluster_size
        return facts


THOUSANDTHS: Final = tuple([Decimal(number).scaleb(-3) for number in range(1_001)])


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def advance(row: BehaviorRow, at: int, settings: ProfileSettings) -> None:
    """Advance the row to a time: end the hours and days that have passed. Advancing in two steps has the same result as
    in one."""
    hour = at // HOUR
    if hour == row.hour:
        return
    if hour < row.hour:
        if row.hour - hour > HOURS_OF_DAY:  # the clock was wrong, then or now
            row.clear(at)
            row.level_at = at
        return
    if hour - row.level_at // HOUR > settings.learn_days * HOURS_OF_DAY:
        row.clear(at)  # the caller was inactive for longer than is learned
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
    row.hour, row.hour_count, row.hour_alarm = hour, 0, False


def end_hour(row: BehaviorRow) -> None:
    """Learn the pace of the hour. Raise the trust after an hour with enough allowed requests and no alarm."""
    slot = row.hour % HOURS_OF_DAY
    pace, count, weight = row.paces[slot], 16 * row.hour_count, PACE_WEIGHT
    if row.hour_alarm:
        count, weight = max(pace, min(count, 2 * pace)), ALARM_WEIGHT
    if count and not pace:
        row.paces[slot] = min(count, MAX_COUNT)
    elif count >= pace:
        row.paces[slot] = min(pace + (count - pace) // weight, MAX_COUNT)
    else:
        row.paces[slot] = pace - -(-(pace - count) // weight)
    if row.hour_count >= CLEAN_REQUESTS and not row.hour_alarm:
        day = row.hour // HOURS_OF_DAY
        gains = row.gains if row.gain_day == day else 0
        if gains < GAINS_PER_DAY:
            row.trust += 12 * (MILLION - row.trust) // 1_000
            row.gain_day, row.gains = day, gains + 1


def end_day(row: BehaviorRow, settings: ProfileSettings) -> None:
    """Record the ratios of the highest levels of the day to its bases. Margins are learned from these ratios, which are
    rounded up, so that the same level on another day does not exceed a margin that equals its ratio."""
    if row.top_slow and is_ready(row, settings):
        if row.limits_hour != row.hour:
            set_limits(row, settings)
        place = 2 * (row.hour // HOURS_OF_DAY % DAYS_KEPT)
        row.ratios[place] = min(-(-row.top_slow * MARGIN_UNIT // row.base_slow), MAX_SHORT)
        row.ratios[place + 1] = min(-(-row.top_fast * MARGIN_UNIT // row.base_fast), MAX_SHORT)
    row.top_slow = row.top_fast = 0


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


class KnownClass:
    """The model of a class as requests read it: compiled code reads the members of this object directly, but looks up
    each member of `model` by its name."""

    __slots__ = ("_deviations", "grams", "has_tails", "is_ready", "margin_fast", "margin_slow", "model", "seen")

    def __init__(self, model: ClassModel) -> None:
        self.model = model
        self.is_ready = model.is_ready
        self.margin_slow = model.margin_slow
        self.margin_fast = model.margin_fast
        self.seen = model.seen
        self.grams = model.grams
        self.has_tails = bool(model.class_tails)
        self._deviations: DeviationTable | None = None

    @property
    def deviations(self) -> DeviationTable:
        """The deviations by scores."""
        found = self._deviations
        if found is None:
            found = self._deviations = self.model.deviations
        return found


def read_behavior(
    row: BehaviorRow, model: ClassModel, tags: RequestTags, at: int, settings: ProfileSettings
) -> CallerFacts:
    """Return the facts of a request, with the request itself counted. The row must have been advanced to the time of
    the request."""
    return read_facts(row, KnownClass(model), tags, at, settings)


def read_facts(
    row: BehaviorRow, known: KnownClass, tags: RequestTags, at: int, settings: ProfileSettings
) -> CallerFacts:
    """Return the facts as `read_behavior` does."""
    if row.limits_hour != row.hour:
        set_limits(row, settings)
    slow, fast, denied = row.level_slow, row.level_fast, row.level_denied
    if at > row.level_at:
        fall = (at - row.level_at) * row.pace
        slow, fast = slow - SLOW_FACTOR * fall, fast - FAST_FACTOR * fall
        if slow < 0:
            slow = 0
        if fast < 0:
            fast = 0
        if denied:
            denied = max(denied - SLOW_FACTOR * fall, 0)
    slow, fast = slow + LEVEL_UNIT, fast + LEVEL_UNIT
    if slow > MAX_LEVEL or fast > MAX_LEVEL:
        slow, fast = min(slow, MAX_LEVEL), min(fast, MAX_LEVEL)
    endpoint, is_new, has_new_shape = tags.endpoint, False, False
    if not settings.released:
        is_new = endpoint != row.latest_endpoint and endpoint not in row.seen and endpoint not in known.seen
        if tags.shape and not is_new:
            is_new = has_new_shape = is_new_shape(row, known.model, tags.shape)
    automaton, sequence, step = settings.automaton, True, START
    if automaton is not None:
        step = current_step(row, automaton, begins_run(row, at, tags.run, settings))
        sequence = automaton.next(step, tags.letter) != LEFT
    if not known.is_ready or not is_ready(row, settings):
        return CallerFacts(False, 500, False, 0, 0, is_new, slow, fast, denied, 0, 0, sequence, step, has_new_shape)
    margin, burst = known.margin_slow, False
    if margin and not settings.released:
        # Compiled code multiplies large numbers slowly, so the levels themselves are not multiplied.
        burst = slow + denied > PEAK_UNIT * highest_usual(row.base_slow, row.ceiling_slow, margin) // MARGIN_UNIT
        burst = burst or (
            fast > PEAK_UNIT * highest_usual(row.base_fast, row.ceiling_fast, known.margin_fast) // MARGIN_UNIT
        )
    if burst:
        most_slow, most_fast = MAX_CEILINGS * PEAK_UNIT * row.ceiling_slow, MAX_CEILINGS * PEAK_UNIT * row.ceiling_fast
        slow, fast, denied = min(slow, most_slow), min(fast, most_fast), min(denied, most_slow)
    deviation, surprise, own = 0, 0, -1
    if settings.sequences:
        is_first = begins_run(row, at, tags.run, settings)
        context, symbol, grams = 0 if is_first else row.context, symbol_of(endpoint), known.grams
        if grams.total:
            surprise = class_surprise(grams, context, symbol)
        if known.has_tails and not settings.released:
            own = own_surprise(row, context, symbol)
            deviation = read_deviation(row, known.deviations, surprise, own, is_first)
    return CallerFacts(
        True, row.trust // 1_000, burst, mix(row.novelty, is_new) // 1_000, row.errors // 1_000, is_new, slow, fast,
        denied, deviation, surprise, sequence, step, has_new_shape, own,
    )  # fmt: skip


def highest_usual(base: int, ceiling: int, margin: int) -> int:
    """Return the highest level that is not a burst, in sixteenths of a request and units of MARGIN_UNIT."""
    usual, least = base * margin, ceiling * LEAST_LIMIT
    if usual < least:
        return least
    most = ceiling * MAX_LIMIT
    return usual if usual < most else most


def set_limits(row: BehaviorRow, settings: ProfileSettings) -> None:
    """Set the limits that stay the same for an hour: `pace` is the highest pace of this hour of the day and the hours
    before and after it, the ceilings are the highest peaks of the days before today, in sixteenths of a request, and
    the bases follow from the ceilings. Also copy the peaks of today, because an array is read slowly."""
    slot, paces = row.hour % HOURS_OF_DAY, row.paces
    row.pace = max(paces[slot - 1], paces[slot], paces[(slot + 1) % HOURS_OF_DAY], LEAST_PACE)
    day = row.hour // HOURS_OF_DAY
    if row.limits_hour // HOURS_OF_DAY != day:
        slow = fast = LEAST_PEAK
        for each in range(day - min(settings.learn_days, DAYS_KEPT - 1), day):
            place = 2 * (each % DAYS_KEPT)
            slow, fast = max(slow, row.peaks[place]), max(fast, row.peaks[place + 1])
        row.ceiling_slow, row.ceiling_fast = slow, fast
        row.base_slow, row.base_fast = base_of(slow), base_of(fast)
    place = 2 * (day % DAYS_KEPT)
    row.peak_slow, row.peak_fast = row.peaks[place], row.peaks[place + 1]
    row.limits_hour = row.hour


def is_ready(row: BehaviorRow, settings: ProfileSettings) -> bool:
    """Return whether the caller has enough own runs and active days."""
    if row.runs < settings.ready_runs:
        return False
    days = row.days & settings.days_mask
    return BIT_COUNTS[days & HALF_MASK] + BIT_COUNTS[days >> HALF_DAYS] >= settings.ready_days


def current_step(row: BehaviorRow, automaton: SequenceAutomaton, is_first: bool) -> int:
    """Return the state of the automaton before a request: START at the beginning of a run (`is_first`), and in a run
    that began with another automaton."""
    return START if is_first or row.step_machine != automaton.digest else row.step_state


def mix(share: int, hit: bool) -> int:
    """Return a share after one more request, which has a weight of 1/32."""
    return share + ((MILLION if hit else 0) - share) // SHARE_WEIGHT


# ── Events ────────────────────────────────────────────────────────────────────────────────────


def apply_decision(
    row: BehaviorRow,
    reading: CallerFacts,
    tags: RequestTags,
    at: int,
    outcome: int,
    clamped: bool,
    settings: ProfileSettings,
) -> None:
    """Update the row with a decision whose facts were read from the row."""
    is_alarming = reading.is_new and reading.ready
    slow, fast, denied = reading.level_slow, reading.level_fast, reading.level_denied
    peak_slow, peak_fast = slow // PEAK_UNIT, fast // PEAK_UNIT
    row.serial += 1
    if at > row.level_at:
        row.level_at = at
    if is_alarming or row.novelty:
        row.novelty = mix(row.novelty, is_alarming)
    if outcome == DENIED or row.errors:
        row.errors = mix(row.errors, outcome == DENIED)
    if is_alarming or reading.burst:
        raise_alarm(row)
    if not settings.released:
        top_slow = min(slow + denied, MAX_LEVEL) // PEAK_UNIT if denied else peak_slow
        if top_slow > row.top_slow:
            row.top_slow = top_slow
        if peak_fast > row.top_fast:
            row.top_fast = peak_fast
    if outcome != ALLOWED:
        row.level_slow, row.level_fast = slow - LEVEL_UNIT, fast - LEVEL_UNIT
        row.level_denied = min(denied + LEVEL_UNIT, MAX_LEVEL)
        if settings.sequences and reading.ready:
            score_refused(row, reading, tags, at, settings)
        return
    row.level_slow, row.level_fast, row.level_denied = slow, fast, denied
    row.hour_count += 1
    row.days |= 1
    automaton = settings.automaton
    if automaton is not None:
        row.step_state, row.step_machine = automaton.next(reading.step, tags.letter), automaton.digest
    elif row.step_machine:
        row.step_state, row.step_machine = START, NO_MACHINE
    count_run(row, at, tags.run, settings)
    if not row.ready_day and is_ready(row, settings):
        row.ready_day = min(row.hour // HOURS_OF_DAY, MAX_SHORT)
    if settings.sequences:
        apply_sequence(row, reading, tags, clamped, settings)
    learn_endpoint(row, tags.endpoint)
    if tags.shape:
        learn_shape(row, tags.shape)
    if reading.ready and not settings.released:
        peak_slow = learned_part(peak_slow, row.ceiling_slow, clamped)
        peak_fast = learned_part(peak_fast, row.ceiling_fast, clamped)
    if row.limits_hour != row.hour:
        set_limits(row, settings)
    if peak_slow > row.peak_slow or peak_fast > row.peak_fast:
        learn_peaks(row, peak_slow, peak_fast)


def learn_peaks(row: BehaviorRow, slow: int, fast: int) -> None:
    """Learn levels that are the highest of the day."""
    if slow > row.peak_slow:
        row.peak_slow = slow
    if fast > row.peak_fast:
        row.peak_fast = fast
    row.has_new_peaks = True


def apply_failure(row: BehaviorRow) -> None:
    """Update the row with the report that an allowed request failed."""
    row.serial += 1
    row.errors = min(row.errors + MILLION // SHARE_WEIGHT, MILLION)


def raise_alarm(row: BehaviorRow) -> None:
    """Lower the trust, at most once an hour, and mark the hour."""
    if row.fall_hour != row.hour:
        row.fall_hour, row.trust = row.hour, 3 * row.trust // 10
    row.hour_alarm = True


def begins_run(row: BehaviorRow, at: int, run: int, settings: ProfileSettings) -> bool:
    """Return whether a request begins a new run, because no run has begun or the latest one has ended."""
    return not row.run_length or run != row.run_tag or at - row.run_last > settings.run_idle


def count_run(row: BehaviorRow, at: int, run: int, settings: ProfileSettings) -> None:
    """Count the request in its run. If it begins a new run, first count the previous run as complete."""
    if row.run_length and begins_run(row, at, run, settings):
        row.run_length = 0
        row.runs = min(row.runs + 1, MAX_SHORT)
        end_score(row)
        row.context = 0
    row.run_tag = run
    if at > row.run_last:
        row.run_last = at
    if row.run_length < MAX_SHORT:
        row.run_length += 1


def learn_endpoint(row: BehaviorRow, endpoint: int) -> None:
    """Remember that the caller uses the endpoint. If there are too many, drop the least recently used endpoint."""
    day = row.hour // HOURS_OF_DAY
    if endpoint == row.latest_endpoint and day == row.latest_day:
        return
    seen = row.seen
    if len(seen) >= MAX_SEEN and endpoint not in seen:
        drop_oldest(seen)
    seen[endpoint] = day
    row.latest_endpoint, row.latest_day = endpoint, day


def drop_oldest(seen: dict[int, int]) -> None:
    """Drop the least recently used endpoint. It is a function of its own, because compiled code makes an object for the
    names that a lambda reads at each call."""
    del seen[min(seen, key=lambda tag: (seen[tag], tag))]


def learned_part(level: int, ceiling: int, clamped: bool) -> int:
    """Return the peak that is learned from a level: the level itself up to the ceiling, plus an eighth of the part
    above the ceiling, or nothing of that part under a clamp."""
    if level <= ceiling:
        return level
    return ceiling if clamped else ceiling + min(level - ceiling, ceiling) // MAX_GROWTH


# ── Sequences ─────────────────────────────────────────────────────────────────────────────────


def read_deviation(row: BehaviorRow, table: DeviationTable, request: int, own: int, is_first: bool) -> int:
    """Return the deviation of a run with this request, in thousandths, by its scores: the largest surprise to the
    class, and the largest excess of the surprises to the caller over those to the class in any part of the run. A
    surprise to the class counts up to MAX_EXPECTED. Without this limit, the usual steps of a caller, which may surprise
    the class, could offset a step that surprises both the caller and the class. `request` and `own` are the surprises
    of the request to the class and to the caller."""
    scored, worst, excess, surprise = 1, 0, 0, request
    if not is_first:
        scored, worst, excess = row.scored + 1, row.worst, row.excess
        if row.surprise > surprise:
            surprise = row.surprise
    excess += own - (request if request < MAX_EXPECTED else MAX_EXPECTED)
    if excess > worst:
        worst = excess
    first = SCORE_BUCKETS * (SCORE_LENGTHS * maturity(row) + (0 if scored <= SHORT_RUN else 1))
    bucket, own_bucket = surprise // SURPRISE_STEP, worst // EXCESS_STEP
    by_class = table.by_class[first + (bucket if bucket < SCORE_BUCKETS else SCORE_BUCKETS - 1)]
    by_caller = table.by_caller[first + (own_bucket if own_bucket < SCORE_BUCKETS else SCORE_BUCKETS - 1)]
    return by_class if by_class > by_caller else by_caller


def maturity(row: BehaviorRow) -> int:
    """Return the class of a caller by its number of runs, because the scores of a caller fall as more of its runs are
    learned."""
    if row.runs < MATURE_RUNS[0]:
        return 0
    return 1 if row.runs < MATURE_RUNS[1] else 2


def apply_sequence(
    row: BehaviorRow, reading: CallerFacts, tags: RequestTags, clamped: bool, settings: ProfileSettings
) -> None:
    """Score an allowed request, and learn its sequence of endpoints."""
    symbol = symbol_of(tags.endpoint)
    if reading.ready:
        score_request(row, reading, symbol)
    is_learned = not row.is_flagged or settings.released or row.runs % LEARNED_PART == 0
    if is_learned and not (clamped and reading.ready):  # callers that are not ready may be clamped for days
        learn_grams(row, row.context, symbol)
    row.context = extend_context(row.context, symbol)


def score_request(row: BehaviorRow, reading: CallerFacts, symbol: int) -> None:
    """Score a request of a ready caller, before it is learned."""
    if row.scored >= MAX_SCORED:
        end_score(row)
    row.scored += 1
    if reading.surprise > row.surprise:
        row.surprise = reading.surprise
    own = reading.own_surprise  # computed from the same row and context
    if own < 0:
        own = own_surprise(row, row.context, symbol)
    excess = row.excess + own - min(reading.surprise, MAX_EXPECTED)
    row.excess = excess if excess > 0 else 0
    if row.excess > row.worst:
        row.worst = min(row.excess, MAX_SHORT)
    if row.scored == SHORT_RUN:
        add_score(row, 0)
    if reading.deviation >= FLAGGED:
        row.is_flagged = True


def score_refused(
    row: BehaviorRow, reading: CallerFacts, tags: RequestTags, at: int, settings: ProfileSettings
) -> None:
    """Score a request that was not allowed: it is not learned, but its score counts. Otherwise high scores would be
    missing where a rule denies their requests, and more and more runs would have a high rank."""
    is_flagged = reading.deviation >= FLAGGED
    if not begins_run(row, at, tags.run, settings):
        excess = row.excess + own_surprise(row, row.context, symbol_of(tags.endpoint))
        excess -= min(reading.surprise, MAX_EXPECTED)
        row.surprise = max(row.surprise, reading.surprise)
        row.worst = min(max(row.worst, excess), MAX_SHORT)
        row.is_flagged = row.is_flagged or is_flagged
    elif not is_flagged or row.serial % LEARNED_PART == 0:
        own = own_surprise(row, 0, symbol_of(tags.endpoint))
        excess = max(own - min(reading.surprise, MAX_EXPECTED), 0)
        put_score(row, 0, reading.surprise, excess, LEARNED_PART if is_flagged else 1)


def end_score(row: BehaviorRow) -> None:
    """Count the scores of a run, or of a part of it, and begin new scores."""
    count_score(row)
    row.scored = row.surprise = row.excess = row.worst = 0
    row.is_flagged = False


def count_score(row: BehaviorRow) -> None:
    """Count the scores of the run that ended, or of a part of it."""
    if row.scored > SHORT_RUN:
        add_score(row, 1)
    elif 0 < row.scored < SHORT_RUN:
        add_score(row, 0)


def add_score(row: BehaviorRow, length: int) -> None:
    """Count the scores of the run so far, in the class of its length. Only one in LEARNED_PART flagged runs is counted,
    but with that weight, so that the shares of high scores are right."""
    if not row.is_flagged or row.runs % LEARNED_PART == 0:
        put_score(row, length, row.surprise, row.worst, LEARNED_PART if row.is_flagged else 1)


def put_score(row: BehaviorRow, length: int, surprise: int, worst: int, times: int) -> None:
    """Count a score to the class and a score to the caller, each with the weight `times`."""
    to_class = length * SCORE_BUCKETS + min(surprise // SURPRISE_STEP, SCORE_BUCKETS - 1)
    own = (SCORE_LENGTHS + length) * SCORE_BUCKETS + min(worst // EXCESS_STEP, SCORE_BUCKETS - 1)
    if max(row.scores[to_class], row.scores[own]) > MAX_SCORE_COUNT - times:
        for place in range(len(row.scores)):
            row.scores[place] >>= 1
    row.scores[to_class] += times
    row.scores[own] += times
