"""Client certificates as gateways report them: RFC 9440, Envoy's header, or PEM.

The input comes from an authenticated gateway, never from headers of the client's own request.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from policyengine.identity.base64url import encode_base64url, equal_in_constant_time
from policyengine.identity.keys.jwks import find_weakness
from policyengine.runtime.credential_errors import CredentialError, RefusalCode

PEM, ESCAPED_PEM = "-----BEGIN CERTIFICATE-----", "-----BEGIN%20CERTIFICATE-----"
MAX_CHAIN_LENGTH = 8
# One `Key=value` pair of Envoy's header and its terminator; a value that contains one of `,;="` is quoted.
PAIR = re.compile(r"""(?P<key>[A-Za-z]{1,16})=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",;]*))(?P<end>[,;]|\Z)""")
SINGLE_FIELDS = ("Hash", "Cert", "Chain", "Subject")
HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client certificate. `x5t` is its SHA-256 in base64url. `certificate` is None if the gateway reports only the
    digest. `chain` holds the intermediate certificates.
    """

    x5t: str
    certificate: x509.Certificate | None
    chain: tuple[x509.Certificate, ...] = ()


def parse_client_certificate(text: str) -> ClientCertificate:
    """Parse `Client-Cert`, `X-Forwarded-Client-Cert` or PEM. Raises CredentialError."""
    if text.startswith(":"):
        return client_certificate((from_der(parse_byte_sequence(text)),))
    if text.startswith((PEM, ESCAPED_PEM)):
        return client_certificate(from_pem(unquote(text) if text.startswith(ESCAPED_PEM) else text))
    return from_envoy(text)


def client_certificate(certificates: tuple[x509.Certificate, ...]) -> ClientCertificate:
    """Return the client certificate, the first of these, after checking the strength of its key. Raises
    CredentialError.
    """
    check_key_strength(certificates[0])
    return ClientCertificate(x5t_thumbprint(certificates[0]), certificates[0], certificates[1:])


def check_key_strength(certificate: x509.Certificate) -> None:
    """Check that the key is as strong as an issuer's key must be. Raises CredentialError."""
    try:
        why = find_weakness(certificate.public_key())
    except Exception:  # libraries raise many errors for malformed input
        why = "its type is unknown"
    if why is not None:
        raise CredentialError(RefusalCode.WEAK_KEY, f"the key of the client certificate cannot be used: {why}")


def x5t_thumbprint(certificate: x509.Certificate) -> str:
    """Return `x5t#S256` of RFC 8705."""
    return encode_base64url(sha256(certificate.public_bytes(Encoding.DER)).digest())


def check_validity(certificate: x509.Certificate, now: int) -> int:
    """Check the validity period. Return its end in seconds since 1970. Raises CredentialError."""
    try:
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    except ValueError:  # such as the year 0, which is possible in a self-signed certificate
        raise CredentialError(RefusalCode.CERTIFICATE_TIME) from None
    if not begins <= now <= ends:
        raise CredentialError(RefusalCode.CERTIFICATE_TIME)
    return int(ends)


# ── Formats ───────────────────────────────────────────────────────────────────────────────────


def parse_byte_sequence(text: str) -> bytes:
    """Parse a string that is exactly one byte sequence of RFC 9651. Raises CredentialError."""
    try:
        if len(text) < 3 or not text.endswith(":"):
            raise ValueError
        return b64decode(text[1:-1], validate=True)
    except (binascii.Error, ValueError):
        raise CredentialError(RefusalCode.CERTIFICATE, "`Client-Cert` is not a single byte sequence") from None


def from_der(data: bytes) -> x509.Certificate:
    """Parse a DER certificate. Raises CredentialError."""
    try:
        return check_single_encoding(x509.load_der_x509_certificate(data))
    except CredentialError:
        raise
    except Exception:  # libraries raise many errors for malformed input
        raise CredentialError(RefusalCode.CERTIFICATE) from None


def check_single_encoding(found: x509.Certificate) -> x509.Certificate:
    """Check that the signature has no unused bits. Such bits are not signed, so the certificate would have two
    spellings and two hashes. Raises CredentialError.
    """
    if found.public_bytes(Encoding.DER)[-len(found.signature) - 1] != 0:
        raise CredentialError(RefusalCode.CERTIFICATE)
    return found


def from_pem(text: str) -> tuple[x509.Certificate, ...]:
    """Parse PEM certificates, the client's first. Raises CredentialError."""
    try:
        found = tuple(map(check_single_encoding, x509.load_pem_x509_certificates(text.encode())))
    except CredentialError:
        raise
    except Exception:
        raise CredentialError(RefusalCode.CERTIFICATE) from None
    if len(found) > MAX_CHAIN_LENGTH:
        raise CredentialError(RefusalCode.CERTIFICATE, f"the gateway sent more than {MAX_CHAIN_LENGTH} certificates")
    return found


# ── Envoy's header ────────────────────────────────────────────────────────────────────────────


def from_envoy(text: str) -> ClientCertificate:
    """Parse `X-Forwarded-Client-Cert`, which must describe only one connection. Raises CredentialError."""
    given = parse_xfcc_pairs(text)
    said = {key: unquote(value) for key, value in given if key in SINGLE_FIELDS}
    if len(said) != sum(key in SINGLE_FIELDS for key, _ in given):
        raise CredentialError(RefusalCode.UNTRUSTED_PROXY, "the proxy's header repeats a field")
    told = said.get("Hash")
    if told is not None and not HASH.fullmatch(told):
        raise CredentialError(RefusalCode.CERTIFICATE, "the proxy's header has no hash of a certificate")
    chain = from_pem(said["Chain"]) if "Chain" in said else ()
    leaf = from_pem(said["Cert"])[:1] if "Cert" in said else chain[:1]
    if not leaf:
        if told is None:
            raise CredentialError(
                RefusalCode.CERTIFICATE, "the proxy's header has neither the certificate nor its hash"
            )
        return ClientCertificate(encode_base64url(bytes.fromhex(told)), None)
    found = client_certificate((*leaf, *(one for one in chain if one != leaf[0])))
    if told is not None and not equal_in_constant_time(found.x5t, encode_base64url(bytes.fromhex(told))):
        raise CredentialError(RefusalCode.UNTRUSTED_PROXY, "the proxy's header mixes two certificates")
    return found


def parse_xfcc_pairs(text: str) -> list[tuple[str, str]]:
    """Parse `Key=value;Key="value"` in order. A comma would begin another connection, and is refused: Envoy copies
    names from the certificate without escaping them, so a name with a comma could forge a connection. Raises
    CredentialError.
    """
    found: list[tuple[str, str]] = []
    position, end = 0, ";"
    while end == ";":
        pair = PAIR.match(text, position)
        if pair is None:
            raise CredentialError(RefusalCode.UNTRUSTED_PROXY, "the proxy's header is not in Envoy's format")
        quoted, position, end = pair["quoted"], pair.end(), pair["end"]
        found.append((pair["key"], pair["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
    if end == ",":
        raise CredentialError(
            RefusalCode.UNTRUSTED_PROXY, "the proxy's header lists several connections: set `SANITIZE_SET` in Envoy"
        )
    return found
