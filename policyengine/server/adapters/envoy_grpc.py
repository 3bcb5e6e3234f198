"""Envoy's `ext_authz` over gRPC: one message holds the request and the peer of the connection.

Each worker answers in its own threads, beside the event loop; the workers share the port.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2

from policyengine.executor import Requester, enter_requester
from policyengine.http.gateway_headers import OWN_HEADERS, GatewayHeaders, collect_headers, read_spiffe_facts
from policyengine.http.gateway_omissions import ForwardedParts, GatewayAdapter, HeaderValues
from policyengine.http.gateway_questions import GatewayQuestionBuilder, RequestTarget, add_credentials
from policyengine.http.trace_context import TraceContext, parse_trace_context, trace_scope
from policyengine.runtime.current_caller import NO_CALLER, caller_scope
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import (
    PROBLEM_MEDIA_TYPE,
    WOULD_BE_HEADER,
    HeaderPairs,
    HttpVerdict,
    decide_in_turn,
    problem_to_verdict,
)
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.connections.limits import UNBOUNDED_BY_FILES, ConnectionBounds, ConnectionLimits
from policyengine.server.listeners import ServeError, port_listener
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineProvider

MAX_THREADS = 40  # more than the number of threads that may wait for issuers
MAX_STREAMS = 1_000  # concurrent calls of one connection; Envoy has one connection per thread
GRPC_PERMISSION_DENIED = 7  # a gRPC status; the HTTP status for the client is in the response
LOG_HEADERS = ("x-decision-id", "x-decision", WOULD_BE_HEADER)
UPSTREAM_HEADERS = (*OWN_HEADERS, "x-decision-id", WOULD_BE_HEADER)
PEER_CERTIFICATE_HEADER = "client-cert"  # the header for the certificate that Envoy itself has verified
OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


@dataclass(frozen=True, slots=True)
class EnvoyGrpcAdapter:
    """The gRPC listener: its address, its limits, and the tokens that it accepts."""

    reloading: EngineProvider
    names: GatewayHeaders
    tokens: BearerTokens | None
    address: str
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    bounds: ConnectionBounds = UNBOUNDED_BY_FILES

    @property
    def options(self) -> tuple[tuple[str, int], ...]:
        """Limits of connections. gRPC has no limit per address, and refuses connections above the total limit."""
        return (
            ("grpc.max_allowed_incoming_connections", self.bounds.connections),
            ("grpc.server_handshake_timeout_ms", round(self.limits.head * 1_000)),
            ("grpc.max_connection_idle_ms", round(self.limits.idle * 1_000)),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
        )

    def started(self) -> Any:
        """Start a server and return it. Raises ServeError."""
        server = grpc.server(ThreadPoolExecutor(MAX_THREADS), options=self.options)
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(AuthorizationService(self), server)
        try:
            server.add_insecure_port(self.address)
        except RuntimeError:
            raise ServeError(f"cannot listen on `{self.address}`", "use another port") from None
        server.start()
        return server


def check_address(host: str, port: int, has_token: bool) -> str:
    """Check the address, as for the HTTP port, and return it. Raises ServeError."""
    with port_listener(host, port, has_token) as listener:
        found, number = listener.getsockname()[:2]
    return f"[{found}]:{number}" if ":" in found else f"{found}:{number}"


@dataclass(frozen=True)
class AuthorizationService(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # it has no types
    door: EnvoyGrpcAdapter
    gone: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gone", tuple(self.door.names.facts.values()))

    def Check(self, asked: Any, context: Any) -> Any:
        caller = self.caller(context)
        if caller is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid token is required")
            raise AssertionError("`abort` raises")
        trace = find_trace(context.invocation_metadata(), request_headers(asked.attributes.request.http))
        if trace is not None:
            context.send_initial_metadata(trace_metadata(trace))
        enter_requester(Requester(lambda: caller or peer_address(context), lambda: not context.is_active()))
        with trace_scope(trace), caller_scope(caller):
            return build_check_response(self.told(asked.attributes), self.gone)

    def caller(self, context: Any) -> str | None:
        """Return the caller of the token in the call's metadata, or None if no token is accepted."""
        tokens = self.door.tokens
        if tokens is None:
            return NO_CALLER
        given = [value for name, value in context.invocation_metadata() if name == "authorization"]
        return tokens.gateway(given[0]) if len(given) == 1 else None

    def told(self, attributes: Any) -> HttpVerdict:
        http, engine = attributes.request.http, self.door.reloading.current
        try:
            given = headers_with_peer(
                http, attributes.source.address.socket_address.address, attributes.source.certificate
            )
            content = http.raw_body or http.body
            target = RequestTarget(http.method, http.path, http.host or None)
            hands_on = forwarded_headers(http, self.door.names)
            vouched = read_spiffe_facts(attributes.source.principal, self.door.names)
            question = GatewayQuestionBuilder(self.door.names, hands_on).build(target, given, content, vouched)
            if engine.identity is not None:
                seen = (
                    PEER_CERTIFICATE_HEADER if attributes.source.certificate else None
                )  # the certificate without the chain that leads to its issuer
                named = self.door.names.client_certificate
                told_by = named if named in given else seen
                question = add_credentials(question, target, given, own=True, certificate=told_by, content=content)
        except RequestError as error:
            return problem_to_verdict(ProblemError.of(error))
        return decide_in_turn(engine, question)


