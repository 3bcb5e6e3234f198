"""Idempotency keys in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from policyengine.runtime.idempotency import (
    KEEP_MICROSECONDS,
    LEASE_MICROSECONDS,
    MAX_KEYS_PER_GATEWAY,
    IdempotencyClaim,
    IdempotencyRecord,
)
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.idempotency import EvictionLog


@dataclass(frozen=True, slots=True)
class IdempotencyEntry:
    until: int
    digest: str
    token: str
    draft: bytes | None = None
    settled: ChargeResult | None = None


class MemoryIdempotencyKeys:
    """Idempotency keys by gateway, oldest first, at most `most` for each gateway. The caller holds the lock of the
    store. The clock of the store never runs backwards, so the keys stay in order."""

    def __init__(self, most: int = MAX_KEYS_PER_GATEWAY) -> None:
        # The first key of a plain dict is searched among all keys that were deleted before it.
        self._kept: dict[str, OrderedDict[str, IdempotencyEntry]] = {}
        self._most = most
        self.evicted = EvictionLog()

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        """Return None if the caller now has the key, otherwise its record."""
        one = self._found(claim)
        if one is not None and one.until > now and not may_take(claim, one):
            return IdempotencyRecord(one.digest, one.draft, one.settled)
        self._put(claim, IdempotencyEntry(now + LEASE_MICROSECONDS, claim.digest, claim.token), now)
        return None

    def holds(self, claim: IdempotencyClaim) -> bool:
        one = self._found(claim)
        return one is not None and one.draft is None and one.token == claim.token

    def keep(self, claim: IdempotencyClaim, settled: ChargeResult, now: int) -> None:
        self._put(
            claim, IdempotencyEntry(now + KEEP_MICROSECONDS, claim.digest, claim.token, claim.draft, settled), now
        )

    def release(self, claim: IdempotencyClaim) -> None:
        if self.holds(claim):
            del self._kept[claim.gateway][claim.name]

    def _found(self, claim: IdempotencyClaim) -> IdempotencyEntry | None:
        of_gateway = self._kept.get(claim.gateway)
        return None if of_gateway is None else of_gateway.get(claim.name)

    def _put(self, claim: IdempotencyClaim, kept: IdempotencyEntry, now: int) -> None:
        """Append the key. Each new key evicts at most a few old ones, so that no caller waits long."""
        of_gateway = self._kept.setdefault(claim.gateway, OrderedDict())
        of_gateway.pop(claim.name, None)
        of_gateway[claim.name] = kept
        evicted = 0
        while len(of_gateway) > self._most or next(iter(of_gateway.values())).until <= now:
            evicted += of_gateway.pop(next(iter(of_gateway))).until > now
        self.evicted.tell(evicted)


def may_take(claim: IdempotencyClaim, entry: IdempotencyEntry) -> bool:
    """Return whether the claim succeeds on an entry that has not ended."""
    return claim.may_replace(entry.draft) or (entry.draft is None and entry.token == claim.token)
