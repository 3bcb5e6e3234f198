"""Keys by which gateways ask once, in Redis or Valkey: each with those of its slot and gateway, so that a Cluster
can hold them and no gateway pushes out what another one needs."""

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

SLOTS = 64  # in which keys are kept apart, each bounded for itself


CLAIM = RedisScript.of("claim.lua")
STEP = "".join(map(script_text, ("past.lua", "step.lua")))
CLAIMED_STEP = RedisScript.saying(f"local function step() {STEP}\nend\n{script_text('once.lua')}")
RunScript = Callable[..., Any]


class RedisIdempotencyKeys:
    """`run` calls a script, with its keys and its arguments; `read` makes of a draft, and of what was kept beside it,
    how its limits stood. Of a time that is `virtual` the server's own clock says nothing."""

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
        """None: it is the caller's now."""
        told = self._do("claim", claim, now, LEASE_MICROSECONDS)
        if isinstance(told, int):
            self.evicted.tell(told)
            return None
        digest, draft, settled = told
        try:
            return IdempotencyRecord(digest.decode(), draft, None if draft is None else self._read(draft, settled))
        except ValueError as error:
            raise StoreError(f"what is kept under a key cannot be read: {error}") from error

    def keep(self, claim: IdempotencyClaim, settled: bytes, now: int) -> bool:
        """Whether it was still the caller's."""
        return bool(self._do("keep", claim, now, KEEP_MICROSECONDS, claim.draft, settled))

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        self._do("release", claim, now, 0)

    def step(self, keys: list[str], question: bytes, claim: IdempotencyClaim, now: int) -> Any:
        """What `step.lua` answers; nothing was done where it answers nothing."""
        till = str(now + KEEP_MICROSECONDS) if self._virtual else ""
        return self._run(
            CLAIMED_STEP, [*keys, claim_key(claim)], question, claim.token, claim.draft, KEEP_MICROSECONDS, till
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
    """Names are digests: they spread by themselves."""
    return f"policyengine:{{once {int(claim.name[-8:], 16) % SLOTS}}}"
