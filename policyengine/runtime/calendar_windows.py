"""Time windows. The wall clock of a window's zone decides whether an instant lies in the window.

Every window is half-open: it includes its start but not its end. Because the wall clock decides, a daily window is an
hour longer or shorter on the day of a clock change, a skipped time never occurs, and a repeated time occurs twice. An
absolute window of whole dates (`2026-12-24..2027-01-02`) includes both days; with times it is half-open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib import resources
from typing import TypeAlias, assert_never
from zoneinfo import ZoneInfo

from policyengine.diagnostics.suggest import did_you_mean
from policyengine.runtime.structure_checks import quote_input
from policyengine.time_formats import parse_time, to_utc
from policyengine.vocabulary import DAYS

MINUTES_PER_DAY = 24 * 60
CITY_CUTOFF = 0.6  # `Berlin` means `Europe/Berlin`
CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
LOCAL_TIME = re.compile(rf"{DATE.pattern}T[0-9]{{2}}:[0-9]{{2}}(?::[0-9]{{2}})?")


@dataclass(frozen=True, slots=True)
class Daily:
    """A daily window, `mon..fri 08:00..18:00`; `days` None means every day. A window that ends at or before its start
    continues past midnight and belongs to the day on which it starts.
    """

    days: frozenset[int] | None
    start_minute: int
    end_minute: int
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Weekly:
    """A weekly span, `fri 16:00..mon 08:00`; if start and end are equal, it is the whole week."""

    start_day: int
    start_minute: int
    end_day: int
    end_minute: int
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class WholeDays:
    """Whole days of the week, `sat..sun`."""

    days: frozenset[int]
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Absolute:
    """A window between two aware instants; `zone` is the zone in which they were written."""

    start: datetime
    end: datetime
    zone: ZoneInfo


Window: TypeAlias = Daily | Weekly | WholeDays | Absolute


def contains(window: Window, instant: datetime) -> bool:
    """Return whether an aware instant lies in the window."""
    match window:
        case Daily():
            return in_daily(window, instant.astimezone(window.zone))
        case Weekly():
            return in_weekly(window, instant.astimezone(window.zone))
        case WholeDays():
            return instant.astimezone(window.zone).weekday() in window.days
        case Absolute():
            return window.start.astimezone(UTC) <= instant.astimezone(UTC) < window.end.astimezone(UTC)
        case _:
            assert_never(window)


def in_daily(window: Daily, local: datetime) -> bool:
    minute = minute_of_day(local)
    today = window.days is None or local.weekday() in window.days
    if window.start_minute < window.end_minute:
        return today and window.start_minute <= minute < window.end_minute
    yesterday = window.days is None or (local.weekday() - 1) % 7 in window.days
    return (today and minute >= window.start_minute) or (yesterday and minute < window.end_minute)


def in_weekly(window: Weekly, local: datetime) -> bool:
    now = local.weekday() * MINUTES_PER_DAY + minute_of_day(local)
    start = window.start_day * MINUTES_PER_DAY + window.start_minute
    end = window.end_day * MINUTES_PER_DAY + window.end_minute
    return start <= now < end if start < end else now >= start or now < end


def minute_of_day(local: datetime) -> int:
    return local.hour * 60 + local.minute


# ── Parsing windows ───────────────────────────────────────────────────────────────


def days_between(first: str, last: str) -> frozenset[int] | None:
    """Return the days of `fri..mon` (friday to monday); None if a word is not a day."""
    if first not in DAYS or last not in DAYS:
        return None
    start = DAYS.index(first)
    count = (DAYS.index(last) - start) % 7 + 1
    return frozenset((start + step) % 7 for step in range(count))


def parse_clock(text: str) -> int | None:
    """Parse `08:00` to minutes since midnight; `24:00` is the end of a day. None if invalid."""
    match = CLOCK.fullmatch(text)
    if match is None:
        return None
    return MINUTES_PER_DAY if text == "24:00" else int(match[1]) * 60 + int(match[2])


def parse_absolute_window(start: str, end: str, zone: ZoneInfo) -> Absolute | None:
    """Parse a window from two dates or times; an end without a time includes that day. None if one is invalid."""
    first = parse_moment(start, zone)
    last = next_day(end, zone) if DATE.fullmatch(end) else parse_moment(end, zone)
    return None if first is None or last is None else Absolute(first, last, zone)


def parse_moment(text: str, zone: ZoneInfo) -> datetime | None:
    """Parse a date (its first moment) or a time to UTC; `zone` applies if the text has none. None if invalid."""
    try:
        if DATE.fullmatch(text):
            return to_utc(datetime.combine(date.fromisoformat(text), time(), zone))
        if LOCAL_TIME.fullmatch(text):
            return to_utc(datetime.fromisoformat(text).replace(tzinfo=zone))
    except (ValueError, OverflowError):  # an invalid day, or a time outside the calendar
        return None
    return parse_time(text)


def next_day(text: str, zone: ZoneInfo) -> datetime | None:
    try:
        following = date.fromisoformat(text) + timedelta(days=1)
        return to_utc(datetime.combine(following, time(), zone))
    except (ValueError, OverflowError):
        return None


# ── Zones ─────────────────────────────────────────────────────────────────────────────────────


class ZoneError(Exception):
    """The error for a name that is not a time zone."""

    def __init__(self, message: str, hint: str | None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message)


def load_zone(name: str) -> ZoneInfo:
    """Return the zone of a plain IANA name, spelled exactly. Raises ZoneError for any other name, even if this system
    has such a zone.
    """
    if name not in iana_names():
        raise ZoneError(f"unknown time zone `{quote_input(name)}`", did_you_mean(name, iana_names(), CITY_CUTOFF))
    return ZoneInfo(name)


@cache
def iana_names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())
