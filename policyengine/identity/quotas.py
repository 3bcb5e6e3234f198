"""Quotas of replay marks, for unauthenticated senders together and for each client, because all share the store's
capacity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from cachetools import FIFOCache

from policyengine.identity.verified import Seconds
from policyengine.stores.base import StoreError

MAX_CLIENTS = 10_000  # maximum number of clients that are counted at a time
MAX_REVOCATIONS_PER_HOUR, HOUR_SECONDS = 10_000, 3_600  # maximum revocations of one client, in each process


@dataclass
class MarkQuota:
    """Limits how many marks may be made in each period of `lifetime` seconds. Threads may share it."""

    what: str
    most: int
    lifetime: int
    _began: Seconds = 0
    _given: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def take(self, now: Seconds) -> None:
        """Count one mark. Raises StoreError if the quota is used up."""
        with self._lock:
            if not 0 <= now - self._began < self.lifetime:
                self._began, self._given = now, 0
            if self._given >= self.most:
                raise StoreError(f"the limit of {self.most:,} {self.what} within {self.lifetime} s is reached")
            self._given += 1


@dataclass
class ClientQuotas:
    """Limits how many revocations each client may make in each period of `lifetime` seconds. With more than MAX_CLIENTS
    clients, the oldest counts are dropped. Threads may share it.
    """

    most: int = MAX_REVOCATIONS_PER_HOUR
    lifetime: int = HOUR_SECONDS
    _quotas: FIFOCache[str, MarkQuota] = field(default_factory=lambda: FIFOCache(MAX_CLIENTS), repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def take(self, client: str, now: Seconds) -> None:
        """Count one revocation. Raises StoreError if the quota is used up."""
        with self._lock:
            found = self._quotas.get(client)
            if found is None:
                found = self._quotas[client] = MarkQuota(f"revocations by `{client}`", self.most, self.lifetime)
        found.take(now)
