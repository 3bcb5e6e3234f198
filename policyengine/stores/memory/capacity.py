"""A store in this process that has no room for anybody new: counted, and told to the operator now and then."""

from __future__ import annotations

import logging
from threading import Lock

from policyengine.log_throttle import LogThrottle
from policyengine.stores.base import StoreFullError

_LOG = logging.getLogger("policyengine")


class CapacityAlarm:
    """What was refused for want of room. One for all parts of a store."""

    def __init__(self) -> None:
        self.refusals = 0  # since the beginning
        self._lock, self._throttle = Lock(), LogThrottle.every()

    def refusal(self, text: str) -> StoreFullError:
        """The error to raise for one more that was refused."""
        with self._lock:
            self.refusals += 1
        if (many := self._throttle.admit()) is not None:
            _LOG.error(
                "the store is full, and who is new is refused (%d times since this was said last): %s", many, text,
                extra={"event": "store_full", "refusals": self.refusals},
            )  # fmt: skip
        return StoreFullError(text)
