"""The circuit breaker for one kind of call to a store. It logs failures, and can test the store with a trial call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import local
from time import monotonic
from typing import NamedTuple, TypeAlias

from policyengine.circuit_breaker import CircuitBreaker
from policyengine.log_throttle import LogThrottle
from policyengine.stores.base import StoreError, StoreLossError, WriteRefusedError
from policyengine.stores.behavior import UnreadableBehaviorError
from policyengine.stores.clock_skew import ClockSkewError

_LOG = logging.getLogger("policyengine")
# A function that is called when the store fails and when it works again, with whether it fails, the name of the
# operation, and the reason.
StoreListener: TypeAlias = Callable[[bool, str, str], None]


class StoreOperation(NamedTuple):
    """The log messages for one kind of call: when it fails, and when it works again."""

    name: str
    fails: str
    recovers: str


ANSWERS = ClockSkewError, UnreadableBehaviorError  # errors of a store that answers
READ = StoreOperation("read", "the store did not answer", "the store answers again")
WRITE = StoreOperation("write", "the store did not accept a write", "the store accepts writes again")


class StoreBreaker:
    """Opens after several consecutive failures, and immediately if the store itself reports a permanent failure.

    Without a `trial`, a call that returns proves that the store works. With a `trial`, the caller calls `succeeded`
    when a call proves that the store works, and an open breaker runs the trial before it admits a call, so that a read
    never closes a breaker of writes. The breaker `refusals` counts refused and lost writes.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        operation: StoreOperation = READ,
        *,
        trial: Callable[[], None] | None = None,
        refusals: StoreBreaker | None = None,
    ) -> None:
        self.circuit, self.operation = CircuitBreaker(clock), operation
        self._clock, self._trial, self._refusals = clock, trial, refusals
        self._reason = StoreError.reason
        self.failures = 0  # failures since the start
        self.tell: StoreListener | None = None
        self._throttle, self._calls = LogThrottle.every(clock=clock), local()

    @property
    def open(self) -> bool:
        return self.circuit.is_open

    @property
    def failing(self) -> bool:
        """Whether the last conclusive call failed."""
        return self.circuit.fails > 0

    def __enter__(self) -> None:
        """Enter one call. Raises StoreError immediately while the breaker is open."""
        if self.circuit.fails and self.open:
            self._try()
        self._calls.began = self._clock()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, StoreError) and not isinstance(error, ANSWERS):
            refused = self._refusals is not None and isinstance(error, WriteRefusedError | StoreLossError)
            (self._refusals if refused and self._refusals is not None else self).failed(error, self._calls.began)
        elif self._trial is None and self.circuit.fails and (error is None or isinstance(error, ANSWERS)):
            self.succeeded()

    def check(self) -> None:
        """Raise StoreError if the last call failed."""
        if self.failing:
            raise StoreError("the store failed a moment ago", self._reason)

    def test(self) -> None:
        """Run the trial for a caller that only needs its result; while the breaker is open, at most once per pause.
        Raises StoreError."""
        assert self._trial is not None
        if self.open:
            self._try()
        else:
            self._run_trial(self._trial)

    def _try(self) -> None:
        if not self.circuit.admit():
            self.failures += 1
            raise StoreError("the store has not answered recently", self._reason)
        if self._trial is not None:
            self._run_trial(self._trial)

    def _run_trial(self, trial: Callable[[], None]) -> None:
        began = self._clock()
        try:
            trial()
        except StoreError as error:
            self.failed(error, began)
            raise
        self.succeeded()

    def failed(self, error: StoreError, began: float | None = None) -> None:
        """Count a failed call that began at `began` (None: unknown, count it as the latest). An error that the store
        itself reports as permanent opens the breaker immediately."""
        self._reason = error.reason
        opened = self.circuit.fail(began, certain=isinstance(error, WriteRefusedError | StoreLossError))
        self.failures += 1
        if opened and self.tell is not None:
            self.tell(True, self.operation.name, error.reason)
        if (many := self._throttle.admit()) is not None:
            _LOG.error(
                "%s (failed calls since the last report: %d): %s", self.operation.fails, many, error,
                extra={"event": "store_fails", "operation": self.operation.name, "failures": self.failures},
            )  # fmt: skip

    def succeeded(self) -> None:
        """Record a successful call, which proves that the store works, and report a recovery."""
        if self.circuit.succeed():
            extra = {"event": "store_answers", "operation": self.operation.name}
            _LOG.warning(self.operation.recovers, extra=extra)
            if self.tell is not None:
                self.tell(False, self.operation.name, self.operation.recovers)
