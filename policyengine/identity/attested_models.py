"""What an attestation says of a model, in the one spelling that policies have."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import NamedTuple

from policyengine.identity.verify.claims import Claims, text, wrong
from policyengine.runtime.credential_errors import Refusal, Refused

BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
OF_COSE = {-16: "sha256", -43: "sha384", -44: "sha512"}
HEX, BASE64URL = re.compile(r"[0-9A-Fa-f]+"), re.compile(r"[A-Za-z0-9_-]+")


class Model(NamedTuple):
    """`digest` as policies write it: `sha256:9f2c…`. What is None is not said."""

    id: str | None = None
    digest: str | None = None


def model_of(claims: Claims) -> Model:
    """By `ai_model_id` and `ai_model_hash`, which is `{alg, hash}` or such a text. Raises Refused."""
    name = text(claims, "ai_model_id")
    match claims.get("ai_model_hash"):
        case None if "ai_model_hash" not in claims:
            return Model(name)
        case str(given) if ":" in given:
            alg, _, digest = given.partition(":")
            return Model(name, digest_of(alg, digest))
        case {"alg": str() | int() as alg, "hash": str(digest), **rest} if not rest:
            return Model(name, digest_of(alg, digest))
        case _:
            raise wrong("ai_model_hash", "hash")


def digest_of(alg: str | int, digest: str) -> str:
    """Of a hash in hexadecimal or base64url: no length is one of both. Raises Refused."""
    name = OF_COSE.get(alg) if isinstance(alg, int) else alg.lower().replace("-", "")
    if name not in BYTES:
        raise Refused(Refusal.ALGORITHM, "the hash of the model is by an algorithm that is not allowed")
    return f"{name}:{bytes_of(digest, BYTES[name]).hex()}"


def bytes_of(digest: str, size: int) -> bytes:
    if len(digest) == 2 * size and HEX.fullmatch(digest):
        return bytes.fromhex(digest)
    try:
        found = b64decode(digest + "=" * (-len(digest) % 4), b"-_") if BASE64URL.fullmatch(digest) else b""
    except binascii.Error:
        found = b""
    if len(found) != size:
        raise wrong("ai_model_hash", "hash of its length")
    return found
