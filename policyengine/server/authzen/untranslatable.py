"""Counts AuthZEN evaluations that are denied before the policy's answer applies (malformed, not mapped, failed, or
without `consume`), and logs them for the operator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from policyengine.log_throttle import LogThrottle
from policyengine.server.telemetry.shared_counters import ServerCounters

LOG_INTERVAL_SECONDS = 60.0  # seconds between two log lines of one kind
ADAPTER_NAME = "authzen"
GATES = {"failed": "failure"}  # the name under which failures are counted; other denials use the code of the answer
_LOG = logging.getLogger("policyengine")


class DenialReporter:
    """Counts each denial, and logs at most one line per kind and minute, with the number of denials and the latest
    reason. Thread-safe.
    """

    def __init__(self, tally: ServerCounters, clock: Callable[[], float] = monotonic) -> None:
        self._tally = tally
        self._throttle = LogThrottle.every(LOG_INTERVAL_SECONDS, clock)

    def __call__(self, code: str, why: str) -> None:
        self._tally.denied(ADAPTER_NAME, GATES.get(code, code))
        many = self._throttle.admit(code)
        if many is None:
            return
        words = "an AuthZEN question was" if many == 1 else f"{many:,} AuthZEN questions were"
        cause = ":" if many == 1 else "; the latest because"
        told = {"event": "authzen_denied", "why": why}
        _LOG.warning("%s denied as `%s`%s %s", words, code, cause, why, extra=told)


def ignore_denial(code: str, why: str) -> None:
    """Ignore a denial, for callers without counters."""
