"""The row of a caller: everything that is known about its behavior, as integers that take at most ROW_BYTES when
packed.

Times are milliseconds since 1970; an hour or a day is its number since 1970, in UTC. Shares are in millionths.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Final

HOUR: Final = 3_600_000  # milliseconds
HOURS_OF_DAY: Final = 24
DAYS_KEPT: Final = 28
MILLION: Final = 1_000_000
NEW_TRUST: Final = 500_000
MAX_SEEN: Final = 56  # maximum endpoints of a caller
ROW_BYTES: Final = 2_048  # maximum size of a packed row, including what rows will contain about sequences and payloads
ROW_VERSION: Final = 1
MAX_COUNT: Final = 2**32 - 1
MAX_SHORT: Final = 2**16 - 1
MAX_LEVEL: Final = 2**53 - 1  # units; exact in a double
MAX_HOUR: Final = (MAX_SHORT + 1) * HOURS_OF_DAY - 1  # days have 16 bits

_HEAD = Struct("<B?BBQQIIIIIIIIQHHIIIQQQ")
_PACES = Struct(f"<{HOURS_OF_DAY}I")
_PEAKS = Struct(f"<{2 * DAYS_KEPT}I")
_RATIOS = Struct(f"<{2 * DAYS_KEPT}H")
_SEEN = Struct("<IH")
_NO_PACES = (0,) * HOURS_OF_DAY
_NO_DAYS = (0,) * (2 * DAYS_KEPT)
_FIXED = _HEAD.size + _PACES.size + _PEAKS.size + _RATIOS.size


class RowError(Exception):
    """The error for a packed row that is damaged or has another version; the text says why."""


class BehaviorRow:
    """Learned data about a caller.

    `serial` counts the folded events. `trust`, `novelty` and `errors` are shares. `hour` is the latest hour to which
    the row was advanced, with the number of its allowed requests (`hour_count`) and whether it had an alarm
    (`hour_alarm`). `gain_day` is the day of the latest gains of trust, `gains` their number, and `fall_hour` the hour
    of the latest loss. Bit n of `days` is whether the caller was active n days before the day of `hour`.

    The latest run has the tag of its key (`run_tag`), the time of its last request (`run_last`) and its length
    (`run_length`). `paces` are the requests in each hour of the day, in 1/16. `peaks` are the learned levels of each
    day, slow and fast, in 1/16 of a request; day d has the indexes `2 * (d % DAYS_KEPT)` and the next. `top_slow` and
    `top_fast` are the highest levels of today, learned or not. `ratios` are the highest levels of each earlier day
    relative to the peaks of the days before it, in 1/1024, with the same indexes; 0 if the caller was not ready.
    `level_slow` and `level_fast` are the levels of the leaky buckets of allowed requests at `level_at`, the time of the
    latest event; `level_denied` is the level of the bucket of all other requests. `seen` contains the tags of used
    endpoints, with the day of their latest use.

    `pace`, `ceiling_slow` and `ceiling_fast` are computed from the other fields for the hour `limits_hour`, and are not
    packed.
    """

    __slots__ = (
        "ceiling_fast", "ceiling_slow", "days", "errors", "fall_hour", "gain_day", "gains", "hour", "hour_alarm",
        "hour_count", "level_at", "level_denied", "level_fast", "level_slow", "limits_hour", "novelty",
        "pace", "paces", "peaks", "ratios", "run_last", "run_length", "run_tag", "runs", "seen", "serial", "top_fast",
        "top_slow", "trust",
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
        self.peaks = array("I", _NO_DAYS)
        self.ratios = array("H", _NO_DAYS)
        self.top_slow = 0
        self.top_fast = 0
        self.level_slow = 0
        self.level_fast = 0
        self.level_denied = 0
        self.seen: dict[int, int] = {}
        self.limits_hour = -1
        self.pace = 0
        self.ceiling_slow = 0
        self.ceiling_fast = 0

    def copy(self) -> BehaviorRow:
        return unpack_row(pack_row(self))

    def successor(self) -> BehaviorRow:
        """Return the first row of a new version of the caller. It starts with the paces, peaks and endpoints of this
        row, but without the runs and days that make a caller ready, and with at most the trust of a new caller."""
        row = self.copy()
        row.serial = row.runs = row.days = row.run_length = row.top_slow = row.top_fast = 0
        row.ratios = array("H", _NO_DAYS)
        row.trust = min(row.trust, NEW_TRUST)
        return row


def pack_row(row: BehaviorRow) -> bytes:
    """Pack a row; equal rows have equal bytes."""
    head = _HEAD.pack(
        ROW_VERSION, row.hour_alarm, len(row.seen), row.gains, row.level_at, row.serial, row.trust, row.novelty,
        row.errors, row.hour, row.hour_count, row.gain_day, row.fall_hour, row.days, row.run_last,
        row.runs, row.run_length, row.run_tag, row.top_slow, row.top_fast, row.level_slow, row.level_fast,
        row.level_denied,
    )  # fmt: skip
    seen = b"".join([_SEEN.pack(tag, row.seen[tag]) for tag in sorted(row.seen)])
    return head + _PACES.pack(*row.paces) + _PEAKS.pack(*row.peaks) + _RATIOS.pack(*row.ratios) + seen


def unpack_row(raw: bytes) -> BehaviorRow:
    """Unpack a row that `pack_row` packed. Raises RowError."""
    if raw[:1] != bytes((ROW_VERSION,)):
        raise RowError("the row has an unsupported version")
    if len(raw) < _FIXED:
        raise RowError("the row is cut off")
    row = BehaviorRow(0)
    (
        _, row.hour_alarm, count, row.gains, row.level_at, row.serial, row.trust, row.novelty,
        row.errors, row.hour, row.hour_count, row.gain_day, row.fall_hour, row.days, row.run_last,
        row.runs, row.run_length, row.run_tag, row.top_slow, row.top_fast, row.level_slow, row.level_fast,
        row.level_denied,
    ) = _HEAD.unpack_from(raw)  # fmt: skip
    if count > MAX_SEEN or len(raw) != _FIXED + count * _SEEN.size:
        raise RowError("the length of the row does not match its number of endpoints")
    if raw[1] > 1:
        raise RowError("the alarm flag of the row is neither 0 nor 1")
    if max(row.trust, row.novelty, row.errors) > MILLION:
        raise RowError("a share in the row is greater than 1")
    if max(row.level_slow, row.level_fast, row.level_denied) > MAX_LEVEL:
        raise RowError("a level in the row exceeds the maximum")
    if row.days >> DAYS_KEPT or row.hour > MAX_HOUR:
        raise RowError("a time in the row is out of range")
    at = _HEAD.size
    row.paces = array("I", _PACES.unpack_from(raw, at))
    at += _PACES.size
    row.peaks = array("I", _PEAKS.unpack_from(raw, at))
    row.ratios = array("H", _RATIOS.unpack_from(raw, at + _PEAKS.size))
    row.seen = dict(_SEEN.iter_unpack(raw[_FIXED:]))
    if list(row.seen) != sorted(row.seen) or len(row.seen) != count:
        raise RowError("the endpoints of the row are not in order")
    return row
