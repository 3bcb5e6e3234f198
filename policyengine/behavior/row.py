"""The row of a caller: everything that is known about its behavior, as integers that take at most ROW_BYTES when
packed.

Times are milliseconds since 1970; an hour or a day is its number since 1970, in UTC. Shares are in millionths.
"""

from __future__ import annotations

from array import array
from math import isqrt
from struct import Struct
from typing import Final

HOUR: Final = 3_600_000  # milliseconds
HOURS_OF_DAY: Final = 24
DAYS_KEPT: Final = 28
MILLION: Final = 1_000_000
NEW_TRUST: Final = 500_000
MAX_SEEN: Final = 56  # maximum endpoints of a caller
MAX_SHAPES: Final = 24  # maximum structures of payloads of a caller
GRAM_SETS: Final = 76
GRAM_WAYS: Final = 4  # entries of a set
GRAM_ENTRIES: Final = GRAM_SETS * GRAM_WAYS
SCORE_BUCKETS: Final = 24
SCORE_LENGTHS: Final = 2  # classes of lengths of runs
SCORE_COUNTS: Final = 2 * SCORE_LENGTHS * SCORE_BUCKETS
ROW_BYTES: Final = 2_048  # maximum size of a packed row
ROW_VERSION: Final = 5
ROW_VERSIONS: Final = (1, 2, 3, 4, ROW_VERSION)  # those that can be read
LEAST_PEAK: Final = 4 * 16  # 4 requests, which are never a burst
USUAL_DAYS: Final = 14  # of learning, if a profile says nothing else
MAX_COUNT: Final = 2**32 - 1
MAX_SHORT: Final = 2**16 - 1
MAX_LEVEL: Final = 2**53 - 1  # units; exact in a double
MAX_HOUR: Final = (MAX_SHORT + 1) * HOURS_OF_DAY - 1  # days have 16 bits

_HEAD_1 = Struct("<B?BBQQIIIIIIIIQHHIIIQQQ")
_SEQUENCE = Struct("<QHHiHHB?HB?")
_READY = Struct("<H")
_PACES = Struct(f"<{HOURS_OF_DAY}I")
_PEAKS = Struct(f"<{2 * DAYS_KEPT}I")
_RATIOS = Struct(f"<{2 * DAYS_KEPT}H")
_TAG = Struct("<IH")
_GRAMS = Struct(f"<{GRAM_ENTRIES}H{GRAM_ENTRIES}s")
_NO_PACES = (0,) * HOURS_OF_DAY
_NO_DAYS = (0,) * (2 * DAYS_KEPT)
_FIXED_1 = _HEAD_1.size + _PACES.size + _PEAKS.size + _RATIOS.size
_FIXED_2 = _FIXED_1 + _SEQUENCE.size + SCORE_COUNTS
_FIXED_3 = _FIXED_2 + _READY.size
_FIXED = {
    1: _FIXED_1,
    2: _FIXED_2,
    3: _FIXED_3,
    4: _FIXED_3,
    ROW_VERSION: _FIXED_3,
}  # bytes before the tables, by version
_NO_SCORES = bytes(SCORE_COUNTS)


class RowError(Exception):
    """The error for a packed row that is damaged or has another version; the text says why."""


