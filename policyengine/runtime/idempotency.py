"""Idempotency keys: the key of a gateway, its claim, and the record of an earlier decision."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from policyengine.runtime.limits import ChargeResult

KEEP_MICROSECONDS = 600_000_000  # lifetime of an answer under its key, in microseconds
LEASE_MICROSECONDS = 5_000_000  # microseconds for which a claim blocks others; a slower decision loses its claim
# Beyond this, the oldest key of the gateway is dropped early, and a repeat of its request is charged again.
MAX_KEYS_PER_GATEWAY = 100_000
GATEWAY_DIGITS = 16  # hexadecimal digits at the start of a gateway's names


class IdempotencyKey(NamedTuple):
    """The key of one charged decision: the `gateway`, its `key`, and a `digest` of the question. `item` is the index in
    a batch, because each item is charged separately.
    """

    gateway: str
    key: str
    digest: str
    item: int | None = None

    def claim(self, revision: str, token: str) -> IdempotencyClaim:
        """Return a claim whose name reveals nothing about the key. The name includes the revision, so that a new policy
        decides again.
        """
        parts = (revision, "" if self.item is None else str(self.item), self.key)
        name = _digest(GATEWAY_DIGITS // 2, self.gateway) + _digest(20, self.gateway, *parts)
        return IdempotencyClaim(name, self.digest, token)


class IdempotencyClaim(NamedTuple):
    """A claim to a `name` by one attempt, which its `token` identifies. A commit writes `draft`, the decision without
    the state of its limits, in the same step as its charges. A commit changes nothing if this token has lost the claim.
    With `replaces`, the draft of a confirm that no longer holds, the claim also succeeds on the record that has exactly
    this draft.
    """

    name: str
    digest: str
    token: str
    draft: bytes = b""
    replaces: bytes = b""

    def may_replace(self, draft: bytes | None) -> bool:
        """Return whether the claim succeeds on a record with this draft."""
        return bool(draft) and draft == self.replaces

    @property
    def gateway(self) -> str:
        """The common prefix of all names of one gateway: each gateway has its own capacity."""
        return self.name[:GATEWAY_DIGITS]


class IdempotencyRecord(NamedTuple):
    """The record of a claimed name. After the decision, it contains the draft and the result of its charges."""

    digest: str
    draft: bytes | None = None
    settled: ChargeResult | None = None


class IdempotencyKeyError(Exception):
    """The error for a key under which nothing was decided or charged."""


class KeyInProgressError(IdempotencyKeyError):
    """The error for a key whose question another request is deciding."""


class KeyReuseError(IdempotencyKeyError):
    """The error for a key that was already used for another question."""


def _digest(size: int, *parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
