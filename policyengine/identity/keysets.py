"""Keys that signatures are verified by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from joserfc.jwk import ECKey, OKPKey, RSAKey

VerifyingKey: TypeAlias = RSAKey | ECKey | OKPKey


class KeySource(Protocol):
    """The keys of one issuer. Threads may share one."""

    def find(self, kid: str | None, alg: str, now: int) -> Sequence[VerifyingKey]:
        """Keys that a token with this header may be signed by. `now` in seconds since 1970. Raises Refused."""
        ...
