"""Idempotency keys in Redis or Valkey, grouped by slot and gateway, so that a Cluster can store them and no gateway
evicts the keys of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policyengine.runtime.idempotency import (
    KEEP_MICROSECONDS,
    LEASE_MICROSECONDS,
    MAX_KEYS_PER_GATEWAY,
    IdempotencyClaim,
    IdempotencyRecord,
)
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import StoreError
from policyengine.stores.idempotency import EvictionLog
from policyengine.stores.redis.connection import RedisScript, script_text

SLOTS = 64  # number of groups of keys, each with its own bound


CLAIM = RedisScript.of("claim.lua")
STEP = "".join(map(script_text, ("past.lua", "behavior.lua", "step.lua")))
CLAIMED_STEP = RedisScript.from_text(f"local function step() {STEP}\nend\n{script_text('once.lua')}")
RunScript = Callable[..., Any]


class RedisIdempotencyKeys:
    """Idempotency keys in Redis. `run` calls a script with keys and arguments; `read` returns the limit states from a
    draft and the data stored with it. With `virtual` time, the server's own clock does not count.
    """

    def __init__(
        self,
        run: RunScript,
        read: Callable[[bytes, bytes], ChargeResult],
        *,
        virtual: bool,
        most: int = MAX_KEYS_PER_GATEWAY,
    ) -> None:
        self._run, self._read, self._virtual = run, read, virtual
        self._most = max(1, most // SLOTS)
        self.evicted = EvictionLog()

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        """Return None if the caller now has the key, otherwise its record. Raises StoreError."""
        told = self._do("claim", claim, now, LEASE_MICROSECONDS, claim.replaces)
        if isinstance(told, int):
            self.evicted.tell(told)
            return None
        digest, draft, settled = told
        try:
            return IdempotencyRecord(digest.decode(), draft, None if draft is None else self._read(draft, settled))
        except ValueError as error:
            raise StoreError(f"the entry of an idempotency key cannot be read: {error}") from error

    def keep(self, claim: IdempotencyClaim, settled: bytes, now: int) -> bool:
        """Store the answer; return whether the caller still had the key."""
        return bool(self._do("keep", claim, now, KEEP_MICROSECONDS, claim.draft, settled))

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        self._do("release", claim, now, 0)

    def step(self, keys: list[str], arguments: list[bytes], claim: IdempotencyClaim, now: int) -> Any:
        """Run `step.lua` for a claim and return its answer; an empty answer means that the step changed nothing."""
        till = str(now + KEEP_MICROSECONDS) if self._virtual else ""
        return self._run(
            CLAIMED_STEP, [*keys, claim_key(claim)], *arguments, claim.token, claim.draft, KEEP_MICROSECONDS, till
        )

    def _do(
        self, what: str, claim: IdempotencyClaim, now: int, lasts: int, draft: bytes = b"", settled: bytes = b""
    ) -> Any:
        keys = [claim_key(claim), f"{claim_slot(claim)}:order {claim.gateway}"]
        given = str(now) if self._virtual else ""
        words = (what, given, claim.name, claim.digest, claim.token)
        return self._run(CLAIM, keys, *words, lasts, KEEP_MICROSECONDS, self._most, draft, settled)


def claim_key(claim: IdempotencyClaim) -> str:
    return f"{claim_slot(claim)}:{claim.name}"


def claim_slot(claim: IdempotencyClaim) -> str:
    """Return the slot of a claim. Names are digests, so claims are distributed evenly."""
    return f"policyengine:{{once {int(claim.name[-8:], 16) % SLOTS}}}"
