"""Parses signed tokens strictly before verification, then verifies each with exactly one algorithm. The parsed content
is the verified content: no second parser reads the token.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from policyengine.identity.config.model import SAFE_ALGORITHMS
from policyengine.identity.keys.jwks import VerifyingKey
from policyengine.identity.verify.strict_json import parse_strict_object
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

MAX_TOKEN_LENGTH = 16_384  # characters
MAX_NAME_LENGTH = 256
# Maximum characters of a cached header, and maximum number of cached headers.
MAX_CACHED_HEADER_LENGTH, MAX_CACHED_HEADERS = 512, 1_000
# Key ids as servers write them: thumbprints, UUIDs, ARNs, DIDs. They are only names, so paths and URLs are refused.
KID = re.compile(r"[A-Za-z0-9_~+=@#-][A-Za-z0-9._~+=@:/#-]{0,255}")
WITHIN_PATHS = ("..", "//")
# Digests in plain base64, as in key ids of Cognito; no meaningful text has this form.
DIGEST = re.compile(r"[A-Za-z0-9+/]{27}=|[A-Za-z0-9+/]{43}=")
DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# Maps base64url to base64, and every other byte to an invalid digit.
PLAIN = bytes({**dict.fromkeys(range(256), ord("!")), **{one: one for one in DIGITS}, 0x2D: 0x2B, 0x5F: 0x2F}.values())
# The valid last digits, which leave no unused bits, by the number of extra digits; a single extra digit is invalid.
LAST = ("", "", "AQgw", "AEIMQUYcgkosw048")
PADDING = (b"", b"", b"==", b"=")
KEYS = frozenset({"jku", "jwk", "x5u", "x5c"})
DEMANDS = frozenset({"crit", "b64"})
ENCRYPTED = frozenset({"enc", "zip"})
PRESENTATION = "application/"
REPEATABLE = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id"})

# `EdDSA` means Ed25519 here: issuers have no keys of the other curve.
MODELS: dict[str, Any] = {
    name: JWSRegistry.algorithms["Ed25519" if name == "EdDSA" else name] for name in SAFE_ALGORITHMS
}


@dataclass(frozen=True, slots=True)
class Jws:
    """A parsed token whose signature is not verified yet. `type` is in lower case, without `application/`; None if
    missing."""

    header: Mapping[str, object]
    claims: dict[str, object] = field(repr=False)
    alg: str
    kid: str | None
    type: str | None
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def read_jws(raw: str) -> Jws:
    """Parse a compact JWS. Raises CredentialError."""
    if len(raw) > MAX_TOKEN_LENGTH:
        raise CredentialError(RefusalCode.TOO_LARGE)
    parts = raw.split(".")
    if len(parts) == 5:
        raise CredentialError(RefusalCode.ENCODING, "the token is encrypted; only signed tokens are accepted")
    if len(parts) != 3:
        raise CredentialError(RefusalCode.NOT_A_TOKEN)
    head, body, signature = parts
    header, alg, kid, type_ = (parse_header if len(head) <= MAX_CACHED_HEADER_LENGTH else parse_header.__wrapped__)(
        head
    )
    claims = parse_strict_object(decode_segment(body))
    if header.keys() & REPEATABLE:
        check_repeated(header, claims)
    signed = raw[: -len(signature) - 1].encode("ascii")
    return Jws(header, claims, alg, kid, type_, signed, decode_segment(signature))


def check_repeated(header: Mapping[str, object], claims: Mapping[str, object]) -> None:
    """Check that claims that the header repeats have equal values (RFC 7519, 5.3): otherwise two readers could see
    different issuers or audiences. Raises CredentialError.
    """
    for name in sorted(REPEATABLE & header.keys()):
        if name not in claims or header[name] != claims[name] or type(header[name]) is not type(claims[name]):
            raise CredentialError(RefusalCode.CONTRADICTION, f"the header and the claims differ in `{name}`")


def decode_segment(segment: str) -> bytes:
    """Decode canonical base64url. Raises CredentialError."""
    over = len(segment) % 4
    if over and segment[-1] not in LAST[over]:
        raise CredentialError(RefusalCode.ENCODING, "the base64url is not canonical: unused bits are set")
    try:
        found = a2b_base64(segment.encode("ascii").translate(PLAIN) + PADDING[over], strict_mode=True)
    except ValueError:  # errors of ASCII or base64
        raise CredentialError(RefusalCode.ENCODING) from None
    if not found:
        raise CredentialError(RefusalCode.NOT_A_TOKEN)
    return found


@lru_cache(MAX_CACHED_HEADERS)
def parse_header(segment: str) -> tuple[Mapping[str, object], str, str | None, str | None]:
    """Return the header, its `alg`, `kid` and `typ`. The result is cached, because the headers of one issuer repeat.
    Raises CredentialError.
    """
    header = parse_strict_object(decode_segment(segment))
    names = header.keys()
    if names & DEMANDS:
        raise CredentialError(RefusalCode.CRITICAL_HEADER)
    if names & KEYS:
        raise CredentialError(RefusalCode.KEY_IN_TOKEN)
    if names & ENCRYPTED:
        raise CredentialError(
            RefusalCode.ENCODING, "the token is encrypted or compressed; only signed tokens are accepted"
        )
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in MODELS:
        raise CredentialError(RefusalCode.ALGORITHM)
    if str(header.get("cty", "")).lower().removeprefix(PRESENTATION) == "jwt":
        raise CredentialError(RefusalCode.TOKEN_TYPE, "the token contains another token (`cty`)")
    return MappingProxyType(header), alg, parse_key_id(header), parse_type(header)


def parse_key_id(header: Mapping[str, object]) -> str | None:
    if "kid" not in header:
        return None
    kid = header["kid"]
    if not isinstance(kid, str):
        raise CredentialError(RefusalCode.KEY_ID)
    if not DIGEST.fullmatch(kid) and (not KID.fullmatch(kid) or any(one in kid for one in WITHIN_PATHS)):
        raise CredentialError(RefusalCode.KEY_ID)
    return kid


def parse_type(header: Mapping[str, object]) -> str | None:
    """Return `typ` in lower case, without the prefix `application/`, which is optional (RFC 7515); None if it is
    missing. Raises CredentialError.
    """
    if "typ" not in header:
        return None
    found = header["typ"]
    if not isinstance(found, str) or not 0 < len(found) <= MAX_NAME_LENGTH or not found.isascii():
        raise CredentialError(RefusalCode.TOKEN_TYPE)
    return normalize_type(found)


def normalize_type(text: str) -> str:
    return text.lower().removeprefix(PRESENTATION)


# ── Verification ──────────────────────────────────────────────────────────────────────────────


def check_signature(jws: Jws, keys: Sequence[VerifyingKey], allowed: Collection[str]) -> None:
    """Verify the signature with one of these keys and exactly the token's algorithm, if the issuer may use that
    algorithm. Raises CredentialError."""
    if jws.alg not in allowed:
        raise CredentialError(RefusalCode.ALGORITHM)
    fitting = [key for key in keys if supports_algorithm(key, jws.alg)]
    if not fitting:
        raise CredentialError(RefusalCode.WRONG_KEY_USE if keys else RefusalCode.UNKNOWN_KEY)
    if not any(is_signed_by(jws, key) for key in fitting):
        raise CredentialError(RefusalCode.SIGNATURE)


def supports_algorithm(key: VerifyingKey, alg: str) -> bool:
    """Return whether the key has the type, curve and use of the algorithm."""
    model = MODELS[alg]
    try:
        if alg == "EdDSA" and key.get("alg") == "EdDSA":
            key.check_use("sig")
            return isinstance(key, OKPKey) and key.curve_name == "Ed25519"
        model.check_key(key)
    except JoseError:
        return False
    return True


def is_signed_by(jws: Jws, key: VerifyingKey) -> bool:
    try:
        return MODELS[jws.alg].verify(jws.signed, jws.signature, key) is True
    except (JoseError, ValueError):
        return False
