"""A timer that records the approvals that have expired without an answer, even if no request concerns them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event

from policyengine.log_throttle import LogThrottle
from policyengine.process_threads import ProcessThreads, ThreadRun
from policyengine.reload.reloadable_engine import ReloadableEngine

PERIOD_SECONDS = 1.0
MIN_PERIOD_SHARE = 0.75  # pauses vary, so that processes do not read the store at the same time
STOP_SECONDS = 1.0  # a store that does not answer must not keep the process from ending
FAILS = "approval_expiry_fails"


class ExpiryTimer:
    """Calls `sweep` in a thread, at once and then about every second. Errors are logged, not raised."""

    def __init__(
        self,
        sweep: Callable[[], object],
        *,
        period: float = PERIOD_SECONDS,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._sweep, self._period, self._draw = sweep, period, draw
        self._throttle = LogThrottle.every()
        self._threads = ProcessThreads("approval-expiry", self._runs, self._report)

    def start(self) -> None:
        self._threads.wake()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        self._threads.stop(seconds)

    def _runs(self) -> Iterator[ThreadRun]:
        yield self._sweep_until_stopped

    def _sweep_until_stopped(self, stop: Event) -> None:
        while not stop.is_set():
            try:
                self._sweep()
            except Exception as error:  # a defect must not end the thread
                self._report(error)
            stop.wait(self._period * self._draw(MIN_PERIOD_SHARE, 2 - MIN_PERIOD_SHARE))

    def _report(self, error: Exception) -> None:
        text = f"the expiry of approvals cannot be recorded: {error!r}"
        self._throttle.tell(logging.ERROR, "expiry", text, event=FAILS)


def record_expiries(held: ReloadableEngine) -> None:
    """Record the approvals that have expired without an answer."""
    if held.current.approvals is not None:
        held.current.approvals.record_expiries()


@contextmanager
def expiry_timer(held: ReloadableEngine) -> Iterator[None]:
    """Record expired approvals for the duration of the block, with the policies that are current at each time."""
    timer = ExpiryTimer(partial(record_expiries, held))
    timer.start()
    try:
        yield
    finally:
        timer.stop()