def peer_address(context: Any) -> str:
    """Return the address of the peer, without its port."""
    return str(context.peer()).rpartition(":")[0]


def find_trace(metadata: Any, headers: Sequence[tuple[str, bytes]]) -> TraceContext | None:
    """Return the trace of Envoy's call or, if it has none, that of the request."""
    for pairs in (metadata, headers):
        parents, states = (header_values(pairs, name) for name in ("traceparent", "tracestate"))
        if parents:
            return parse_trace_context(parents, states)
    return None


def header_values(pairs: Iterable[tuple[str, str | bytes]], name: str) -> list[str]:
    values = [value for key, value in pairs if key == name]
    return [one if isinstance(one, str) else one.decode("latin-1") for one in values]


def trace_metadata(trace: TraceContext) -> HeaderPairs:
    return (("traceparent", trace.parent), *((("tracestate", trace.state),) if trace.state else ()))


def request_headers(http: Any) -> Sequence[tuple[str, bytes]]:
    """Return the headers as received if Envoy has `encode_raw_headers`. Otherwise Envoy joins repeated headers with
    commas and replaces each byte that is not UTF-8 with `!`: such values are treated as unreadable."""
    raw = [(one.key, one.raw_value or one.value.encode()) for one in http.header_map.headers]
    return raw or [(name, value.encode().replace(b"!", b"\xff")) for name, value in http.headers.items()]


def headers_with_peer(http: Any, peer: str, certificate: str = "") -> HeaderValues:
    """Return the headers of the request, with the address and the certificate of the peer as Envoy sees them."""
    seen = [
        ("x-forwarded-for", peer.encode()),
        *([(PEER_CERTIFICATE_HEADER, unquote(certificate).encode())] if certificate else []),
    ]
    ours = frozenset(name for name, _ in seen)
    plain = [(name, value) for name, value in request_headers(http) if name[:1] != ":" and name not in ours]
    return collect_headers((name.encode(), value) for name, value in [*plain, *seen])


def forwarded_headers(http: Any, names: GatewayHeaders) -> ForwardedParts:
    """Return the configured parts. Without pseudo-headers, Envoy forwards only the headers that it is configured to
    forward."""
    hands_on, whole = (
        names.hands_on(GatewayAdapter.ENVOY_GRPC),
        any(name == ":path" for name, _ in request_headers(http)),
    )
    headers = hands_on.headers if whole or hands_on.headers is not None else frozenset[str]()
    return replace(hands_on, headers=headers, joins=not http.header_map.headers)


# ── The answer ────────────────────────────────────────────────────────────────────────────────


def build_check_response(told: HttpVerdict, gone: tuple[str, ...]) -> Any:
    metadata = Struct()
    metadata.update({name.replace("-", "_"): value for name, value in told.headers if name in LOG_HEADERS})
    public = tuple(one for one in told.headers if one[0] not in (*OWN_HEADERS, WOULD_BE_HEADER))
    if told.status != 200:
        denied = external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=told.status),
            headers=header_options((*public, ("content-type", PROBLEM_MEDIA_TYPE))),
            body=told.problem.decode(),
        )
        status = status_pb2.Status(code=GRPC_PERMISSION_DENIED)
        return external_auth_pb2.CheckResponse(status=status, denied_response=denied, dynamic_metadata=metadata)
    upstream = {
        WOULD_BE_HEADER: "",
        **{name: value for name, value in told.headers if name in UPSTREAM_HEADERS},
    }.items()
    passed = external_auth_pb2.OkHttpResponse(
        headers=header_options(tuple(one for one in upstream if one[1])),
        headers_to_remove=[*gone, *(name for name, value in upstream if not value)],
        response_headers_to_add=header_options(public),
    )
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0), ok_response=passed, dynamic_metadata=metadata
    )


def header_options(lines: HeaderPairs) -> list[Any]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=OVERWRITE)
        for name, value in lines
    ]
