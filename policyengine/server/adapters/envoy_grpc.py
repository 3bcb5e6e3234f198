"""Envoy's `ext_authz` over gRPC: the request itself and who is at the other end of the connection, in one message.

It answers in threads beside the event loop, in every worker its own: they share the port.
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
from policyengine.http.completeness import Adapter, Given, HandsOn
from policyengine.http.gateway_headers import (
    SET_BY_US,
    Target,
    Vouched,
    given_headers,
    question_of,
    spiffe_facts,
    with_credentials,
)
from policyengine.http.trace_context import Trace, trace_of, within
from policyengine.runtime.caller import NOBODY_NAMED, called_by
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import PROBLEM, WOULD_BE, Lines, Told, told_in_turn, told_problem
from policyengine.server.bearer_tokens import Tokens
from policyengine.server.connections.limits import UNBOUNDED_BY_FILES, ConnectionBounds, ConnectionLimits
from policyengine.server.listeners import ServeError, port_listener
from policyengine.server.problems import Problem
from policyengine.server.telemetry.metered_engine import Current

THREADS = 40  # more than may wait for issuers
STREAMS = 1_000  # calls of one connection on their way: Envoy has one connection for each of its threads
DENIED = 7  # of gRPC; which status the client gets stands beside it
FOR_LOGS = ("x-decision-id", "x-decision", WOULD_BE)
FOR_THE_API = (*SET_BY_US, "x-decision-id", WOULD_BE)
SEEN = "client-cert"  # as which the certificate is told that Envoy itself has seen
OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


@dataclass(frozen=True, slots=True)
class EnvoyGrpc:
    """Where it listens, and whom it answers."""

    reloading: Current
    names: Vouched
    tokens: Tokens | None
    address: str
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    bounds: ConnectionBounds = UNBOUNDED_BY_FILES

    @property
    def options(self) -> tuple[tuple[str, int], ...]:
        """What bounds connections: gRPC knows no addresses, and lets nobody in when it has its number."""
        return (
            ("grpc.max_allowed_incoming_connections", self.bounds.connections),
            ("grpc.server_handshake_timeout_ms", round(self.limits.head * 1_000)),
            ("grpc.max_connection_idle_ms", round(self.limits.idle * 1_000)),
            ("grpc.max_concurrent_streams", STREAMS),
        )

    def started(self) -> Any:
        """A server that answers. Raises ServeError."""
        server = grpc.server(ThreadPoolExecutor(THREADS), options=self.options)
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorization(self), server)
        try:
            server.add_insecure_port(self.address)
        except RuntimeError:
            raise ServeError(f"`{self.address}` cannot be listened on", "take another port") from None
        server.start()
        return server


def checked_address(host: str, port: int, has_token: bool) -> str:
    """Raises ServeError, as for the other port."""
    with port_listener(host, port, has_token) as listener:
        found, number = listener.getsockname()[:2]
    return f"[{found}]:{number}" if ":" in found else f"{found}:{number}"


@dataclass(frozen=True)
class Authorization(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # it has no types
    door: EnvoyGrpc
    gone: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gone", tuple(self.door.names.facts.values()))

    def Check(self, asked: Any, context: Any) -> Any:
        caller = self.caller(context)
        if caller is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is needed, or another one")
            raise AssertionError("`abort` raises")
        trace = trace_in(context.invocation_metadata(), headers_in(asked.attributes.request.http))
        if trace is not None:
            context.send_initial_metadata(traced(trace))
        enter_requester(Requester(lambda: caller or peer_of(context), lambda: not context.is_active()))
        with within(trace), called_by(caller):
            return response_of(self.told(asked.attributes), self.gone)

    def caller(self, context: Any) -> str | None:
        """Whose token came with the call; None where none does that is accepted."""
        tokens = self.door.tokens
        if tokens is None:
            return NOBODY_NAMED
        given = [value for name, value in context.invocation_metadata() if name == "authorization"]
        return tokens.gateway(given[0]) if len(given) == 1 else None

    def told(self, attributes: Any) -> Told:
        http, engine = attributes.request.http, self.door.reloading.current
        try:
            given = given_of(http, attributes.source.address.socket_address.address, attributes.source.certificate)
            content = http.raw_body or http.body
            target = Target(http.method, http.path, http.host or None)
            hands_on = hands_on_of(http, self.door.names)
            vouched = spiffe_facts(attributes.source.principal, self.door.names)
            question = question_of(target, given, self.door.names, hands_on, content, vouched)
            if engine.identity is not None:
                seen = SEEN if attributes.source.certificate else None  # and not what leads to its trust
                named = self.door.names.client_certificate
                told_by = named if named in given else seen
                question = with_credentials(question, target, given, own=True, certificate=told_by, content=content)
        except RequestError as error:
            return told_problem(Problem.of(error))
        return told_in_turn(engine, question)


def peer_of(context: Any) -> str:
    """The address at the other end of the connection, without its port."""
    return str(context.peer()).rpartition(":")[0]


def trace_in(metadata: Any, headers: Sequence[tuple[str, bytes]]) -> Trace | None:
    """That of Envoy's own call; else that of the request which it asks about."""
    for pairs in (metadata, headers):
        parents, states = (all_of(pairs, name) for name in ("traceparent", "tracestate"))
        if parents:
            return trace_of(parents, states)
    return None


