"""Proofs that the presenter of a token has the key it is bound to, for this request (DPoP, RFC 9449)."""

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

from policyengine.identity.base64url import b64url, same
from policyengine.identity.config.model import SAFE_ALGORITHMS
from policyengine.identity.keys.jwks import PUBLIC, Unusable, VerifyingKey, algorithms_of, check_strength, key_of
from policyengine.identity.url_compare import normal_url
from policyengine.identity.verified import Request
from policyengine.identity.verify import jws
from policyengine.identity.verify.strict_json import json_object
from policyengine.runtime.credential_errors import Refusal, Refused
from policyengine.stores.credential_marks import Marks

LARGEST, LARGEST_HEADER = 8_192, 4_096  # characters
MOST_KEYS = 4_096  # that are known from proofs before
LONGEST_ID = 256  # characters of `jti`
TYPE = "dpop+jwt"
HEADER = frozenset({"typ", "alg", "jwk"})
NONCE = re.compile(r"[A-Za-z0-9_-]{32}")
TIME, TAG = 8, 16  # bytes of a nonce


@dataclass(frozen=True, slots=True)
class Nonces:
    """Nonces that nobody has to remember: the time, and what only who has `key` can make of it. `lifetime` in seconds.
    Processes that serve one place share a key; where they are on several machines, their clocks may differ by
    `leeway`."""

    lifetime: int
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)
    leeway: int = 0

    def nonce(self, now: int) -> str:
        time = now.to_bytes(TIME, "big")
        return b64url(time + self._tag(time))

    def check(self, given: object, now: int) -> None:
        """Raises Refused."""
        if not isinstance(given, str) or not NONCE.fullmatch(given):
            raise Refused(Refusal.PROOF_NONCE)
        raw = urlsafe_b64decode(given)
        time, age = raw[:TIME], now - int.from_bytes(raw[:TIME], "big")
        if not compare_digest(raw[TIME:], self._tag(time)) or not -self.leeway <= age < self.lifetime + self.leeway:
            raise Refused(Refusal.PROOF_NONCE)

    def _tag(self, time: bytes) -> bytes:
        return hmac(self.key, b"dpop nonce" + time, "sha256")[:TAG]


@dataclass(frozen=True, slots=True)
class Proof:
    """One that was read, whose signature nobody looked at yet. `jkt`: the thumbprint of its key (RFC 7638)."""

    alg: str
    key: VerifyingKey = field(repr=False)
    jkt: str
    claims: Mapping[str, object] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proofs:
    """Whether proofs hold. `window`: how many seconds one is good for; `leeway`: by how many clocks may differ."""

    marks: Marks = field(repr=False)
    window: int = 60
    leeway: int = 30
    nonces: Nonces | None = None

    def check(
        self,
        raw: str,
        request: Request,
        now: int,
        *,
        jkt: str | None = None,
        token: bytes | None = None,
        admit: Callable[[str], None] | None = None,
    ) -> str:
        """The thumbprint of the key that was proved to be there, for this request and once. `jkt`: that it has to be;
        `token`: SHA-256 of the token that the proof comes with; `admit` may raise before one that holds is remembered.
        Raises Refused; StoreError where nobody knows whether it was used."""
        proof = read_proof(raw)
        if jkt is not None and not same(proof.jkt, jkt):
            raise Refused(Refusal.BOUND_TO_OTHER)
        check_signature(proof)
        check_place(proof.claims, request)
        issued = self._check_time(proof.claims, now)
        if token is not None and not (isinstance(ath := proof.claims.get("ath"), str) and same(ath, b64url(token))):
            raise Refused(Refusal.PROOF_TOKEN)
        if self.nonces is not None:
            self.nonces.check(proof.claims.get("nonce"), now)
        if admit is not None:
            admit(proof.jkt)
        if not self.marks.once(f"dpop:{proof.jkt}:{identifier(proof.claims)}", issued + self.window + 1, now):
            raise Refused(Refusal.PROOF_REPLAYED)
        return proof.jkt

    def _check_time(self, claims: Mapping[str, object], now: int) -> int:
        """When it was made. It may bring an end of its own."""
        issued, ends = seconds(claims.get("iat")), claims.get("exp")
        if not now - self.window <= issued <= now + self.leeway or (ends is not None and seconds(ends) <= now):
            raise Refused(Refusal.PROOF_TIME)
        return issued


# ── What it says ──────────────────────────────────────────────────────────────────────────────


