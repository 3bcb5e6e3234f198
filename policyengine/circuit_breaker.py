"""The circuit breaker: after several failures in a row it refuses calls for a moment, then admits one as a trial."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

FAILURES_BEFORE_OPEN = 3  # consecutive failures
PAUSE_SECONDS = 0.25


class CircuitBreaker:
    """Counts failures in a row, and opens at a `threshold`. Before a call, `admit`; after it, `fail` or `succeed`.
    While it is open one call in a `pause` is admitted; the first that succeeds closes it. Threads may share one."""

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        *,
        threshold: int = FAILURES_BEFORE_OPEN,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self.clock, self.threshold, self.pause = clock, threshold, pause
        self.fails = 0  # consecutive failures
        self._lock, self._retry_at, self._failed_at = Lock(), 0.0, 0.0

    @property
    def is_open(self) -> bool:
        return self.fails >= self.threshold

    def admit(self) -> bool:
        """Whether the caller may call. While it is open, the one who may tries for all."""
        if self.fails < self.threshold:
            return True
        with self._lock:
            now = self.clock()
            if self.fails >= self.threshold:
                if now < self._retry_at:
                    return False
                self._retry_at = now + self.pause
            return True

    def fail(self, began: float | None = None, *, certain: bool = False) -> bool:
        """A call failed that `began` then; whether that opened the circuit. Calls that were under way together count as
        one: a moment in which a busy machine did something else is one failure, however many waited. One that is
        `certain` opens at once."""
        with self._lock:
            now, was_open = self.clock(), self.is_open
            if not self.fails or began is None or began >= self._failed_at:
                self.fails, self._failed_at = self.fails + 1, now
            if certain:
                self.fails = max(self.fails, self.threshold)
            self._retry_at = now + self.pause
            return self.is_open and not was_open

    def succeed(self) -> bool:
        """A call proved that all is well; whether that closed the circuit."""
        if not self.fails:
            return False
        with self._lock:
            was_open, self.fails = self.is_open, 0
            return was_open
