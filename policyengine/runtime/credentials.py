"""Raw credentials of a request, the only form in which this process holds secrets. They are never logged."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256, sha512
from typing import Any

from policyengine.runtime.structure_checks import RequestError, check_members, get_object, get_text

MAX_CREDENTIAL_LENGTH = 65_536  # maximum characters of one credential; a certificate may include its chain
HASHES: Mapping[str, Callable[..., Any]] = {"sha-256": sha256, "sha-512": sha512}  # names of algorithms in RFC 9530


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request, each as in its header; None if the request has none of that kind.

    - `authorization`: `Bearer …`, `DPoP …`
    - `dpop`: the proof (RFC 9449)
    - `txn_token`: the header `Txn-Token`
    - `api_key`: the header `X-API-Key`
    - `client_certificate`: of the connection, as `Client-Cert` (RFC 9440), as Envoy's `X-Forwarded-Client-Cert`, or in
      PEM; the caller vouches that the connection is the client's
    - `attestation`: an EAT
    - `signature`, `signature_input`, `signature_agent`, `content_digest`: RFC 9421 and 9530
    - `method` and `url`: of the request that carried the credentials, if it is not `request`; the URL is complete, with
      its query as sent
    - `digests`: of the body as received, by algorithm, from a component that saw the whole body; empty if no component
      did
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
    digests: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether no member contains a credential."""
        return all(getattr(self, name) is None for name in PROOF_NAMES)


CREDENTIAL_NAMES = tuple(one.name for one in fields(Credentials))
PROOF_NAMES = tuple(
    name for name in CREDENTIAL_NAMES if name not in ("method", "url", "digests", "content_digest", "signature_agent")
)


def read_credentials(raw: object) -> Credentials | None:
    """Return the member `credentials` of a question, or None if it is missing; `digests` are in base64. Raises
    RequestError, which shows no secret.
    """
    given = get_object(raw, "credentials")
    if given is None:
        return None
    check_members(given, CREDENTIAL_NAMES, "credentials")
    told = {name: value for name, value in given.items() if value is not None and name != "digests"}
    found = {name: get_text(value, f"credentials.{name}") for name, value in told.items()}
    for name, text in found.items():
        check_size(name, text)
    return Credentials(**found, digests=read_digests(given.get("digests")))


def check_size(name: str, text: str) -> None:
    if len(text) > MAX_CREDENTIAL_LENGTH or not text.isascii():
        why = (
            f"is longer than {MAX_CREDENTIAL_LENGTH:,} characters"
            if text.isascii()
            else "contains a character that is not ASCII"
        )
        raise RequestError(f"credentials.{name}", f"`credentials.{name}` {why}")


def body_digests(content: bytes) -> dict[str, str]:
    """Return the member `digests` for a complete body: its digest in base64 for each algorithm."""
    return {name: b64encode(of(content).digest()).decode() for name, of in HASHES.items()}


def read_digests(raw: object) -> dict[str, bytes]:
    member = "credentials.digests"
    given = get_object(raw, member) or {}
    check_members(given, HASHES, member)
    return {name: parse_digest(get_text(value, f"{member}.{name}"), name) for name, value in given.items()}


def parse_digest(text: str, name: str) -> bytes:
    try:
        found = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != HASHES[name]().digest_size:
        raise RequestError(
            f"credentials.digests.{name}", f"`credentials.digests.{name}` is not a valid digest in base64"
        )
    return found
