"""Verifies DPoP proofs (RFC 9449): for this request, the presenter of a token proves that it has the key to which the
token is bound.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as hmac
from secrets import token_bytes

from joserfc.errors import JoseError

from policyengine.identity.base64url import encode_base64url, equal_in_constant_time
from policyengine.identity.config.model import SAFE_ALGORITHMS
from policyengine.identity.keys.jwks import (
    PUBLIC_MEMBERS,
    UnusableKeyError,
    VerifyingKey,
    check_strength,
    import_public_key,
    key_algorithms,
)
from policyengine.identity.url_compare import normalize_url
from policyengine.identity.verified import ProofContext
from policyengine.identity.verify import jws
from policyengine.identity.verify.strict_json import parse_strict_object
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.stores.credential_marks import CredentialMarks

MAX_PROOF_LENGTH, MAX_HEADER_LENGTH = 8_192, 4_096  # characters
MAX_CACHED_KEYS = 4_096  # maximum number of cached proof headers
MAX_PROOF_ID_LENGTH = 256  # maximum length of `jti`
PROOF_TYPE = "dpop+jwt"
HEADER_MEMBERS = frozenset({"typ", "alg", "jwk"})
NONCE = re.compile(r"[A-Za-z0-9_-]{32}")
TIME_BYTES, TAG_BYTES = 8, 16  # bytes of the parts of a nonce


@dataclass(frozen=True, slots=True)
class DpopNonces:
    """Nonces for proofs, each made of a time and its HMAC with `key`, so that no nonce has to be stored. `lifetime` is
    in seconds. The processes of a server share the key; if they run on several machines, their clocks may differ by
    `leeway` seconds."""

    lifetime: int
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)
    leeway: int = 0

    def nonce(self, now: int) -> str:
        time = now.to_bytes(TIME_BYTES, "big")
        return encode_base64url(time + self._tag(time))

    def check(self, given: object, now: int) -> None:
        """Check a nonce. Raises CredentialError."""
        if not isinstance(given, str) or not NONCE.fullmatch(given):
            raise CredentialError(RefusalCode.PROOF_NONCE)
        raw = urlsafe_b64decode(given)
        time, age = raw[:TIME_BYTES], now - int.from_bytes(raw[:TIME_BYTES], "big")
        if (
            not compare_digest(raw[TIME_BYTES:], self._tag(time))
            or not -self.leeway <= age < self.lifetime + self.leeway
        ):
            raise CredentialError(RefusalCode.PROOF_NONCE)

    def _tag(self, time: bytes) -> bytes:
        return hmac(self.key, b"dpop nonce" + time, "sha256")[:TAG_BYTES]


@dataclass(frozen=True, slots=True)
class DpopProof:
    """A parsed proof whose signature is not verified yet. `jkt` is the thumbprint of its key (RFC 7638)."""

    alg: str
    key: VerifyingKey = field(repr=False)
    jkt: str
    claims: Mapping[str, object] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DpopVerifier:
    """The verifier of proofs. `window` is the lifetime of a proof, `leeway` the tolerated clock difference, both in
    seconds.
    """

    marks: CredentialMarks = field(repr=False)
    window: int = 60
    leeway: int = 30
    nonces: DpopNonces | None = None

    def check(
        self,
        raw: str,
        request: ProofContext,
        now: int,
        *,
        jkt: str | None = None,
        token: bytes | None = None,
        admit: Callable[[str], None] | None = None,
    ) -> str:
        """Verify a proof for this request, and check that it is used for the first time. Return the thumbprint of its
        key.

        `jkt` is the required thumbprint; `token` is the SHA-256 of the token that comes with the proof; `admit` may
        raise before a valid proof is remembered. Raises CredentialError; StoreError if the store cannot say whether the
        proof was used.
        """
        proof = read_proof(raw)
        if jkt is not None and not equal_in_constant_time(proof.jkt, jkt):
            raise CredentialError(RefusalCode.BOUND_TO_OTHER)
        check_proof_signature(proof)
        check_proof_target(proof.claims, request)
        issued = self._check_time(proof.claims, now)
        if token is not None and not (
            isinstance(ath := proof.claims.get("ath"), str) and equal_in_constant_time(ath, encode_base64url(token))
        ):
            raise CredentialError(RefusalCode.PROOF_TOKEN)
        if self.nonces is not None:
            self.nonces.check(proof.claims.get("nonce"), now)
        if admit is not None:
            admit(proof.jkt)
        if not self.marks.once(f"dpop:{proof.jkt}:{proof_identifier(proof.claims)}", issued + self.window + 1, now):
            raise CredentialError(RefusalCode.PROOF_REPLAYED)
        return proof.jkt

    def _check_time(self, claims: Mapping[str, object], now: int) -> int:
        """Check the proof's time of creation and its optional `exp`; return the time of creation, in seconds since
        1970. Raises CredentialError.
        """
        issued, ends = parse_numeric_date(claims.get("iat")), claims.get("exp")
        if not now - self.window <= issued <= now + self.leeway or (
            ends is not None and parse_numeric_date(ends) <= now
        ):
            raise CredentialError(RefusalCode.PROOF_TIME)
        return issued


# ── Claims ────────────────────────────────────────────────────────────────────────────────────


def check_proof_target(claims: Mapping[str, object], request: ProofContext) -> None:
    """Check that the proof is for this method and URL. Raises CredentialError."""
    method, url = claims.get("htm"), claims.get("htu")
    if not isinstance(method, str) or method != request.method:
        raise CredentialError(RefusalCode.PROOF_METHOD)
    if request.url is None:
        raise CredentialError(RefusalCode.PROOF_URL, "the URL of the request is unknown")
    said = normalize_url(url) if isinstance(url, str) else None
    if said is None or said != normalize_url(request.url):
        raise CredentialError(RefusalCode.PROOF_URL)


def proof_identifier(claims: Mapping[str, object]) -> str:
    """Return a digest of `jti`, of constant size. Raises CredentialError."""
    found = claims.get("jti")
    if not isinstance(found, str) or not 0 < len(found) <= MAX_PROOF_ID_LENGTH:
        raise CredentialError(RefusalCode.PROOF, "the proof has no `jti`, or one that is too long")
    return encode_base64url(sha256(found.encode("utf-8", "surrogatepass")).digest())


def parse_numeric_date(raw: object) -> int:
    """Parse a NumericDate. Raises CredentialError."""
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal) or not 0 <= raw < 2**40:
        raise CredentialError(RefusalCode.PROOF_TIME, "the proof has no valid `iat`")
    return int(raw)


# ── Parsing ───────────────────────────────────────────────────────────────────────────────────


def read_proof(raw: str) -> DpopProof:
    """Parse a proof. Raises CredentialError."""
    if "," in raw or " " in raw.strip():
        raise CredentialError(RefusalCode.PROOF_TWICE)
    parts = raw.strip().split(".")
    if len(raw) > MAX_PROOF_LENGTH or len(parts) != 3:
        raise CredentialError(RefusalCode.PROOF)
    alg, key, jkt = parse_proof_header(parts[0])
    signed = f"{parts[0]}.{parts[1]}".encode()
    return DpopProof(alg, key, jkt, parse_segment(parts[1]), signed, decode_segment(parts[2]))


@lru_cache(maxsize=MAX_CACHED_KEYS)
def parse_proof_header(segment: str) -> tuple[str, VerifyingKey, str]:
    """Return the algorithm, the key and its thumbprint. The result is cached, because a client sends the same header
    with each proof. Raises CredentialError.
    """
    if len(segment) > MAX_HEADER_LENGTH:
        raise CredentialError(RefusalCode.PROOF)
    header = parse_segment(segment)
    if header.keys() - HEADER_MEMBERS:
        raise CredentialError(
            RefusalCode.PROOF, "the header of the proof has members other than `typ`, `alg` and `jwk`"
        )
    if header.get("typ") != PROOF_TYPE:
        raise CredentialError(RefusalCode.PROOF, "the `typ` of the proof is not `dpop+jwt`")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in SAFE_ALGORITHMS:
        raise CredentialError(RefusalCode.PROOF, "the algorithm of the proof is not allowed")
    key = parse_proof_key(header.get("jwk"), alg)
    return alg, key, key.thumbprint()


def parse_proof_key(jwk: object, alg: str) -> VerifyingKey:
    """Parse the key of a proof. It must be public, strong enough and suitable for the algorithm, and must have no
    members that could name another key. Raises CredentialError.
    """
    if not isinstance(jwk, dict):
        raise CredentialError(RefusalCode.PROOF_KEY, "the proof has no key")
    allowed = {"kty", "alg", "use", *PUBLIC_MEMBERS.get(str(jwk.get("kty")), ())}
    if jwk.keys() - allowed:
        raise CredentialError(RefusalCode.PROOF_KEY, "the key of the proof has unexpected members")
    if jwk.get("use", "sig") != "sig":
        raise CredentialError(RefusalCode.PROOF_KEY, "the key of the proof is not for signatures")
    try:
        key = import_public_key(jwk)
        check_strength(key)
        fitting = key_algorithms(jwk, key)
    except UnusableKeyError as error:
        raise CredentialError(RefusalCode.PROOF_KEY, f"the key of the proof cannot be used: {error.why}") from None
    if alg not in fitting:
        raise CredentialError(RefusalCode.PROOF_KEY, "the key of the proof does not fit its algorithm")
    return key


def check_proof_signature(proof: DpopProof) -> None:
    """Verify the signature of a proof. Raises CredentialError."""
    try:
        holds = jws.MODELS[proof.alg].verify(proof.signed, proof.signature, proof.key)
    except (JoseError, ValueError):
        holds = False
    if not holds:
        raise CredentialError(RefusalCode.PROOF, "the signature of the proof is not valid")


def parse_segment(segment: str) -> dict[str, object]:
    data = decode_segment(segment)
    try:
        return parse_strict_object(data)
    except CredentialError as refused:
        raise CredentialError(RefusalCode.PROOF, f"the proof is malformed: {refused.why}") from None


def decode_segment(segment: str) -> bytes:
    try:
        return jws.decode_segment(segment)
    except CredentialError:
        raise CredentialError(RefusalCode.PROOF, "the proof is not valid base64url") from None
