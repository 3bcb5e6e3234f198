"""Times in microseconds since 1970, and their text forms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000


def to_microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def to_datetime(at: int) -> datetime:
    return EPOCH + at * MICROSECOND


def format_timestamp(at: int) -> str:
    """Return a time for programs: RFC 3339 in UTC."""
    return to_datetime(at).isoformat().replace("+00:00", "Z")


def format_time(at: int) -> str:
    """Return a time for people."""
    moment = to_datetime(at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment.second or moment.microsecond else f"{moment:%Y-%m-%d %H:%M} UTC"
