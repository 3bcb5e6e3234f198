"""`identify=presented`: the raw credentials of a request, for an engine that verifies them (`docs/identity.md`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from policyengine.http.client_credentials import read_client_credentials
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.http_facts import group_values
from policyengine.runtime.credentials import body_digests

DIGEST = b"content-digest"


def presented(request: Scope | HTTPConnection, *, public_url: str | None = None) -> Facts:
    """Return the credentials of the client: headers, and the certificate of its connection (the TLS extension of ASGI).
    A `Client-Cert` header is ignored. Return `{}` if the request has no credentials. Behind a proxy that terminates
    TLS, `public_url` is the URL at which clients reach this server, without the path of the request: proofs are for
    that URL.

    Raises RequestError for a repeated header.
    """
    scope = request.scope if isinstance(request, HTTPConnection) else request
    headers = group_values(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]
    )
    given = {name: tuple(one) if isinstance(one, list) else (one,) for name, one in headers.items()}
    method = str(scope.get("method", "GET"))
    url = request_url(scope, headers, public_url)
    found = read_client_credentials(given, method=method, url=url, own=True, certificate=None)
    certificate = client_certificate(scope)
    if certificate is not None:
        found = {"method": method, "url": url, **found, "client_certificate": certificate}
    return {"credentials": found} if found else {}


def request_url(scope: Scope, headers: Mapping[str, Any], public_url: str | None) -> str:
    """Return the requested URL, with the path and query as sent over the wire. If there is a public URL, it begins with
    that URL."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    query: bytes = scope.get("query_string", b"")
    target = raw.split(b"?", 1)[0] + (b"?" + query if query else b"")
    if public_url is not None:
        return f"{public_url.rstrip('/')}{target.decode('latin-1')}"
    scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http"))
    return f"{scheme}://{headers.get('host', '')}{target.decode('latin-1')}"


def client_certificate(scope: Scope) -> str | None:
    """Return the client's certificate in PEM; None if it sent none, or one that the server does not trust
    (`client_cert_error`).
    """
    tls = (scope.get("extensions") or {}).get("tls") or {}
    if tls.get("client_cert_error"):
        return None
    chain: Sequence[str] = tls.get("client_cert_chain") or ()
    return str(chain[0]) if chain else None


def has_content_digest(scope: Scope) -> bool:
    """Return whether the request has a `Content-Digest` header."""
    return any(name.lower() == DIGEST for name, _ in scope["headers"])


def add_content_digests(facts: Facts, content: bytes) -> Facts:
    """Add the actual digests of the whole body `content`, if the client sent a digest to compare."""
    credentials = facts.get("credentials")
    if not isinstance(credentials, Mapping) or "content_digest" not in credentials:
        return facts
    return {**facts, "credentials": {**credentials, "digests": body_digests(content)}}