class BehaviorRow:
    """Learned data about a caller.

    `serial` counts the folded events. `trust`, `novelty` and `errors` are shares. `hour` is the latest hour to which
    the row was advanced, with the number of its allowed requests (`hour_count`) and whether it had an alarm
    (`hour_alarm`). `gain_day` is the day of the latest gains of trust, `gains` their number, and `fall_hour` the hour
    of the latest loss. Bit n of `days` is set if the caller was active n days before the day of `hour`.

    The latest run has the tag of its key (`run_tag`), the time of its last request (`run_last`) and its length
    (`run_length`). `paces` are the requests in each hour of the day, in 1/16. `peaks` are the learned levels of each
    day, slow and fast, in 1/16 of a request; day d has the indexes `2 * (d % DAYS_KEPT)` and the next. `top_slow` and
    `top_fast` are the highest levels of today, learned or not. `ratios` are the highest levels of each earlier day
    relative to the bases of that day (`base_of`), in 1/1024, with the same indexes; 0 if the caller was not ready.
    `level_slow` and `level_fast` are the levels of the leaky buckets of allowed requests at `level_at`, the time of the
    latest event; `level_denied` is the level of the bucket of all other requests. `seen` contains the tags of used
    endpoints, with the day of their latest use, and `shapes` those of the structures of payloads.

    `grams` and `gram_counts` are the table of sequences of endpoints (`behavior/grams.py`): each sequence has a 16-bit
    tag; empty if no sequence was learned. `gram_total` is the number of learned requests, halved together with the
    counts. `context` has the symbols of the previous requests of the run, the latest in the lowest 16 bits.

    The scored part of the latest run has `scored` requests; `surprise` is its largest surprise to the class. `excess`
    is the sum of the surprises to the caller minus those to the class, which begins again at 0 where it is negative,
    and `worst` is its largest value. `is_flagged` says whether the run was unusual, so that little of it is learned.
    `scores` counts the scores of earlier runs in buckets: those to the class for each class of lengths, then those to
    the caller.

    `step_state` is the state of the automaton of the declared order of calls, and `step_machine` its digest.

    `ready_day` is the day on which the caller had enough own runs and active days for the first time; 0 if it never
    had. A new version of the caller keeps it.

    `pace`, the ceilings and the bases are computed from the other fields for the hour `limits_hour`; `peak_slow` and
    `peak_fast` are the peaks of its day, and `has_new_peaks` says whether `peaks` still lacks them. `latest_endpoint`
    is the endpoint that was learned last, and `latest_day` its day in `seen`; -1 if unknown. They are not packed.
    """

    __slots__ = (
        "_peaks", "base_fast", "base_slow", "ceiling_fast", "ceiling_slow", "context", "days", "errors", "excess",
        "fall_hour", "gain_day", "gains", "gram_counts", "gram_total", "grams", "has_new_peaks", "hour", "hour_alarm",
        "hour_count", "is_flagged", "latest_day", "latest_endpoint", "level_at", "level_denied", "level_fast",
        "level_slow", "limits_hour", "novelty", "pace", "paces", "peak_fast", "peak_slow", "ratios",
        "ready_day", "run_last", "run_length", "run_tag", "runs", "scored", "scores", "seen", "serial", "shapes",
        "step_machine", "step_state", "surprise", "top_fast", "top_slow", "trust", "worst",
    )  # fmt: skip

    def __init__(self, at: int) -> None:
        self.serial = 0
        self.level_at = at
        self.clear(at)

    def clear(self, at: int) -> None:
        """Forget everything except the number of events and the time of the latest event."""
        self.trust = NEW_TRUST
        self.novelty = 0
        self.errors = 0
        self.hour = at // HOUR
        self.hour_count = 0
        self.hour_alarm = False
        self.gain_day = 0
        self.gains = 0
        self.fall_hour = 0
        self.days = 0
        self.runs = 0
        self.run_tag = 0
        self.run_last = 0
        self.run_length = 0
        self.paces = array("I", _NO_PACES)  # arrays take much less memory than lists
        self._peaks = array("I", _NO_DAYS)
        self.has_new_peaks = False
        self.ratios = array("H", _NO_DAYS)
        self.top_slow = 0
        self.top_fast = 0
        self.level_slow = 0
        self.level_fast = 0
        self.level_denied = 0
        self.seen: dict[int, int] = {}
        self.latest_endpoint = -1
        self.latest_day = -1
        self.shapes: dict[int, int] = {}
        self.grams = array("H")
        self.gram_counts = bytearray()
        self.gram_total = 0
        self.context = 0
        self.scored = 0
        self.surprise = 0
        self.excess = 0
        self.worst = 0
        self.is_flagged = False
        self.scores = bytearray(_NO_SCORES)
        self.step_state = 0
        self.step_machine = 0
        self.ready_day = 0
        self.limits_hour = -1
        self.pace = 0
        self.ceiling_slow = 0
        self.ceiling_fast = 0
        self.base_slow = 0
        self.base_fast = 0
        self.peak_slow = 0
        self.peak_fast = 0

    @property
    def peaks(self) -> array[int]:
        """The learned levels of each day. Those of today are put into the array when it is read, because most of them
        are soon replaced, and putting a number into an array is slow."""
        if self.has_new_peaks:
            place = 2 * (self.limits_hour // HOURS_OF_DAY % DAYS_KEPT)
            self._peaks[place], self._peaks[place + 1] = self.peak_slow, self.peak_fast
            self.has_new_peaks = False
        return self._peaks

    @peaks.setter
    def peaks(self, peaks: array[int]) -> None:
        self._peaks, self.has_new_peaks = peaks, False

    def copy(self) -> BehaviorRow:
        """Return a row with the same content."""
        row = BehaviorRow(self.level_at)
        row.serial, row.trust, row.novelty, row.errors = self.serial, self.trust, self.novelty, self.errors
        row.hour, row.hour_count, row.hour_alarm = self.hour, self.hour_count, self.hour_alarm
        row.gain_day, row.gains, row.fall_hour, row.days = self.gain_day, self.gains, self.fall_hour, self.days
        row.runs, row.run_tag, row.run_last = self.runs, self.run_tag, self.run_last
        row.run_length, row.ready_day = self.run_length, self.ready_day
        row.paces, row.peaks, row.ratios = self.paces[:], self.peaks[:], self.ratios[:]
        row.top_slow, row.top_fast = self.top_slow, self.top_fast
        row.level_slow, row.level_fast, row.level_denied = self.level_slow, self.level_fast, self.level_denied
        row.seen, row.shapes = self.seen.copy(), self.shapes.copy()
        row.grams, row.gram_counts, row.gram_total = self.grams[:], self.gram_counts[:], self.gram_total
        row.context, row.scored, row.surprise = self.context, self.scored, self.surprise
        row.excess, row.worst, row.is_flagged, row.scores = self.excess, self.worst, self.is_flagged, self.scores[:]
        row.step_state, row.step_machine = self.step_state, self.step_machine
        return row

    def successor(self) -> BehaviorRow:
        """Return the first row of a new version of the caller. It starts with the paces, peaks, endpoints, payloads and
        sequences of this row, but without the runs and days that make a caller ready, and with at most the trust of a
        new caller."""
        row = self.copy()
        row.serial = row.runs = row.days = row.run_length = row.top_slow = row.top_fast = 0
        row.context = row.scored = row.surprise = row.excess = row.worst = row.step_state = row.step_machine = 0
        row.is_flagged, row.scores = False, bytearray(_NO_SCORES)
        row.ratios = array("H", _NO_DAYS)
        row.trust = min(row.trust, NEW_TRUST)
        return row


def pack_row(row: BehaviorRow) -> bytes:
    """Pack a row; equal rows have equal bytes."""
    head = _HEAD_1.pack(
        ROW_VERSION, row.hour_alarm, len(row.seen), row.gains, row.level_at, row.serial, row.trust, row.novelty,
        row.errors, row.hour, row.hour_count, row.gain_day, row.fall_hour, row.days, row.run_last,
        row.runs, row.run_length, row.run_tag, row.top_slow, row.top_fast, row.level_slow, row.level_fast,
        row.level_denied,
    )  # fmt: skip
    sequence = _SEQUENCE.pack(
        row.context, row.gram_total, row.surprise, row.excess, row.worst, row.step_state, row.scored, row.is_flagged,
        row.step_machine, len(row.shapes), bool(row.grams),
    )  # fmt: skip
    days = _PACES.pack(*row.paces) + _PEAKS.pack(*row.peaks) + _RATIOS.pack(*row.ratios)
    grams = _GRAMS.pack(*row.grams, bytes(row.gram_counts)) if row.grams else b""
    tags = b"".join([_TAG.pack(tag, each[tag]) for each in (row.seen, row.shapes) for tag in sorted(each)])
    return b"".join((head, sequence, days, row.scores, _READY.pack(row.ready_day), grams, tags))


def unpack_row(raw: bytes) -> BehaviorRow:
    """Unpack a row that `pack_row` packed, or that an earlier version packed: version 1 had no sequences, version 2 no
    `ready_day`, versions 2 and 3 computed the scores to the caller differently, and versions 1 to 4 the ratios. Raises
    RowError."""
    version = raw[0] if raw else 0
    if version not in ROW_VERSIONS:
        raise RowError("the row has an unsupported version")
    fixed = _FIXED[version]
    if len(raw) < fixed:
        raise RowError("the row is cut off")
    row, shapes, has_grams = BehaviorRow(0), 0, False
    (
        _, row.hour_alarm, count, row.gains, row.level_at, row.serial, row.trust, row.novelty,
        row.errors, row.hour, row.hour_count, row.gain_day, row.fall_hour, row.days, row.run_last,
        row.runs, row.run_length, row.run_tag, row.top_slow, row.top_fast, row.level_slow, row.level_fast,
        row.level_denied,
    ) = _HEAD_1.unpack_from(raw)  # fmt: skip
    at = _HEAD_1.size
    if version > 1:
        (
            row.context, row.gram_total, row.surprise, row.excess, row.worst, row.step_state, row.scored,
            row.is_flagged, row.step_machine, shapes, has_grams,
        ) = _SEQUENCE.unpack_from(raw, at)  # fmt: skip
        at += _SEQUENCE.size
    grams = _GRAMS.size if has_grams else 0
    if count > MAX_SEEN or shapes > MAX_SHAPES or len(raw) != fixed + grams + (count + shapes) * _TAG.size:
        raise RowError("the length of the row does not match the numbers of its endpoints and payloads")
    if raw[1] > 1:
        raise RowError("the alarm flag of the row is neither 0 nor 1")
    if max(row.trust, row.novelty, row.errors) > MILLION:
        raise RowError("a share in the row is greater than 1")
    if max(row.level_slow, row.level_fast, row.level_denied) > MAX_LEVEL:
        raise RowError("a level in the row exceeds the maximum")
    if row.days >> DAYS_KEPT or row.hour > MAX_HOUR:
        raise RowError("a time in the row is out of range")
    row.paces = array("I", _PACES.unpack_from(raw, at))
    at += _PACES.size
    row.peaks = array("I", _PEAKS.unpack_from(raw, at))
    row.ratios = array("H", _RATIOS.unpack_from(raw, at + _PEAKS.size))
    if version > 1:
        row.scores = bytearray(raw[_FIXED_2 - SCORE_COUNTS : _FIXED_2])
    if version < 4:
        row.scores[SCORE_COUNTS // 2 :] = _NO_SCORES[SCORE_COUNTS // 2 :]
        row.excess = row.worst = 0
    if version > 2:
        (row.ready_day,) = _READY.unpack_from(raw, _FIXED_2)
    if has_grams:
        *tags, counts = _GRAMS.unpack_from(raw, fixed)
        row.grams, row.gram_counts = array("H", tags), bytearray(counts)
    row.seen = unpack_tags(raw, fixed + grams, count)
    row.shapes = unpack_tags(raw, fixed + grams + count * _TAG.size, shapes)
    if version < ROW_VERSION:
        convert_ratios(row)
    return row


def base_of(ceiling: int) -> int:
    """Return the base with which levels are compared: for a ceiling of n times LEAST_PEAK, LEAST_PEAK times n to the
    power of 3/4. The highest levels of callers with high ceilings are relatively lower than those of other callers in
    their class, because a ceiling is partly chance."""
    return isqrt(isqrt(ceiling**3 * LEAST_PEAK))


def convert_ratios(row: BehaviorRow) -> None:
    """Convert ratios that are relative to the ceilings of their days to ratios that are relative to the bases of these
    days."""
    today = row.hour // HOURS_OF_DAY
    for day in range(today - DAYS_KEPT + 1, today + 1):
        for place in (2 * (day % DAYS_KEPT), 2 * (day % DAYS_KEPT) + 1):
            ratio, ceiling = row.ratios[place], LEAST_PEAK
            if ratio:
                for earlier in range(max(day - USUAL_DAYS, today - DAYS_KEPT + 1), day):
                    ceiling = max(ceiling, row.peaks[2 * (earlier % DAYS_KEPT) + place % 2])
                row.ratios[place] = min(-(-ratio * ceiling // base_of(ceiling)), MAX_SHORT)


def unpack_tags(raw: bytes, at: int, count: int) -> dict[int, int]:
    """Unpack tags with their days from an offset. Raises RowError."""
    found = dict(_TAG.iter_unpack(raw[at : at + count * _TAG.size]))
    if list(found) != sorted(found) or len(found) != count:
        raise RowError("the tags of the row are not in order")
    return found
