"""A key by which a gateway asks once: who claims it, and what is known of one that was claimed before."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from policyengine.runtime.limits import ChargeResult

KEEP_MICROSECONDS = 600_000_000  # microseconds that an answer is kept under its key
LEASE_MICROSECONDS = (
    5_000_000  # microseconds that a claim keeps others waiting; whoever takes longer has lost it by then
)
MAX_KEYS_PER_GATEWAY = (
    100_000  # keys of a gateway; then its oldest is forgotten before its time: asked again, it is spent again
)
GATEWAY_DIGITS = 16  # hexadecimal digits with which the names of a gateway begin


class IdempotencyKey(NamedTuple):
    """What is to be accounted once: the `gateway` that asks, the `key` it gave, and a `digest` of what it sent with it.

    `item` is which of many: each is accounted for itself.
    """

    gateway: str
    key: str
    digest: str
    item: int | None = None

    def claim(self, revision: str, token: str) -> IdempotencyClaim:
        """Under a name that shows none of it. Another policy knows nothing of the key: what it forbids stays shut."""
        parts = (revision, "" if self.item is None else str(self.item), self.key)
        name = _digest(GATEWAY_DIGITS // 2, self.gateway) + _digest(20, self.gateway, *parts)
        return IdempotencyClaim(name, self.digest, token)


class IdempotencyClaim(NamedTuple):
    """Of a `name`, by one try, which its `token` tells from all others.

    A commit writes `draft`, the decision but for how its limits stand, in the same step as what it spends; and does
    nothing where the name is no longer claimed by this token.
    """

    name: str
    digest: str
    token: str
    draft: bytes = b""

    @property
    def gateway(self) -> str:
        """What all names of one gateway begin with: each gateway has room of its own."""
        return self.name[:GATEWAY_DIGITS]


class IdempotencyRecord(NamedTuple):
    """What is kept under a name that was claimed before: the draft and how the limits stood, once it is decided."""

    digest: str
    draft: bytes | None = None
    settled: ChargeResult | None = None


class IdempotencyKeyError(Exception):
    """Why nothing was decided under a key; nothing was spent either."""


class KeyInProgressError(IdempotencyKeyError):
    """The same question is being decided at this moment."""


class KeyReuseError(IdempotencyKeyError):
    """The key came with another question before."""


def _digest(size: int, *parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
