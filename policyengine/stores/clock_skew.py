"""Measures how far the clock of this process is from the clock of its store, and refuses a difference that
is too large.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from threading import Lock
from time import time_ns

from policyengine.log_throttle import LogThrottle
from policyengine.stores.base import StoreError
from policyengine.time_formats import format_duration

MAX_SKEW_MICROSECONDS = 5_000_000
AGREES_WITHIN = 0.8  # clocks that differed too much agree again within this fraction of the bound
MICROSECOND = timedelta(microseconds=1)
AGREES_AGAIN = "the clocks of this server and of its store agree again"
CAUGHT_UP = "the clock of this machine, which was set back, has caught up"
_LOG = logging.getLogger("policyengine")


class ClockSkewError(StoreError):
    """The error for clocks of this process and of the store that differ too much. It is raised before a call, or in
    place of the answer that revealed the difference; in the second case, the store has executed the call."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, reason)


def system_time() -> int:
    return time_ns() // 1_000


class ClockSkew:
    """The difference between the clocks of this process and of the store. `offset` is how far the store's clock is
    ahead (microseconds; None before the store's first answer), plus or minus `error`, half of the round trip. Beyond
    the `bound`, the store is not used: one of the clocks is wrong, so times and ages in conditions and the expiry of
    credentials cannot be trusted. If the store `is_own_memory`, its clock is the latest time of this process.
    """

    def __init__(
        self,
        bound: int = MAX_SKEW_MICROSECONDS,
        clock: Callable[[], int] = system_time,
        throttle: LogThrottle | None = None,
        *,
        is_own_memory: bool = False,
    ) -> None:
        self.bound, self.clock = bound, clock
        self.offset: int | None = None
        self.error = 0
        self.exceeded = False
        self._is_own_memory = is_own_memory
        self._lock, self._throttle = Lock(), throttle or LogThrottle.every()
        self.tell: Callable[[bool, str, str], None] | None = None  # called when the agreement of the clocks changes

    @property
    def reason(self) -> str:
        behind = self.offset or 0
        if self._is_own_memory:
            return f"the clock of this machine was set back by {format_microseconds(behind)}"
        word = "behind" if behind > 0 else "ahead of"
        return f"the clock of this server is {format_microseconds(abs(behind))} {word} the store's"

    def measure(self, before: int, told: int, *, of_all: bool = True) -> None:
        """Measure the skew from one answer of the store. `before` is the time of the call by the clock of this process,
        and `told` the time in the answer. An answer of a single server of several (not `of_all`) can show that the
        bound is exceeded, but not that the clocks agree again.
        """
        self.between(before, told, self.clock(), of_all=of_all)

    def between(self, before: int, told: int, after: int, *, of_all: bool = True) -> None:
        least, most = sorted((told - before, told - after))
        if not of_all and self.exceeded:
            return
        self.offset, self.error = (least + most) // 2, (most - least) // 2
        if least > self.bound or most < -self.bound:
            self._exceeds()
        elif self.exceeded and max(most, -least) <= self.bound * AGREES_WITHIN:
            self._agrees()

    def check(self) -> None:
        """Raise ClockSkewError if the bound is exceeded."""
        if self.exceeded:
            raise ClockSkewError(self.reason)

    def _exceeds(self) -> None:
        with self._lock:
            was, self.exceeded = self.exceeded, True
        if not was and self.tell is not None:
            self.tell(True, "clock", self.reason)
        if self._throttle.admit() is None:
            return
        _LOG.error(
            "%s, more than %s: decisions that need the store are denied until %s",
            self.reason,
            format_microseconds(self.bound),
            "it has caught up" if self._is_own_memory else "the clocks agree",
            extra={"event": "clock_skew", "skew_ms": (self.offset or 0) // 1_000},
        )

    def _agrees(self) -> None:
        with self._lock:
            was, self.exceeded = self.exceeded, False
        self._throttle.reset()
        if was:
            text = CAUGHT_UP if self._is_own_memory else AGREES_AGAIN
            _LOG.warning("%s", text, extra={"event": "clock_agrees"})
            if self.tell is not None:
                self.tell(False, "clock", text)


def format_microseconds(microseconds: int) -> str:
    """Return a duration as text, rounded to seconds from one second on, otherwise to milliseconds."""
    rounded = round(microseconds, -6) if microseconds >= 1_000_000 else round(microseconds, -3)
    return format_duration(rounded * MICROSECOND)