def check_place(claims: Mapping[str, object], request: Request) -> None:
    """Raises Refused."""
    method, url = claims.get("htm"), claims.get("htu")
    if not isinstance(method, str) or method != request.method:
        raise Refused(Refusal.PROOF_METHOD)
    if request.url is None:
        raise Refused(Refusal.PROOF_URL, "nobody says which URL was asked for")
    said = normal_url(url) if isinstance(url, str) else None
    if said is None or said != normal_url(request.url):
        raise Refused(Refusal.PROOF_URL)


def identifier(claims: Mapping[str, object]) -> str:
    """Of `jti` what takes the same room whatever it is. Raises Refused."""
    found = claims.get("jti")
    if not isinstance(found, str) or not 0 < len(found) <= LONGEST_ID:
        raise Refused(Refusal.PROOF, "the proof has no `jti`, or one that is too long")
    return b64url(sha256(found.encode("utf-8", "surrogatepass")).digest())


def seconds(raw: object) -> int:
    """Of a NumericDate. Raises Refused."""
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal) or not 0 <= raw < 2**40:
        raise Refused(Refusal.PROOF_TIME, "the proof does not say when it was made")
    return int(raw)


# ── Its form ──────────────────────────────────────────────────────────────────────────────────


def read_proof(raw: str) -> Proof:
    """Raises Refused."""
    if "," in raw or " " in raw.strip():
        raise Refused(Refusal.PROOF_TWICE)
    parts = raw.strip().split(".")
    if len(raw) > LARGEST or len(parts) != 3:
        raise Refused(Refusal.PROOF)
    alg, key, jkt = header_of(parts[0])
    signed = f"{parts[0]}.{parts[1]}".encode()
    return Proof(alg, key, jkt, document(parts[1]), signed, decoded(parts[2]))


@lru_cache(maxsize=MOST_KEYS)
def header_of(segment: str) -> tuple[str, VerifyingKey, str]:
    """Algorithm, key and its thumbprint: whoever has a key sends the same with each proof. Raises Refused."""
    if len(segment) > LARGEST_HEADER:
        raise Refused(Refusal.PROOF)
    header = document(segment)
    if header.keys() - HEADER:
        raise Refused(Refusal.PROOF, "the header of the proof has more than `typ`, `alg` and `jwk`")
    if header.get("typ") != TYPE:
        raise Refused(Refusal.PROOF, "the proof is a token of another type")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in SAFE_ALGORITHMS:
        raise Refused(Refusal.PROOF, "the algorithm of the proof is not allowed")
    key = key_of_proof(header.get("jwk"), alg)
    return alg, key, key.thumbprint()


def key_of_proof(jwk: object, alg: str) -> VerifyingKey:
    """Public, strong enough, of the algorithm, and with nothing beside it that could name another. Raises Refused."""
    if not isinstance(jwk, dict):
        raise Refused(Refusal.PROOF_KEY, "the proof has no key")
    allowed = {"kty", "alg", "use", *PUBLIC.get(str(jwk.get("kty")), ())}
    if jwk.keys() - allowed:
        raise Refused(Refusal.PROOF_KEY, "the key of the proof has members that have no place in it")
    if jwk.get("use", "sig") != "sig":
        raise Refused(Refusal.PROOF_KEY, "the key of the proof is for something else")
    try:
        key = key_of(jwk)
        check_strength(key)
        fitting = algorithms_of(jwk, key)
    except Unusable as error:
        raise Refused(Refusal.PROOF_KEY, f"the key of the proof cannot be used: {error.why}") from None
    if alg not in fitting:
        raise Refused(Refusal.PROOF_KEY, "the key of the proof is of another algorithm")
    return key


def check_signature(proof: Proof) -> None:
    """Raises Refused."""
    try:
        holds = jws.MODELS[proof.alg].verify(proof.signed, proof.signature, proof.key)
    except (JoseError, ValueError):
        holds = False
    if not holds:
        raise Refused(Refusal.PROOF, "the signature of the proof does not hold")


def document(segment: str) -> dict[str, object]:
    data = decoded(segment)
    try:
        return json_object(data)
    except Refused as refused:
        raise Refused(Refusal.PROOF, f"the proof cannot be read: {refused.why}") from None


def decoded(segment: str) -> bytes:
    try:
        return jws.decoded(segment)
    except Refused:
        raise Refused(Refusal.PROOF, "the proof is not in base64url") from None
