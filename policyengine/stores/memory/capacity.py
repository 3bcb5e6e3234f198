"""A store in this process that has no room for anybody new: counted, and told to the operator now and then."""

from __future__ import annotations

import logging
from threading import Lock
from time import monotonic

from policyengine.stores.base import StoreFullError

LOG_INTERVAL_SECONDS = 10.0  # seconds
_LOG = logging.getLogger("policyengine")


class CapacityAlarm:
    """What was refused for want of room. One for all parts of a store."""

    def __init__(self) -> None:
        self.refusals = 0  # since the beginning
        self._lock, self._logged, self._unsaid = Lock(), -LOG_INTERVAL_SECONDS, 0

    def refusal(self, text: str) -> StoreFullError:
        """The error to raise for one more that was refused."""
        with self._lock:
            self.refusals += 1
            self._unsaid += 1
            now = monotonic()
            if now - self._logged >= LOG_INTERVAL_SECONDS:
                many, self._unsaid, self._logged = self._unsaid, 0, now
                _LOG.error(
                    "the store is full, and who is new is refused (%d times since this was said last): %s", many, text,
                    extra={"event": "store_full", "refusals": self.refusals},
                )  # fmt: skip
        return StoreFullError(text)
