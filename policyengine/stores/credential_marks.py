"""What has to be remembered about credentials: what was used once, and what was revoked."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from threading import Lock
from typing import Protocol

from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.memory.capacity import CapacityAlarm
from policyengine.stores.transition import digest_parts

MAX_MARKS = 1_000_000
MICROSECONDS_PER_SECOND = 1_000_000  # microseconds
MAX_NAME_LENGTH = 128  # characters of a name that is kept as it is
OPERATOR_RESERVE_DIVISOR = 10  # of so much of the room for what is revoked one part is for operators
LINGER_SECONDS = 60  # seconds that a mark is kept after its end, as clocks differ and are set back


class CredentialMarks(Protocol):
    """Names with an end, in seconds since 1970 by the clock of whoever asks: what has ended does not count, and is
    forgotten LINGERS later. What is marked and what is revoked do not meet. Each member may raise StoreError."""

    @property
    def remote(self) -> bool:
        """Whether somebody beside this machine is asked, for whom one may have to wait. Raises nothing."""
        ...

    @property
    def version(self) -> int:
        """Another one after each revocation, whoever of those who share the store revoked. Waits for nobody. Says
        nothing where it is `remote`: whoever wants to know asks `revoked`."""
        ...

    def once(self, name: str, until: int, now: int) -> bool:
        """Whether this is the first time, until then. Atomic: of many who ask at once one is told so."""
        ...

    def marked(self, name: str, now: int) -> bool:
        """Whether it is marked and has not ended; it stays so."""
        ...

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        """From the next question on all of these are revoked; an end that is later stays. All of them or none. Where
        there is little room left, it is for operators."""
        ...

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        """Which of them are. One round trip where it is `remote`."""
        ...


class ExpiringNames:
    """Names and when they end. Whoever comes makes room by what ended first, two at a time: nobody waits for many."""

    def __init__(self, most: int, fullness: CapacityAlarm) -> None:
        self.until: dict[str, int] = {}
        self.most, self._fullness = most, fullness
        self._order: list[tuple[int, str]] = []  # a heap; what lasts longer by now is in it, too

    def put(self, names: Collection[str], until: int, now: int, spare: int = 0) -> None:
        """All of them or, where there is no room but for `spare` others, none. Raises StoreFullError."""
        new = [name for name in names if self.until.get(name, -1) < until]
        for _ in range(2 * len(new)):
            self._forget_one(now)
        if new and len(self._order) + len(new) > self.most - spare:
            raise self._fullness.refusal(f"it remembers {self.most:,} names of credentials, and no more")
        for name in new:
            self.until[name] = until
            heappush(self._order, (until, name))

    def _forget_one(self, now: int) -> None:
        if self._order and self._order[0][0] + LINGER_SECONDS <= now:
            until, name = heappop(self._order)
            if self.until.get(name) == until:
                del self.until[name]


class MemoryMarks:
    """In this process: gone with it. Full of marks that all count, it takes no new one and says so; revocations have
    room of their own, so that nobody can be in their way."""

    remote = False

    def __init__(
        self, most: int = MAX_MARKS, max_skew: int = MAX_SKEW_MICROSECONDS, fullness: CapacityAlarm | None = None
    ) -> None:
        full = CapacityAlarm() if fullness is None else fullness
        self.version, self._latest, self._skew = 0, 0, ClockSkew(max_skew)
        self._lock, self._marked, self._revoked = Lock(), ExpiringNames(most, full), ExpiringNames(most, full)

    def once(self, name: str, until: int, now: int) -> bool:
        known = bound_name(name)
        self._moved(now)
        with self._lock:
            if self._marked.until.get(known, now) > now:
                return False
            self._marked.put((known,), until, now)
            return True

    def marked(self, name: str, now: int) -> bool:
        self._moved(now)
        return self._marked.until.get(bound_name(name), now) > now

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        with self._lock:
            spare = 0 if by_operator else self._revoked.most // OPERATOR_RESERVE_DIVISOR
            self._revoked.put([bound_name(name) for name in names], until, now, spare)
            self.version += 1

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        self._moved(now)
        known = self._revoked.until
        return frozenset(name for name in names if known.get(bound_name(name), now) > now) if known else frozenset()

    def _moved(self, now: int) -> None:
        """What was forgotten counts no more: raises ClockSkewError where it might, as the clock was set back."""
        latest = self._latest
        if now >= latest:
            self._latest = now
        if now < latest or self._skew.exceeded:
            self._skew.between(
                now * MICROSECONDS_PER_SECOND, max(now, latest) * MICROSECONDS_PER_SECOND, now * MICROSECONDS_PER_SECOND
            )
            self._skew.check()


def bound_name(name: str) -> str:
    """Strangers name things, too: what is kept of a name is bounded."""
    return name if len(name) <= MAX_NAME_LENGTH else f"long:{digest_parts(name)}"