def all_of(pairs: Iterable[tuple[str, str | bytes]], name: str) -> list[str]:
    values = [value for key, value in pairs if key == name]
    return [one if isinstance(one, str) else one.decode("latin-1") for one in values]


def traced(trace: Trace) -> Lines:
    return (("traceparent", trace.parent), *((("tracestate", trace.state),) if trace.state else ()))


def headers_in(http: Any) -> Sequence[tuple[str, bytes]]:
    """As they came where Envoy has `encode_raw_headers`. Else it has joined what came twice by commas, and written `!`
    for each byte that is no UTF-8: such a text is unreadable here, too."""
    raw = [(one.key, one.raw_value or one.value.encode()) for one in http.header_map.headers]
    return raw or [(name, value.encode().replace(b"!", b"\xff")) for name, value in http.headers.items()]


def given_of(http: Any, peer: str, certificate: str = "") -> Given:
    """The headers of the request; and the address and the certificate of whoever sent it, as Envoy sees them."""
    seen = [("x-forwarded-for", peer.encode()), *([(SEEN, unquote(certificate).encode())] if certificate else [])]
    ours = frozenset(name for name, _ in seen)
    plain = [(name, value) for name, value in headers_in(http) if name[:1] != ":" and name not in ours]
    return given_headers((name.encode(), value) for name, value in [*plain, *seen])


def hands_on_of(http: Any, names: Vouched) -> HandsOn:
    """As it is configured. Where not even the pseudo-headers come, Envoy hands on no more than it is told to."""
    hands_on, whole = names.hands_on(Adapter.ENVOY_GRPC), any(name == ":path" for name, _ in headers_in(http))
    headers = hands_on.headers if whole or hands_on.headers is not None else frozenset[str]()
    return replace(hands_on, headers=headers, joins=not http.header_map.headers)


# ── The answer ────────────────────────────────────────────────────────────────────────────────


def response_of(told: Told, gone: tuple[str, ...]) -> Any:
    metadata = Struct()
    metadata.update({name.replace("-", "_"): value for name, value in told.headers if name in FOR_LOGS})
    public = tuple(one for one in told.headers if one[0] not in (*SET_BY_US, WOULD_BE))
    if told.status != 200:
        denied = external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=told.status),
            headers=options((*public, ("content-type", PROBLEM))),
            body=told.problem.decode(),
        )
        status = status_pb2.Status(code=DENIED)
        return external_auth_pb2.CheckResponse(status=status, denied_response=denied, dynamic_metadata=metadata)
    upstream = {WOULD_BE: "", **{name: value for name, value in told.headers if name in FOR_THE_API}}.items()
    passed = external_auth_pb2.OkHttpResponse(
        headers=options(tuple(one for one in upstream if one[1])),
        headers_to_remove=[*gone, *(name for name, value in upstream if not value)],
        response_headers_to_add=options(public),
    )
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0), ok_response=passed, dynamic_metadata=metadata
    )


def options(lines: Lines) -> list[Any]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=OVERWRITE)
        for name, value in lines
    ]
