"""Raw credentials as they came with a request: the only form in which secrets are in this process, and never shown."""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass, field, fields

from policyengine.runtime.shape import RequestError, object_at, only, text_at

LARGEST = 65_536  # characters of one of them: certificates come in chains
LARGEST_CONTENT = 8_388_608  # bytes of a body whose digest is signed


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request brought to prove who asks, each as its header had it; None for what it did not bring.

    `authorization`: `Bearer …`, `DPoP …`. `dpop`: the proof (RFC 9449). `txn_token`: of `Txn-Token`. `api_key`: of
    `X-API-Key`. `client_certificate`: of the connection, as `Client-Cert` (RFC 9440), as `X-Forwarded-Client-Cert` of
    Envoy, or in PEM; whoever asks vouches that the connection is the client's. `attestation`: an EAT. `signature`,
    `signature_input`, `signature_agent`, `content_digest`: of RFC 9421 and 9530. `method` and `url`: of the request
    that brought them where that is not `request`, the URL whole and with its query as it was sent. `content`: its body,
    where the digest of that is signed.
    """

    authorization: str | None = field(default=None, repr=False)
    dpop: str | None = field(default=None, repr=False)
    txn_token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    client_certificate: str | None = field(default=None, repr=False)
    attestation: str | None = field(default=None, repr=False)
    signature: str | None = field(default=None, repr=False)
    signature_input: str | None = field(default=None, repr=False)
    signature_agent: str | None = None
    content_digest: str | None = None
    method: str | None = None
    url: str | None = None
    content: bytes | None = field(default=None, repr=False)

    @property
    def empty(self) -> bool:
        """Whether nothing here could prove anything."""
        return all(getattr(self, name) is None for name in PROVING)


NAMES = tuple(one.name for one in fields(Credentials))
PROVING = tuple(name for name in NAMES if name not in ("method", "url", "content", "content_digest", "signature_agent"))


def read_credentials(raw: object) -> Credentials | None:
    """The member `credentials` of a question; `content` is in base64. Raises RequestError, which shows none of them."""
    given = object_at(raw, "credentials")
    if given is None:
        return None
    only(given, NAMES, "credentials")
    found = {name: text_at(value, f"credentials.{name}") for name, value in given.items() if value is not None}
    content = found.pop("content", None)
    for name, text in found.items():
        check_size(name, text)
    return Credentials(**found, content=None if content is None else content_of(content))


def check_size(name: str, text: str) -> None:
    if len(text) > LARGEST or not text.isascii():
        why = f"is longer than {LARGEST:,} characters" if text.isascii() else "has a character that is not ASCII"
        raise RequestError(f"credentials.{name}", f"`credentials.{name}` {why}")


def content_of(text: str) -> bytes:
    if len(text) > LARGEST_CONTENT * 4 // 3 + 4:
        raise RequestError("credentials.content", f"a body that is signed has at most {LARGEST_CONTENT:,} bytes")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("credentials.content", "`credentials.content` is no base64") from None
