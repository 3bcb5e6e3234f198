"""A circuit breaker around the calls of one kind to a store: after failures nobody calls for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock, local
from time import monotonic
from typing import NamedTuple

from policyengine.stores.base import StoreError, StoreLossError, WriteRefusedError
from policyengine.stores.clock_skew import ClockSkewError

FAILURES_BEFORE_OPEN = 3  # in a row
PAUSE_SECONDS = 0.25  # seconds that nobody asks a store that fails
LOG_INTERVAL_SECONDS = 10.0  # seconds
_LOG = logging.getLogger("policyengine")


class StoreOperation(NamedTuple):
    """What the log says when calls of this kind fail, and when they are answered again."""

    name: str
    fails: str
    recovers: str


READ = StoreOperation("read", "the store did not answer", "the store answers again")
WRITE = StoreOperation("write", "the store did not take a write", "the store takes writes again")


class CircuitBreaker:
    """Opens when a store failed several times in a row, and at once where it says that it cannot. Once it paused, one
    caller tries; all others go on without. Of calls that were under way together all that fail count as one: a moment
    in which a busy machine did something else is one failure, however many waited.

    Without a `trial` a call that returns is proof that the store is well. With one, whether a call proves anything its
    caller says, by `succeeded`, and who tries runs the trial first: a breaker of writes is never closed by a read.
    What is refused as it had to write counts in the breaker of `refusals`.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        operation: StoreOperation = READ,
        *,
        trial: Callable[[], None] | None = None,
        refusals: CircuitBreaker | None = None,
    ) -> None:
        self._clock, self._lock, self.operation = clock, Lock(), operation
        self._trial, self._refusals = trial, refusals
        self._fails, self._again, self._reason = 0, 0.0, StoreError.reason
        self.failures = 0  # since the beginning
        self._logged, self._unsaid = -LOG_INTERVAL_SECONDS, 0
        self._calls, self._failed_at = local(), 0.0

    @property
    def open(self) -> bool:
        return self._fails >= FAILURES_BEFORE_OPEN

    @property
    def failing(self) -> bool:
        """Whether the last call that proves something failed."""
        return self._fails > 0

    def __enter__(self) -> None:
        """Around one call. Raises StoreError at once while nobody is to call."""
        if self._fails >= FAILURES_BEFORE_OPEN:
            self._try()
        self._calls.began = self._clock()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, StoreError) and not isinstance(error, ClockSkewError):
            refused = self._refusals is not None and isinstance(error, WriteRefusedError | StoreLossError)
            (self._refusals if refused and self._refusals is not None else self).failed(error, self._calls.began)
        elif self._trial is None and self._fails and (error is None or isinstance(error, ClockSkewError)):
            self.succeeded()

    def check(self) -> None:
        """Raises StoreError where the last call failed."""
        if self._fails:
            raise StoreError("the store failed a moment ago", self._reason)

    def test(self) -> None:
        """The trial, for whoever wants to know; while it is open one in a PAUSE. Raises StoreError."""
        assert self._trial is not None
        if self.open:
            self._try()
        else:
            self._tried(self._trial)

    def _try(self) -> None:
        with self._lock:
            now = self._clock()
            if now < self._again:
                self.failures += 1
                raise StoreError("the store did not answer lately", self._reason)
            self._again = now + PAUSE_SECONDS  # this caller tries for all
        if self._trial is not None:
            self._tried(self._trial)

    def _tried(self, trial: Callable[[], None]) -> None:
        began = self._clock()
        try:
            trial()
        except StoreError as error:
            self.failed(error, began)
            raise
        self.succeeded()

    def failed(self, error: StoreError, began: float | None = None) -> None:
        """What began then (at last, where nobody says). A store that says itself that it cannot is not asked three
        times."""
        with self._lock:
            now = self._clock()
            certain = isinstance(error, WriteRefusedError | StoreLossError)
            if not self._fails or began is None or began >= self._failed_at:
                self._fails, self._failed_at = self._fails + 1, now
            self._fails = max(self._fails, FAILURES_BEFORE_OPEN if certain else 1)
            self.failures += 1
            self._reason, self._again = error.reason, now + PAUSE_SECONDS
            self._unsaid += 1
            if now - self._logged < LOG_INTERVAL_SECONDS:
                return
            many, self._unsaid, self._logged = self._unsaid, 0, now
        _LOG.error(
            "%s (%d times since this was said last): %s", self.operation.fails, many, error,
            extra={"event": "store_fails", "operation": self.operation.name, "failures": self.failures},
        )  # fmt: skip

    def succeeded(self) -> None:
        """A call proved that the store is well."""
        if not self._fails:
            return
        with self._lock:
            was_open, self._fails = self.open, 0
        if was_open:
            extra = {"event": "store_answers", "operation": self.operation.name}
            _LOG.warning(self.operation.recovers, extra=extra)
