"""Whose word counts for the certificate of a connection: the header that the configuration names, or Envoy's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from policyengine.http.gateway_questions import RequestTarget, add_credentials
from policyengine.runtime.structure_checks import RequestError
from tests.identity.bound_world import field_of, pem, workload

TARGET = RequestTarget("GET", "/v1/notes", "api.acme.example")
OURS, FORGED = field_of(workload()), field_of(workload(("spiffe://acme.example/admin",)))


def told(given: Mapping[str, tuple[str, ...]], certificate: str | None) -> object:
    found = add_credentials({}, TARGET, dict(given), own=True, certificate=certificate)
    credentials: Any = found.get("credentials", {})
    return credentials.get("client_certificate")


@pytest.mark.parametrize("name", ["client-cert", "x-forwarded-client-cert"])
def test_an_unconfigured_certificate_header_is_ignored(name: str) -> None:
    assert told({name: (FORGED,)}, None) is None
    assert told({name: (FORGED,)}, {"client-cert": "x-forwarded-client-cert"}.get(name, "client-cert")) is None


def test_only_the_configured_certificate_header_is_read() -> None:
    given = {"client-cert": (FORGED,), "x-forwarded-client-cert": (OURS,)}
    assert told(given, "x-forwarded-client-cert") == OURS


def test_a_repeated_certificate_header_is_rejected() -> None:
    with pytest.raises(RequestError, match="repeated"):
        told({"client-cert": (FORGED, OURS)}, "client-cert")


def test_the_envoy_grpc_adapter_reads_the_certificate_from_the_peer_not_from_headers() -> None:
    pytest.importorskip("grpc", reason="pip install '.[envoy]'")
    from urllib.parse import quote

    from envoy.service.auth.v3 import attribute_context_pb2

    from policyengine.server.adapters.check_request import PEER_CERTIFICATE_HEADER, headers_with_peer, request_headers

    http = attribute_context_pb2.AttributeContext.HttpRequest()
    http.headers["client-cert"] = FORGED
    http.headers["x-forwarded-client-cert"] = FORGED
    seen = headers_with_peer(request_headers(http), "10.1.2.3", quote(pem(workload()), safe=""))
    assert told(seen, PEER_CERTIFICATE_HEADER) == pem(workload())
    assert told(headers_with_peer(request_headers(http), "10.1.2.3"), None) is None
