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


def presented(request: Scope | HTTPConnection) -> Facts:
    """What the client brought to prove who it is: headers, and the certificate of its own connection (the TLS extension
    of ASGI). A `Client-Cert` that the client sent is not looked at. `{}` where it brought nothing.

    Raises RequestError for what is there twice.
    """
    scope = request.scope if isinstance(request, HTTPConnection) else request
    headers = group_values(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]
    )
    given = {name: tuple(one) if isinstance(one, list) else (one,) for name, one in headers.items()}
    method = str(scope.get("method", "GET"))
    found = read_client_credentials(given, method=method, url=request_url(scope, headers), own=True, certificate=None)
    certificate = client_certificate(scope)
    if certificate is not None:
        found = {"method": method, "url": request_url(scope, headers), **found, "client_certificate": certificate}
    return {"credentials": found} if found else {}


def request_url(scope: Scope, headers: Mapping[str, Any]) -> str:
    """As it was asked for: the path and the query as they stood on the wire."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    query: bytes = scope.get("query_string", b"")
    target = raw.split(b"?", 1)[0] + (b"?" + query if query else b"")
    scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http"))
    return f"{scheme}://{headers.get('host', '')}{target.decode('latin-1')}"


def client_certificate(scope: Scope) -> str | None:
    """One that the server did not find good (`client_cert_error`) is none: nobody says whose it is."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    if tls.get("client_cert_error"):
        return None
    chain: Sequence[str] = tls.get("client_cert_chain") or ()
    return str(chain[0]) if chain else None


def has_content_digest(scope: Scope) -> bool:
    """Whether the client signs what the body must be."""
    return any(name.lower() == DIGEST for name, _ in scope["headers"])


def add_content_digests(facts: Facts, content: bytes) -> Facts:
    """With what the digest must be, where the client sent one: `content` is the whole body."""
    credentials = facts.get("credentials")
    if not isinstance(credentials, Mapping) or "content_digest" not in credentials:
        return facts
    return {**facts, "credentials": {**credentials, "digests": body_digests(content)}}
