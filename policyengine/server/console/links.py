"""Links that sign in once: the secret of a link is printed on the terminal of the server and is valid for five
minutes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic

LINK_SECONDS = 300
MIN_SECONDS_BETWEEN_LINKS = 10
SECRET_BYTES = 32


@dataclass(slots=True)
class OneTimeLink:
    """At most one link is valid: a new link replaces the previous one. Only the digest of its secret is kept."""

    clock: Callable[[], float] = monotonic
    _digest: bytes | None = field(default=None, repr=False)
    _made: float | None = None

    def renew(self) -> str | None:
        """Return the secret of a new link; None if the previous one was made a moment ago."""
        now = self.clock()
        if self._made is not None and now - self._made < MIN_SECONDS_BETWEEN_LINKS:
            return None
        secret = secrets.token_urlsafe(SECRET_BYTES)
        self._digest, self._made = digest(secret), now
        return secret

    def spend(self, secret: str) -> bool:
        """Return whether the secret is that of the valid link, and if so, make the link invalid."""
        if self._digest is None or self._made is None or self.clock() - self._made >= LINK_SECONDS:
            return False
        if not secrets.compare_digest(self._digest, digest(secret)):
            return False
        self._digest = None
        return True


def digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
