"""Nonces that attestations have to answer: of this store, not to be guessed, and each good for one answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_urlsafe
from threading import Lock

from policyengine.identity.proved import Seconds
from policyengine.stores.marks import Marks
from policyengine.stores.store import StoreError

LIFETIME = 300  # seconds
MOST_GIVEN = 100_000  # within a lifetime, by one process
LENGTH = 32  # bytes, which base64url makes 43 characters of: RFC 9711 takes from 8 to 88


@dataclass
class Quota:
    """How many that strangers ask for are remembered at one time, for `lifetime` seconds each. Threads may share it."""

    what: str
    most: int
    lifetime: int
    _began: Seconds = 0
    _given: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def take(self, now: Seconds) -> None:
        """Raises StoreError for one too many."""
        with self._lock:
            if not 0 <= now - self._began < self.lifetime:
                self._began, self._given = now, 0
            if self._given >= self.most:
                raise StoreError(f"{self.most:,} {self.what} within {self.lifetime} s, and no more are")
            self._given += 1


@dataclass
class Nonces:
    """Threads, and processes that share the store, may share them."""

    marks: Marks
    lifetime: int = LIFETIME
    most: int = MOST_GIVEN
    _quota: Quota = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._quota = Quota("nonces were given", self.most, self.lifetime)

    def issue(self, now: Seconds) -> tuple[str, Seconds]:
        """A new one, and when it ends. Raises StoreError, also where more are asked for than are kept: anybody may
        ask."""
        self._quota.take(now)
        nonce, expires = token_urlsafe(LENGTH), now + self.lifetime
        self.marks.once(name_of(nonce), expires, now)
        return nonce, expires

    def take(self, nonce: str, now: Seconds) -> bool:
        """Whether it is one that was given, had not ended and was not taken before; it is now. Raises StoreError."""
        return self.marks.take(name_of(nonce), now)


def name_of(nonce: str) -> str:
    return f"nonce:{nonce}"
