"""Questions of AuthZEN that became none of the policy's: counted, and told to the operator, whose map may lack them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from policyengine.log_throttle import LogThrottle
from policyengine.server.telemetry.shared_counters import ServerCounters

LOG_INTERVAL_SECONDS = 60.0  # seconds between two lines of one kind
ADAPTER_NAME = "authzen"
GATES = {"failed": "failure"}  # whatever fails is told by this name; all else by the word in the answer
_LOG = logging.getLogger("policyengine")


class DenialReporter:
    """Each is counted as the deny that it was answered by. A line is written of the first, and then once in a while:
    how many there were, and why the last was none. Threads may share it."""

    def __init__(self, tally: ServerCounters, clock: Callable[[], float] = monotonic) -> None:
        self._tally = tally
        self._throttle = LogThrottle.every(LOG_INTERVAL_SECONDS, clock)

    def __call__(self, code: str, why: str) -> None:
        self._tally.denied(ADAPTER_NAME, GATES.get(code, code))
        many = self._throttle.admit(code)
        if many is None:
            return
        words = "a question of AuthZEN was" if many == 1 else f"{many:,} questions of AuthZEN were"
        told = {"event": "authzen_denied", "why": why}
        _LOG.warning("%s denied as `%s`, the last because %s", words, code, why, extra=told)


def ignore_denial(code: str, why: str) -> None:
    """Where nobody counts."""
