"""What has to be remembered about credentials: what was used once, and what was revoked."""

from __future__ import annotations

from collections.abc import Collection
from threading import Lock
from typing import Protocol

from policyengine.stores.store import StoreError

MOST_MARKS = 1_000_000
SWEEP = 10  # seconds at least between two looks for what has ended


class Marks(Protocol):
    """Names with an end, in seconds since 1970. What has ended is forgotten. Each method may raise StoreError."""

    @property
    def remote(self) -> bool:
        """Whether somebody beside this process is asked, for whom one may have to wait."""
        ...

    @property
    def version(self) -> int:
        """Rises when something is revoked in this process."""
        ...

    def once(self, name: str, until: int, now: int) -> bool:
        """Whether this is the first time, until then. Atomic: of many who ask at once one is told so."""
        ...

    def take(self, name: str, now: int) -> bool:
        """Whether it was marked and had not ended; it is not marked any more. Atomic."""
        ...

    def revoke(self, names: Collection[str], until: int, now: int) -> None:
        """From the next question on all of these are revoked; an end that is later stays."""
        ...

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        """Which of them are."""
        ...


class MemoryMarks:
    """In this process: gone with it. Full of marks that all count, it takes no new one and says so."""

    remote = False

    def __init__(self, most: int = MOST_MARKS) -> None:
        self.version = 0
        self._most, self._lock = most, Lock()
        self._once: dict[str, int] = {}
        self._revoked: dict[str, int] = {}
        self._sweep = 0

    def once(self, name: str, until: int, now: int) -> bool:
        with self._lock:
            if self._once.get(name, now) > now:
                return False
            self._make_room(1, now)
            self._once[name] = until
            return True

    def take(self, name: str, now: int) -> bool:
        with self._lock:
            return self._once.pop(name, now) > now

    def revoke(self, names: Collection[str], until: int, now: int) -> None:
        with self._lock:
            self._make_room(len(names), now)
            for name in names:
                self._revoked[name] = max(until, self._revoked.get(name, until))
            self.version += 1

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        known = self._revoked
        if not known:
            return frozenset()
        return frozenset(name for name in names if known.get(name, now) > now)

    def _make_room(self, new: int, now: int) -> None:
        if len(self._once) + len(self._revoked) + new <= self._most:
            return
        if now >= self._sweep:
            self._sweep = now + SWEEP
            for kept in (self._once, self._revoked):
                for name in [name for name, until in kept.items() if until <= now]:
                    del kept[name]
        if len(self._once) + len(self._revoked) + new > self._most:
            raise StoreError(f"the store is full: it remembers {self._most:,} credentials")
