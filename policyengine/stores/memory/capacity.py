"""Counts and logs refusals of a memory store that has no room for new keys."""

from __future__ import annotations

import logging
from threading import Lock

from policyengine.log_throttle import LogThrottle
from policyengine.stores.base import StoreFullError

_LOG = logging.getLogger("policyengine")


class CapacityAlarm:
    """Counts and logs the refusals of a full store; all parts of the store share it."""

    def __init__(self) -> None:
        self.refusals = 0  # refusals since the start
        self._lock, self._throttle = Lock(), LogThrottle.every()

    def refusal(self, text: str) -> StoreFullError:
        """Count a refusal and return the error to raise for it."""
        with self._lock:
            self.refusals += 1
        if (many := self._throttle.admit()) is not None:
            _LOG.error(
                "the store is full and refuses new keys (refusals since the last report: %d): %s", many, text,
                extra={"event": "store_full", "refusals": self.refusals},
            )  # fmt: skip
        return StoreFullError(text)
