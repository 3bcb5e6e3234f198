"""Times and durations as text: RFC 3339, and `1h30m` as policies, settings and options write it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

MAX_TEXT_LENGTH = 64  # maximum length of a duration or time as text, which bounds the arithmetic below
MILLISECONDS_PER_UNIT = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
PART = re.compile(r"([0-9]+)(ms|s|m|h|d|w)")
DURATION = re.compile(rf"(?:{PART.pattern})+")
RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:([Zz])|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)


# ── Durations ─────────────────────────────────────────────────────────────────────────────────


def parse_duration(text: str) -> timedelta | None:
    """Parse `10m`, `1h30m` or `500ms`; None if invalid. Durations are neither negative nor fractional."""
    if len(text) > MAX_TEXT_LENGTH or not DURATION.fullmatch(text):
        return None
    milliseconds = sum(int(count) * MILLISECONDS_PER_UNIT[unit] for count, unit in PART.findall(text))
    try:
        return timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


@lru_cache(maxsize=4_096)  # cached, because policies use few durations
def format_duration(value: timedelta) -> str:
    """Return a duration as policies write it, without weeks: `1h30m`."""
    milliseconds = round(value / timedelta(milliseconds=1))
    if milliseconds == 0:
        return "0s"
    words, rest = "-" if milliseconds < 0 else "", abs(milliseconds)
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, MILLISECONDS_PER_UNIT[unit])
        words += f"{count}{unit}" if count else ""
    return words


# ── Times ─────────────────────────────────────────────────────────────────────────────────────


def parse_time(text: str) -> datetime | None:
    """Parse an RFC 3339 time with a zone to UTC; None if invalid, or outside the years 2 to 9998. Digits beyond
    microseconds are dropped.
    """
    return parse_short_time(text) if len(text) <= MAX_TEXT_LENGTH else None


@lru_cache(maxsize=4_096)  # cached, because an agent sends many requests with one credential
def parse_short_time(text: str) -> datetime | None:
    """Return the time in UTC of a text whose length has been checked; None if the text is not a valid time."""
    match = RFC3339.fullmatch(text)
    if match is None:
        return None
    date, clock, fraction, _, sign, hours, minutes = match.groups()
    try:
        if sign is None and fraction is None:  # the commonest form
            moment = datetime.fromisoformat(f"{date}T{clock}+00:00")
            return moment if 2 <= moment.year <= 9998 else None
        local = datetime.fromisoformat(f"{date}T{clock}").replace(tzinfo=parse_offset(sign, hours, minutes))
        return to_utc(local + timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6])))
    except (ValueError, OverflowError):  # an invalid day, or a time outside the calendar
        return None


def parse_offset(sign: str | None, hours: str, minutes: str) -> timezone:
    if sign is None:
        return UTC
    east = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(east if sign == "+" else -east)


def to_utc(moment: datetime) -> datetime:
    """Return an aware time in UTC. Raises OverflowError outside the years 2 to 9998, because other times do not exist
    in every time zone.
    """
    utc = moment.astimezone(UTC)
    if not 2 <= utc.year <= 9998:
        raise OverflowError
    return utc


def format_rfc3339(moment: datetime, timespec: str = "auto") -> str:
    """Return an aware time as RFC 3339, with `Z` for UTC: `2027-01-01T00:00:00Z`."""
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def format_epoch_seconds(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339, to the second."""
    return format_rfc3339(datetime.fromtimestamp(seconds, UTC), "seconds")
