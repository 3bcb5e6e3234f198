"""Envoy's `ext_authz` over gRPC: one message holds the request and the peer of the connection.

Each worker answers in its own threads, in addition to its event loop; the workers share the port.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.service.auth.v3 import external_auth_pb2

from policyengine.executor import Requester, enter_requester
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.trace_context import TraceContext, enter_trace
from policyengine.runtime.current_caller import NO_CALLER, enter_caller
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.check_request import CheckRequestReader, HeaderTexts, find_trace, request_headers
from policyengine.server.adapters.check_response import encode_check_response
from policyengine.server.adapters.responses import HeaderPairs, HttpVerdict, decide_in_turn, problem_to_verdict
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.connections.limits import UNBOUNDED_BY_FILES, ConnectionBounds, ConnectionLimits
from policyengine.server.listeners import ServeError, port_listener
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineProvider

SERVICE = "envoy.service.auth.v3.Authorization"
MAX_THREADS = 40  # must exceed the number of threads that may wait for issuers
MAX_STREAMS = 1_000  # maximum concurrent calls of one connection; Envoy has one connection per thread


@dataclass(frozen=True, slots=True)
class EnvoyGrpcAdapter:
    """The gRPC listener: its address, its limits, and the tokens that it accepts."""

    reloading: EngineProvider
    names: GatewayHeaders
    tokens: BearerTokens | None
    address: str
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    bounds: ConnectionBounds = UNBOUNDED_BY_FILES
    mcp: McpQuestions | None = None

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
        check = grpc.unary_unary_rpc_method_handler(
            AuthorizationService(self).check, request_deserializer=external_auth_pb2.CheckRequest.FromString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": check}),))
        try:
            server.add_insecure_port(self.address)
        except RuntimeError:
            raise ServeError(f"cannot listen on `{self.address}`", "use another port") from None
        server.start()
        return server


def check_address(host: str, port: int, has_token: bool) -> str:
    """Check that the server may listen on the address, as for the HTTP port, and return it as gRPC writes it. Raises
    ServeError.
    """
    with port_listener(host, port, has_token) as listener:
        found, number = listener.getsockname()[:2]
    return f"[{found}]:{number}" if ":" in found else f"{found}:{number}"


class AuthorizationService:
    """The gRPC method `Check`, which returns encoded answers."""

    def __init__(self, door: EnvoyGrpcAdapter) -> None:
        self.door, self.reader = door, CheckRequestReader(door.names, door.mcp)
        self.gone = tuple(door.names.facts.values())

    def check(self, asked: Any, context: Any) -> bytes:
        """Answer one request, in a thread of the pool that may still have the context of an earlier request."""
        caller, attributes = self.caller(context), asked.attributes
        if caller is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid token is required")
            raise AssertionError("`abort` raises")
        lines = request_headers(attributes.request.http)
        trace = find_trace(context.invocation_metadata(), lines)
        if trace is not None:
            context.send_initial_metadata(trace_metadata(trace))
        enter_requester(Requester(lambda: caller or peer_address(context), lambda: not context.is_active()))
        enter_trace(trace)
        enter_caller(caller)
        return encode_check_response(self.verdict(attributes, lines), self.gone)

    def caller(self, context: Any) -> str | None:
        """Return the caller of the token in the call's metadata, or None if the token is missing or not accepted. If no
        tokens are configured, every call has the same caller.
        """
        tokens = self.door.tokens
        if tokens is None:
            return NO_CALLER
        given = [value for name, value in context.invocation_metadata() if name == "authorization"]
        return tokens.gateway(given[0]) if len(given) == 1 else None

    def verdict(self, attributes: Any, lines: HeaderTexts) -> HttpVerdict:
        engine = self.door.reloading.current
        try:
            question = self.reader.question(attributes, lines, verifies=engine.identity is not None)
        except RequestError as error:
            return problem_to_verdict(ProblemError.of(error))
        return decide_in_turn(engine, question)


def peer_address(context: Any) -> str:
    """Return the address of the peer, without its port."""
    return str(context.peer()).rpartition(":")[0]


def trace_metadata(trace: TraceContext) -> HeaderPairs:
    return (("traceparent", trace.parent), *((("tracestate", trace.state),) if trace.state else ()))
