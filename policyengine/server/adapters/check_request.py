"""Reads the requests of Envoy's `ext_authz` over gRPC: `CheckRequest` of `envoy.service.auth.v3`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import unquote

from policyengine.http.gateway_headers import GatewayHeaders, read_spiffe_facts
from policyengine.http.gateway_omissions import ForwardedParts, GatewayAdapter, HeaderValues
from policyengine.http.gateway_questions import GatewayQuestionBuilder, RequestTarget, add_credentials
from policyengine.http.trace_context import TraceContext, parse_trace_context
from policyengine.server.mcp.questions import McpQuestions

PEER_CERTIFICATE_HEADER = "client-cert"  # the header with the certificate that Envoy itself verified
ADDRESS_HEADER = "x-forwarded-for"  # the header with the client's address, as Envoy sees it
# Header names and values, in which surrogates stand for bytes that are not UTF-8.
HeaderTexts: TypeAlias = Sequence[tuple[str, str]]


class CheckRequestReader:
    """Builds the questions of Envoy's port, with the header names of the settings."""

    def __init__(self, names: GatewayHeaders, mcp: McpQuestions | None = None) -> None:
        self.names, self.mcp = names, mcp
        self._builders = {
            (whole, joins): GatewayQuestionBuilder(names, forwarded_headers(names, whole, joins))
            for whole in (False, True)
            for joins in (False, True)
        }

    def question(self, attributes: Any, lines: HeaderTexts, *, verifies: bool) -> Mapping[str, object]:
        """Build the question, with raw credentials if the engine `verifies` them. Raises RequestError."""
        http, source = attributes.request.http, attributes.source
        certificate, content = source.certificate, http.raw_body or http.body
        given = headers_with_peer(lines, source.address.socket_address.address, certificate)
        target = RequestTarget(http.method, http.path, http.host or None)
        vouched = read_spiffe_facts(source.principal, self.names)
        builder = self._builders[header_form(http, lines)]
        question: Mapping[str, object] = builder.build(target, given, content, vouched)
        if self.mcp is not None:
            question = self.mcp.question(question, target, given, content, builder.forwarded)
        if not verifies:
            return question
        # Envoy's own certificate comes without the chain that leads to its issuer.
        named, seen = self.names.client_certificate, PEER_CERTIFICATE_HEADER if certificate else None
        header = named if named in given else seen
        return add_credentials(question, target, given, own=True, certificate=header, content=content)


def header_form(http: Any, lines: HeaderTexts) -> tuple[bool, bool]:
    """Return whether Envoy shows pseudo-headers, and whether it joins repeated headers."""
    return any(name == ":path" for name, _ in lines), not http.header_map.headers


def forwarded_headers(names: GatewayHeaders, whole: bool, joins: bool) -> ForwardedParts:
    """Return the parts of a request that Envoy forwards, by the settings. The setting `all` applies only to a request
    with pseudo-headers (`whole`); for other requests, Envoy forwards only the headers that it is configured to forward.
    """
    parts = names.hands_on(GatewayAdapter.ENVOY_GRPC)
    headers = parts.headers if whole or parts.headers is not None else frozenset[str]()
    return replace(parts, headers=headers, joins=joins)


def request_headers(http: Any) -> HeaderTexts:
    """Return the headers as received if Envoy has `encode_raw_headers`. Otherwise Envoy joins repeated headers with
    commas and replaces each byte that is not UTF-8 with `!`: such values are treated as unreadable."""
    raw = http.header_map.headers
    if raw:
        return [(one.key, one.raw_value.decode("utf-8", "surrogateescape") or one.value) for one in raw]
    return [(name, value.replace("!", "\udcff") if "!" in value else value) for name, value in http.headers.items()]


def headers_with_peer(lines: HeaderTexts, address: str, certificate: str = "") -> HeaderValues:
    """Return the headers of the request, with the address and the certificate of the peer as Envoy sees them."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in lines:
        if name[:1] == ":" or name == ADDRESS_HEADER or (certificate and name == PEER_CERTIFICATE_HEADER):
            continue
        key = name.lower() if name.isascii() else name.encode().decode("latin-1").lower()
        found[key] = (*found[key], value) if key in found else (value,)
    found[ADDRESS_HEADER] = (*found.get(ADDRESS_HEADER, ()), address)
    if certificate:
        found[PEER_CERTIFICATE_HEADER] = (*found.get(PEER_CERTIFICATE_HEADER, ()), unquote(certificate))
    return found


def find_trace(metadata: Any, lines: HeaderTexts) -> TraceContext | None:
    """Return the trace of Envoy's call or, if it has none, that of the request; None if neither has one."""
    for pairs in (metadata, lines):
        parents = header_texts(pairs, "traceparent")
        if parents:
            return parse_trace_context(parents, header_texts(pairs, "tracestate"))
    return None


def header_texts(pairs: Any, name: str) -> list[str]:
    values = [value for key, value in pairs if key == name]
    return [one if isinstance(one, str) else one.decode("latin-1") for one in values]
