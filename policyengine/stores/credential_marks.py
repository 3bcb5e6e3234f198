"""Marks of credentials that must be remembered, because they were used or revoked."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from threading import Lock
from typing import Protocol

from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.memory.capacity import CapacityAlarm
from policyengine.stores.transition import digest_parts

MAX_MARKS = 1_000_000
MAX_NAME_LENGTH = 128  # characters; longer names are hashed
OPERATOR_RESERVE_DIVISOR = 10  # 1/10 of the room for revocations is reserved for operators
LINGER_SECONDS = 60  # seconds that a mark is kept after its end, because clocks differ and may be set back


class CredentialMarks(Protocol):
    """Marks and revocations: names with an end, in seconds since 1970 by the clock of the caller. A name that has ended
    does not count, and is deleted LINGER_SECONDS later. Marks and revocations have separate names. Each method may
    raise StoreError.
    """

    @property
    def remote(self) -> bool:
        """Whether the marks are on another machine, so that a call may wait. Never raises."""
        ...

    @property
    def version(self) -> int:
        """A number that changes with each revocation by any process that shares the store. Never waits. If the marks
        are `remote`, the number has no meaning: call `revoked` instead."""
        ...

    def once(self, name: str, until: int, now: int) -> bool:
        """Mark a name until `until`; return whether it was unmarked. Atomic: exactly one of several concurrent callers
        gets True."""
        ...

    def marked(self, name: str, now: int) -> bool:
        """Return whether a name is marked and has not ended; changes nothing."""
        ...

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        """Revoke all of these names, or none of them, from the next decision on. If a name is already revoked, the
        later end applies. Part of the room is reserved for revocations `by_operator`.
        """
        ...

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        """Return the revoked names among these names, in one round trip if the marks are `remote`."""
        ...


class ExpiringNames:
    """Names and their ends. Each new name removes up to two ended names, so that no call takes long."""

    def __init__(self, most: int, fullness: CapacityAlarm) -> None:
        self.until: dict[str, int] = {}
        self.most, self._fullness = most, fullness
        self._order: list[tuple[int, str]] = []  # a heap; an entry is stale if its name was prolonged

    def put(self, names: Collection[str], until: int, now: int, spare: int = 0) -> None:
        """Add all of these names, or none if that would leave less than `spare` room. Raises StoreFullError."""
        new = [name for name in names if self.until.get(name, -1) < until]
        for _ in range(2 * len(new)):
            self._forget_one(now)
        if new and len(self._order) + len(new) > self.most - spare:
            raise self._fullness.refusal(f"it already holds {self.most:,} credential names, its maximum")
        for name in new:
            self.until[name] = until
            heappush(self._order, (until, name))

    def _forget_one(self, now: int) -> None:
        if self._order and self._order[0][0] + LINGER_SECONDS <= now:
            until, name = heappop(self._order)
            if self.until.get(name) == until:
                del self.until[name]


class MemoryMarks:
    """Marks in the memory of this process, which are lost when it ends. If there is no room and no mark has ended, a
    new mark is refused. Revocations have separate room, which marks cannot use up.
    """

    remote = False

    def __init__(
        self, most: int = MAX_MARKS, max_skew: int = MAX_SKEW_MICROSECONDS, fullness: CapacityAlarm | None = None
    ) -> None:
        full = CapacityAlarm() if fullness is None else fullness
        self.version, self._latest, self._skew = 0, 0, ClockSkew(max_skew, is_own_memory=True)
        self._lock, self._marked, self._revoked = Lock(), ExpiringNames(most, full), ExpiringNames(most, full)

    def once(self, name: str, until: int, now: int) -> bool:
        known = bound_name(name)
        self._check_clock(now)
        with self._lock:
            if self._marked.until.get(known, now) > now:
                return False
            self._marked.put((known,), until, now)
            return True

    def marked(self, name: str, now: int) -> bool:
        self._check_clock(now)
        return self._marked.until.get(bound_name(name), now) > now

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        with self._lock:
            spare = 0 if by_operator else self._revoked.most // OPERATOR_RESERVE_DIVISOR
            self._revoked.put([bound_name(name) for name in names], until, now, spare)
            self.version += 1

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        self._check_clock(now)
        known = self._revoked.until
        return frozenset(name for name in names if known.get(bound_name(name), now) > now) if known else frozenset()

    def _check_clock(self, now: int) -> None:
        """Record the latest time. Raise ClockSkewError if the clock was set back so far that a deleted name might still
        count."""
        latest = self._latest
        if now >= latest:
            self._latest = now
        if now < latest or self._skew.exceeded:
            self._skew.between(
                now * MICROSECONDS_PER_SECOND, max(now, latest) * MICROSECONDS_PER_SECOND, now * MICROSECONDS_PER_SECOND
            )
            self._skew.check()


def bound_name(name: str) -> str:
    """Return the name, or its digest if it is long. Clients choose names, so the stored length is bounded."""
    return name if len(name) <= MAX_NAME_LENGTH else f"long:{digest_parts(name)}"
