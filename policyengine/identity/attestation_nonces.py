"""Nonces for attestations, which are verified by HMAC instead of stored."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from hmac import compare_digest
from hmac import digest as hmac
from re import compile as regex
from secrets import token_bytes

from policyengine.identity.base64url import encode_base64url
from policyengine.identity.verified import Seconds
from policyengine.stores.credential_marks import CredentialMarks

NONCE_LIFETIME_SECONDS = 300
TIME_BYTES, RANDOM_BYTES, TAG_BYTES = 8, 16, 18  # bytes of the parts of a nonce
NONCE_BYTES = TIME_BYTES + RANDOM_BYTES + TAG_BYTES  # 56 characters of base64url: RFC 9711 allows 8 to 88
NONCE = regex(rf"[A-Za-z0-9_-]{{{NONCE_BYTES * 4 // 3}}}")


@dataclass(frozen=True, slots=True)
class AttestationNonces:
    """Nonces made of a time, random bytes and an HMAC with `key`. The store keeps only used nonces, so that clients may
    request any number of nonces. `leeway` is the tolerated clock difference in seconds between servers that share the
    key. Threads may share an instance.
    """

    marks: CredentialMarks = field(repr=False)
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)
    lifetime: int = NONCE_LIFETIME_SECONDS
    leeway: int = 0

    def issue(self, now: Seconds) -> tuple[str, Seconds]:
        """Return a new nonce and its expiry."""
        head = now.to_bytes(TIME_BYTES, "big") + token_bytes(RANDOM_BYTES)
        return encode_base64url(head + self._tag(head)), now + self.lifetime

    def take(self, nonce: str, now: Seconds) -> bool:
        """Use up a nonce; return whether it is valid, has not expired and was unused. Raises StoreError."""
        if not NONCE.fullmatch(nonce):
            return False
        raw = urlsafe_b64decode(nonce)
        head, tag = raw[: TIME_BYTES + RANDOM_BYTES], raw[TIME_BYTES + RANDOM_BYTES :]
        issued = int.from_bytes(head[:TIME_BYTES], "big")
        if not compare_digest(tag, self._tag(head)) or not -self.leeway <= now - issued < self.lifetime + self.leeway:
            return False
        return self.marks.once(f"nonce:{nonce}", issued + self.lifetime + self.leeway, now)

    def _tag(self, head: bytes) -> bytes:
        return hmac(self.key, b"attestation nonce" + head, "sha256")[:TAG_BYTES]
