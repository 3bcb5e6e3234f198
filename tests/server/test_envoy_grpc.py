"""The door for Envoy by gRPC, asked as Envoy asks: what it says in a message, and who may ask."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")

from envoy.config.core.v3 import base_pb2  # noqa: E402
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc  # noqa: E402
from envoy.type.v3 import http_status_pb2  # noqa: E402
from google.protobuf.struct_pb2 import Struct  # noqa: E402
from google.rpc import status_pb2  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from policyengine.engine import Engine  # noqa: E402
from policyengine.http.gateway_headers import OWN_HEADERS, GatewayHeaders  # noqa: E402
from policyengine.http.gateway_omissions import ForwardedParts  # noqa: E402
from policyengine.reload import ReloadableEngine  # noqa: E402
from policyengine.server.adapters.check_request import (  # noqa: E402
    forwarded_headers,
    header_form,
    headers_with_peer,
    request_headers,
)
from policyengine.server.adapters.check_response import encode_check_response  # noqa: E402
from policyengine.server.adapters.envoy_grpc import EnvoyGrpcAdapter, check_address  # noqa: E402
from policyengine.server.adapters.responses import WOULD_BE_HEADER, HeaderPairs, HttpVerdict  # noqa: E402
from policyengine.server.bearer_tokens import BearerTokens  # noqa: E402
from policyengine.server.connections.limits import ConnectionBounds, ConnectionLimits  # noqa: E402
from policyengine.server.listeners import ServeError  # noqa: E402
from tests.ports import free_port  # noqa: E402
from tests.server.conftest import TOKEN  # noqa: E402

POLICY = """
language 1
package mesh
entity user { roles: set<string> }
facts on POST /pay { body.amount: number }
issuer acme { url "https://acme.example"   scopes none }
agent "spiffe://acme.example/ns/shop/sa/bot" {
  issued by acme
  acts alone
  credential { kind in [mtls]   bound }
  may GET /things, POST /pay, GET /here
}
anyone { may GET /health }
guard "small ones only" on POST /pay { require body.amount <= 10 }
guard "from here" on GET /here { require request.ip within 10.0.0.0/8 }
"""
BOT = "spiffe://acme.example/ns/shop/sa/bot"
TRUSTING = GatewayHeaders(trust_domains=(("acme.example", "acme"), ("other.example", "other")))
JSON = {"content_type": "application/json", "x_envoy_auth_partial_body": "false"}
LOG_HEADERS = ("x-decision-id", "x-decision", WOULD_BE_HEADER)
UPSTREAM = (*OWN_HEADERS, "x-decision-id", WOULD_BE_HEADER)
Ask = Callable[..., Any]


@contextmanager
def served(tokens: BearerTokens | None = None) -> Iterator[Ask]:
    engine = Engine.from_text(POLICY)
    address = check_address("127.0.0.1", free_port(), tokens is not None)
    server = EnvoyGrpcAdapter(ReloadableEngine(engine), TRUSTING, tokens, address).started()
    try:
        with grpc.insecure_channel(address) as channel:
            check = external_auth_pb2_grpc.AuthorizationStub(channel).Check

            def ask(
                method: str,
                path: str,
                principal: str = "",
                body: str | bytes = b"",
                token: str | None = None,
                ip: str = "",
                **headers: str,
            ) -> Any:
                asked = external_auth_pb2.CheckRequest()
                asked.attributes.source.principal = principal
                asked.attributes.source.address.socket_address.address = ip
                http = asked.attributes.request.http
                http.method, http.path, http.host = method, path, "api.example"
                setattr(http, "body" if isinstance(body, str) else "raw_body", body)
                http.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
                http.headers.update({":method": method, ":path": path})
                metadata = [] if token is None else [("authorization", f"Bearer {token}")]
                return check(asked, metadata=metadata, timeout=30)

            yield ask
    finally:
        server.stop(0).wait()


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with served() as asking:
        yield asking


def sent(options: Any) -> dict[str, str]:
    return {one.header.key: one.header.value for one in options}


def test_the_peer_certificate_identifies_the_agent(ask: Ask) -> None:
    answer = ask("GET", "/things?page=2", BOT)
    assert answer.status.code == 0
    assert sent(answer.ok_response.headers)["x-auth-subject"] == BOT
    assert ask("GET", "/things").denied_response.status.code == 401
    assert ask("GET", "/things", "spiffe://acme.example/ns/shop/sa/other").denied_response.status.code == 403
    assert ask("GET", "/things", "spiffe://other.example/ns/shop/sa/bot").denied_response.status.code == 403
    assert ask("GET", "/things", "spiffe://evil.example/ns/shop/sa/bot").denied_response.status.code == 401


def test_the_adapter_removes_name_headers_without_a_value_from_the_passed_request(ask: Ask) -> None:
    passed = ask("GET", "/health").ok_response
    assert {"x-auth-subject", "x-auth-user", "x-agent-id", "x-agent-scopes"} <= set(passed.headers_to_remove)
    assert "x-auth-subject" not in sent(passed.headers)


def test_a_denial_has_a_problem_body_and_the_decision_id_in_the_metadata(ask: Ask) -> None:
    answer = ask("POST", "/pay", BOT, b'{"amount": 11}', **JSON)
    assert answer.status.code == 7
    assert sent(answer.denied_response.headers)["content-type"] == "application/problem+json"
    assert "small ones only" in answer.denied_response.body
    assert len(answer.dynamic_metadata["x_decision_id"]) == 26
    assert ask("POST", "/pay", BOT, b'{"amount": 9}', **JSON).status.code == 0


def test_a_body_sent_as_text_is_unknown(ask: Ask) -> None:
    """Envoy puts other characters in it for what is no UTF-8, unless it says `pack_as_bytes`."""
    answer = ask("POST", "/pay", BOT, '{"amount": 9}', **JSON)
    assert "body.amount` is unknown" in answer.denied_response.body
    override = ask("POST", "/pay", BOT, '{"_method": "DELETE"}', **JSON)
    assert "the body names another method (`_method`)" in override.denied_response.body


def test_the_client_ip_comes_from_the_connection_and_not_from_x_forwarded_for(ask: Ask) -> None:
    assert ask("GET", "/here", BOT, ip="10.1.2.3", x_forwarded_for="8.8.8.8").status.code == 0
    assert ask("GET", "/here", BOT, ip="8.8.8.8", x_forwarded_for="10.1.2.3").status.code == 7


@pytest.mark.parametrize("path", ["/things/../health", "/health%2f", "//health", "", "health", "/health#x"])
def test_a_path_that_is_not_canonical_is_denied(ask: Ask, path: str) -> None:
    assert ask("GET", path, BOT).status.code == 7


def message(*headers: tuple[str, bytes], raw: bool, pseudo: bool = True) -> Any:
    """A request as Envoy tells of it, its headers by themselves or as texts."""
    http = external_auth_pb2.CheckRequest().attributes.request.http
    for name, value in ((":path", b"/"), *headers) if pseudo else headers:
        if raw:
            http.header_map.headers.add(key=name, raw_value=value)
        else:
            http.headers[name] = value.decode()
    return http


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("pseudo", [True, False])
def test_headers_count_as_complete_if_envoy_sends_pseudo_headers(raw: bool, pseudo: bool) -> None:
    http = message(("x-role", b"guest"), raw=raw, pseudo=pseudo)
    lines = request_headers(http)
    form = header_form(http, lines)
    assert forwarded_headers(GatewayHeaders(), *form) == ForwardedParts(None if pseudo else frozenset(), joins=not raw)
    assert forwarded_headers(GatewayHeaders(hands_on_envoy_grpc=("x-role",)), *form).headers == {"x-role"}
    assert headers_with_peer(lines, "10.0.0.1") == {"x-role": ("guest",), "x-forwarded-for": ("10.0.0.1",)}


def test_a_repeated_header_keeps_both_values_if_envoy_does_not_join_them() -> None:
    http = message(("x-role", b"a"), ("x-role", b"b"), ("x-bytes", b"\xff"), ("x-empty", b""), raw=True)
    given = headers_with_peer(request_headers(http), "")
    assert (given["x-role"], given["x-bytes"], given["x-empty"]) == (("a", "b"), ("\udcff",), ("",))


def test_a_header_text_with_bytes_that_envoy_replaced_is_unreadable() -> None:
    (value,) = headers_with_peer(request_headers(message(("x-role", b"a!"), raw=False)), "")["x-role"]
    assert not value.isprintable()


# ── The bytes of answers ──────────────────────────────────────────────────────────────────────


def as_message(verdict: HttpVerdict, gone: tuple[str, ...]) -> Any:
    """The answer as the library builds it."""
    metadata = Struct()
    metadata.update({name.replace("-", "_"): value for name, value in verdict.headers if name in LOG_HEADERS})
    public = tuple(one for one in verdict.headers if one[0] not in (*OWN_HEADERS, WOULD_BE_HEADER))
    if verdict.status != 200:
        denied = external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=verdict.status),
            headers=options((*public, ("content-type", "application/problem+json"))),
            body=verdict.problem.decode(),
        )
        return external_auth_pb2.CheckResponse(
            status=status_pb2.Status(code=7), denied_response=denied, dynamic_metadata=metadata
        )
    behind = {WOULD_BE_HEADER: "", **{name: value for name, value in verdict.headers if name in UPSTREAM}}.items()
    passed = external_auth_pb2.OkHttpResponse(
        headers=options(tuple(one for one in behind if one[1])),
        headers_to_remove=[*gone, *(name for name, value in behind if not value)],
        response_headers_to_add=options(public),
    )
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0), ok_response=passed, dynamic_metadata=metadata
    )


def options(pairs: HeaderPairs) -> list[Any]:
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=overwrite)
        for name, value in pairs
    ]


VISIBLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
TEXTS = st.text(VISIBLE, max_size=300) | st.sampled_from(["é", "x" * 5_000])
NAMES = st.sampled_from([*LOG_HEADERS, *OWN_HEADERS, "ratelimit", "retry-after", "www-authenticate", "Retry-After"])
VERDICTS = st.builds(
    lambda status, pairs, problem: HttpVerdict(
        status, tuple(pairs.items()), b"" if status == 200 else problem.encode()
    ),
    st.sampled_from([200, 200, 400, 401, 403, 429, 503]),
    st.dictionaries(NAMES, TEXTS),
    TEXTS | st.sampled_from(["{}" * 1_000, "é" * 100_000]),
)


@given(verdict=VERDICTS, gone=st.lists(st.sampled_from(["x-agent-id", "x-agent-groups"]), unique=True))
def test_an_answer_has_the_bytes_of_the_same_message(verdict: HttpVerdict, gone: list[str]) -> None:
    written, expected = encode_check_response(verdict, tuple(gone)), as_message(verdict, tuple(gone))
    assert external_auth_pb2.CheckResponse.FromString(written) == expected
    assert len(written) == expected.ByteSize()


def test_a_grpc_call_without_a_valid_token_is_unauthenticated() -> None:
    with served(BearerTokens.of(TOKEN)) as ask:
        for token in (None, "of-somebody-else"):
            with pytest.raises(grpc.RpcError) as caught:
                ask("GET", "/health", token=token)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert ask("GET", "/health", token=TOKEN).status.code == 0


def test_a_public_grpc_address_requires_a_token() -> None:
    with pytest.raises(ServeError) as caught:
        check_address("0.0.0.0", free_port(), has_token=False)
    assert "no token is set" in caught.value.message


def test_the_error_reports_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServeError) as caught:
        check_address("127.0.0.1", taken.getsockname()[1], has_token=False)
    assert "is in use" in caught.value.message


@pytest.mark.parametrize("by_envoy", [True, False])
def test_the_trace_continues_from_the_grpc_metadata_or_else_from_the_request_headers(by_envoy: bool) -> None:
    mine, other = (f"00-{one * 32}-{one * 16}-01" for one in "ab")
    address = check_address("127.0.0.1", free_port(), False)
    server = EnvoyGrpcAdapter(ReloadableEngine(Engine.from_text(POLICY)), TRUSTING, None, address).started()
    try:
        with grpc.insecure_channel(address) as channel:
            asked = external_auth_pb2.CheckRequest()
            http = asked.attributes.request.http
            http.method, http.path, http.host = "GET", "/health", "api.example"
            http.headers.update({"traceparent": mine if not by_envoy else other, "tracestate": "a=1"})
            metadata = [("traceparent", mine), ("tracestate", "a=1")] if by_envoy else []
            check = external_auth_pb2_grpc.AuthorizationStub(channel).Check
            _, call = check.with_call(asked, metadata=metadata, timeout=30)
            told = dict(call.initial_metadata())
    finally:
        server.stop(0).wait()
    assert told["traceparent"].startswith(f"00-{'a' * 32}-")
    assert told["traceparent"] != mine
    assert told["tracestate"] == "a=1"


def test_the_envoy_adapter_closes_silent_connections() -> None:
    address = check_address("127.0.0.1", free_port(), False)
    limits, bounds = ConnectionLimits(head=0.5), ConnectionBounds(8, 8)
    server = EnvoyGrpcAdapter(
        ReloadableEngine(Engine.from_text(POLICY)), TRUSTING, None, address, limits=limits, bounds=bounds
    ).started()
    host, port = address.split(":")
    try:
        with ExitStack() as stack:
            held = [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(20)]
            for one in held:
                with suppress(ConnectionResetError):
                    while one.recv(65_536):
                        pass
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(20)
    finally:
        server.stop(0).wait()
