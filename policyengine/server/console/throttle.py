"""Bounds the attempts to sign in, by address and in total."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from time import monotonic

WINDOW_SECONDS = 60.0
MAX_ATTEMPTS_PER_ADDRESS = 60  # behind a proxy, all people have one address
MAX_ATTEMPTS = 240
MAX_ADDRESSES = 1_024


class AttemptThrottle:
    """Counts attempts within the last minute. The number of remembered addresses is bounded."""

    def __init__(
        self,
        per_address: int = MAX_ATTEMPTS_PER_ADDRESS,
        total: int = MAX_ATTEMPTS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._per_address, self._total, self._clock = per_address, total, clock
        self._all: deque[float] = deque(maxlen=total)
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, address: str) -> bool:
        """Count an attempt, and return whether it is allowed. Refused attempts are not counted."""
        now = self._clock()
        mine = self._by_address.setdefault(address, deque(maxlen=self._per_address))
        self._by_address.move_to_end(address)
        if len(self._by_address) > MAX_ADDRESSES:
            self._by_address.popitem(last=False)
        if any(len(times) == times.maxlen and now - times[0] < WINDOW_SECONDS for times in (mine, self._all)):
            return False
        mine.append(now)
        self._all.append(now)
        return True
