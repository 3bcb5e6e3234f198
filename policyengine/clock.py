"""Clocks, and moments as whole numbers since 1970."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def epoch_microseconds(moment: datetime) -> int:
    """As stores count."""
    return (moment - EPOCH) // MICROSECOND


def epoch_nanoseconds(moment: datetime) -> int:
    """As decisions are stamped."""
    return epoch_microseconds(moment) * 1_000


def nanosecond_clock(clock: Clock) -> Callable[[], int]:
    """The clock in nanoseconds. A clock that has a method `nanoseconds` is spared a datetime."""
    if clock is utc_now:
        return time_ns
    own: Callable[[], int] | None = getattr(clock, "nanoseconds", None)
    return own or (lambda: epoch_nanoseconds(clock()))
