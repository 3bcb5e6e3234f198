"""What an attestation says of a model, in the one spelling that policies have."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import NamedTuple

from policyengine.identity.verify.claims import Claims, claim_type_error, text_claim
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
COSE_HASHES = {-16: "sha256", -43: "sha384", -44: "sha512"}
HEX, BASE64URL = re.compile(r"[0-9A-Fa-f]+"), re.compile(r"[A-Za-z0-9_-]+")


class ModelClaim(NamedTuple):
    """`digest` as policies write it: `sha256:9f2c…`. What is None is not said."""

    id: str | None = None
    digest: str | None = None


def parse_model_claim(claims: Claims) -> ModelClaim:
    """By `ai_model_id` and `ai_model_hash`, which is `{alg, hash}` or such a text. Raises CredentialError."""
    name = text_claim(claims, "ai_model_id")
    match claims.get("ai_model_hash"):
        case None if "ai_model_hash" not in claims:
            return ModelClaim(name)
        case str(given) if ":" in given:
            alg, _, digest = given.partition(":")
            return ModelClaim(name, canonical_digest(alg, digest))
        case {"alg": str() | int() as alg, "hash": str(digest), **rest} if not rest:
            return ModelClaim(name, canonical_digest(alg, digest))
        case _:
            raise claim_type_error("ai_model_hash", "hash")


def canonical_digest(alg: str | int, digest: str) -> str:
    """Of a hash in hexadecimal or base64url: no length is one of both. Raises CredentialError."""
    name = COSE_HASHES.get(alg) if isinstance(alg, int) else alg.lower().replace("-", "")
    if name not in DIGEST_BYTES:
        raise CredentialError(RefusalCode.ALGORITHM, "the hash of the model is by an algorithm that is not allowed")
    return f"{name}:{decode_digest(digest, DIGEST_BYTES[name]).hex()}"


def decode_digest(digest: str, size: int) -> bytes:
    if len(digest) == 2 * size and HEX.fullmatch(digest):
        return bytes.fromhex(digest)
    try:
        found = b64decode(digest + "=" * (-len(digest) % 4), b"-_") if BASE64URL.fullmatch(digest) else b""
    except binascii.Error:
        found = b""
    if len(found) != size:
        raise claim_type_error("ai_model_hash", "hash of its length")
    return found
