"""The circuit breaker: after several consecutive failures it refuses calls for a short time, then admits one call as a
trial.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

FAILURES_BEFORE_OPEN = 3
PAUSE_SECONDS = 0.25


class CircuitBreaker:
    """Counts consecutive failures, and opens at a `threshold`. Call `admit` before a call, and `fail` or `succeed`
    after it. While the circuit is open, it admits one call in each `pause`; the first success closes the circuit.
    Thread-safe.
    """

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
        """Return whether the caller may call. While the circuit is open, the admitted call is the trial for
        all callers.
        """
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
        """Count a failed call that `began` at the given time, and return whether it opened the circuit. Failures of
        concurrent calls count as one failure, so that a short overload of the machine counts once, however many calls
        were waiting. A `certain` failure opens the circuit immediately.
        """
        with self._lock:
            now, was_open = self.clock(), self.is_open
            if not self.fails or began is None or began >= self._failed_at:
                self.fails, self._failed_at = self.fails + 1, now
            if certain:
                self.fails = max(self.fails, self.threshold)
            self._retry_at = now + self.pause
            return self.is_open and not was_open

    def succeed(self) -> bool:
        """Record a successful call, and return whether that closed the circuit."""
        if not self.fails:
            return False
        with self._lock:
            was_open, self.fails = self.is_open, 0
            return was_open
