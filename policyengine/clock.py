"""Clocks, and times as integers that count from 1970."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]

MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_DAY = 86_400 * MICROSECONDS_PER_SECOND
NANOSECONDS_PER_SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def epoch_microseconds(moment: datetime) -> int:
    """Return microseconds since 1970, the unit of stores."""
    return (moment - EPOCH) // MICROSECOND


def from_epoch_microseconds(at: int) -> datetime:
    return EPOCH + at * MICROSECOND


def epoch_nanoseconds(moment: datetime) -> int:
    """Return nanoseconds since 1970, the unit of timestamps of decisions."""
    return epoch_microseconds(moment) * 1_000


def from_epoch_nanoseconds(moment: int) -> datetime:
    return EPOCH + timedelta(microseconds=moment // 1_000)


def nanosecond_clock(clock: Clock) -> Callable[[], int]:
    """Return a function that returns the time of the clock in nanoseconds since 1970. If possible, this is the
    system's function or the clock's own method `nanoseconds`, because neither creates a datetime.
    """
    if clock is utc_now:
        return time_ns
    own: Callable[[], int] | None = getattr(clock, "nanoseconds", None)
    return own or (lambda: epoch_nanoseconds(clock()))
