"""Generated requests for every door of the fast path: ordinary, unusual and hostile ones, and how to answer them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from urllib.parse import unquote

import msgpack
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.engine import Engine
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.query_fields import MAX_FIELDS
from policyengine.server.app import DecisionApp
from policyengine.server.content_negotiation import LONG_BODY_BYTES
from policyengine.server.fast_path.answer_turn import WaitingAnswer
from policyengine.server.fast_path.exchange import FastAnswer
from tests.server.conftest import TOKEN

POLICY = """
language 1
package doors
entity user { roles: set<string> }
entity document {}
facts on GET /scored/{id} { context.risk: int }
facts on POST /orders { body.amount: number }
issuer acme { records chains   scopes none }
anyone { may GET /health, POST /orders, GET /open/{id}, GET /limited/{id}, GET /often/{id}, GET /scored/{id} }
anyone { may GET /tenants, ACTION read document, TOOL files/open, GET /audited }
agent "reader" { issued by acme   acts for any user   may GET /mine }
user any { may GET /mine }
guard "orders need a person" on POST /orders { confirm by role finance within 15m message "order of {body.amount}" }
guard "small risks" on GET /scored/{id} { require context.risk < 50 }
guard "own tenant" on GET /tenants { require request.headers["x-tenant"] == "a" }
guard "watched" on GET /audited { audit full }
rate "per path" per request.path on GET /limited/{id} { 2/1h }
rate "per agent" per request.path on GET /often/{id} { 1000/1h }
"""
KERNEL = Engine.from_text(POLICY).kernel
START = datetime(2027, 1, 1, 9, 0, tzinfo=UTC)
SPAN = re.compile(rb"(?<=-)[0-9a-f]{16}(?=-0[0-3]$)")
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ID = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")


def usual_ids() -> Callable[[datetime], str]:
    numbers = count()
    return lambda now: f"01JGGYJRC0{next(numbers):016d}"


def unusual_ids() -> Callable[[datetime], str]:
    """IDs that are written with escapes in JSON, and of another length than usual."""
    numbers = count()
    return lambda now: f'id "{next(numbers)}'


def engine(ids: Callable[[], Callable[[datetime], str]] = usual_ids, **options: Any) -> Engine:
    return Engine(KERNEL, clock=lambda: START, ids=ids(), **options)


@dataclass(frozen=True)
class Exchange:
    """A request as a server hands it over. Its body arrives in pieces if it is `cut`."""

    url: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    method: str = "POST"
    cut: bool = False
    root: str = ""  # where another application mounts this one

    @property
    def scope(self) -> Scope:
        path, _, query = f"{self.root}{self.url}".partition("?")
        headers = [*self.headers]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": self.root,
            "headers": headers if b"host" in dict(headers) else [(b"host", b"127.0.0.1:8080"), *headers],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8080),
        }

    @property
    def pieces(self) -> list[bytes]:
        middle = len(self.body) // 2
        return [self.body[:middle], self.body[middle:]] if self.cut else [self.body]


def answered(app: ASGIApp, exchange: Exchange) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and content. What a trace adds is a new span each time."""
    sent: list[Message] = []

    async def run() -> None:
        pieces = exchange.pieces
        messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, start=1)
        ]

        async def receive() -> Message:
            await asyncio.sleep(0)
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await app(exchange.scope, receive, send)

    asyncio.run(run())
    return sent[0]["status"], neutral(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def asked_now(app: DecisionApp, exchange: Exchange) -> FastAnswer | dict[str, Any]:
    """Ask in a context of its own, because a request enters its caller and its label."""
    arguments = exchange.method, exchange.url.encode(), exchange.scope["headers"], exchange.body
    found = copy_context().run(app.now, *arguments)
    if not isinstance(found, WaitingAnswer):
        return found
    held = HeldAnswers()
    found.connection = held
    app.flush()
    return held.answers[0]


class HeldAnswers:
    """A connection that collects its answers."""

    def __init__(self) -> None:
        self.answers: list[FastAnswer] = []
        self.is_failed = False

    def send_held(self, method: str, keeps: bool, answer: FastAnswer) -> None:
        self.answers.append(answer)

    def fail_held(self) -> None:
        self.is_failed = True


def answered_now(app: DecisionApp, exchange: Exchange) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """As the protocol of this server asks, which is never below a root: the application answers what the fast path does
    not."""
    found = asked_now(app, exchange) if not exchange.root else {}
    if isinstance(found, FastAnswer):
        return found.status, neutral(found.headers), found.content

    async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, **found}, receive, send)

    return answered(passed_on, exchange)


def neutral(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, SPAN.sub(b"span", value) if name == b"traceparent" else value) for name, value in headers]


def careful(app: DecisionApp) -> ASGIApp:
    return super(DecisionApp, app).__call__


def effects(app: DecisionApp) -> dict[Any, int]:
    """What was counted, without times, which decisions of the fast path are timed for only now and then."""
    return {key: cells[0] for key, cells in app.api.tally.total().items() if key[0] != "reload"}


# ── Requests ──────────────────────────────────────────────────────────────────────────────────

JSON = (b"content-type", b"application/json")
MSGPACK = (b"content-type", b"application/msgpack")
HEADERS: dict[bytes, list[bytes]] = {
    b"accept": [b"*/*", b"application/json", b"application/msgpack", b"text/html, */*;q=0.1", b"application/*"],
    b"accept-encoding": [b"gzip, deflate"],
    b"authorization": [f"Bearer {TOKEN}".encode(), f"Bearer {TOKEN}x".encode(), b"Basic YQ==", b"\xff"],
    b"connection": [b"close", b"upgrade"],
    b"content-encoding": [b"identity", b"gzip"],
    b"content-length": [b"10", b"0", b"1048577", b"9" * 30, b"x"],
    b"content-type": [b"application/json; charset=utf-8", b"application/json", b"text/plain", b"application/x-msgpack"],
    b"cookie": [b"a=b", b"\xff"],
    b"expect": [b"100-continue"],
    b"host": [b"127.0.0.1", b"LOCALHOST.:80", b"gateway.example", b"127.0.0.1.evil.example", b"", b"a,b"],
    b"idempotency-key": [b"k", b"two words", b""],
    b"origin": [b"http://127.0.0.1:8080", b"https://evil.example", b"null"],
    b"sec-fetch-site": [b"same-origin", b"cross-site"],
    b"traceparent": [PARENT, PARENT.upper(), b""],
    b"tracestate": [b"a=1", b"a=1,a=2", b"\x07"],
    b"upgrade": [b"h2c"],
    b"user-agent": [b"gateway/1"],
    b"x-agent-credential-issuer": [b"acme", b"acme,acme"],
    b"x-agent-groups": [b"a, b", b""],
    b"x-agent-id": [b"reader", b"r\xc3\xa9ader", b"a b", b"50%", b"", b"\xff", b"x" * 5_000],
    b"x-agent-issuer": [b"acme", b"other"],
    b"x-agent-user": [b"alice", b"b\xc3\xb6b"],
    b"x-agent-bound": [b"true", b"yes"],
    b"x_agent_id": [b"root"],
    b"x-agent-issued-at": [b"1800000000", b"yesterday"],
    b"x-envoy-auth-partial-body": [b"false", b"true"],
    b"x-envoy-internal": [b"true"],
    b"x-forwarded-for": [b"10.1.2.3", b"10.1.2.3, 8.8.8.8"],
    b"x-forwarded-host": [b"api.example", b""],
    b"x-forwarded-method": [b"GET", b"POST", b"get", b"", b"A B"],
    b"x-forwarded-uri": [
        b"/health", b"/orders", b"/mine", b"/limited/1", b"/often/1", b"/scored/1", b"/tenants", b"/audited",
        b"/nowhere", b"/a/../health", b"/health%2f", b"//health", b"/health?a=1&b=2", b"/health?a=1&a=2", b"/%68ealth",
        b"/health#x", b"", b"health", b"/health?" + b"a&" * MAX_FIELDS, b"/\xff",
    ],
    b"x-original-url": [b"/admin"],
    b"x-request-id": [b"label-1", b"x" * 129, b"two words", b"\xe9", b""],
    b"x-role": [b"admin", b"a,b"],
    b"x.role": [b"admin"],
    b"x-tenant": [b"a", b"b"],
}  # fmt: skip
HEADER = st.sampled_from([(name, value) for name, values in HEADERS.items() for value in values])
OPEN, SHUT, ORDER = ({"request": {"method": "GET", "path": path}} for path in ("/health", "/secrets", "/open/1"))
READER = {"agent": {"id": "reader", "issuer": "acme"}, "user": {"id": "alice"}, "credential": {"issuer": "acme"}}
ITEM = st.sampled_from([
    OPEN, SHUT,
    {"request": {"method": "POST", "path": "/orders"}, "body": {"amount": 900.5}},
    {"request": {"method": "GET", "path": "/limited/1"}},
    {"request": {"method": "GET", "path": "/often/1"}},
    {"request": {"method": "GET", "path": "/scored/1"}, "context": {"risk": "high"}},
    {"request": {"method": "GET", "path": "/audited"}},
    {"request": {"method": "GET", "path": "/mine"}, **READER},
    {"request": {"method": "GET", "path": "/mine"}, **READER, "chain": {"hops": [{"agent": "a", "issuer": "acme"}]}},
    {"request": {"method": "GET", "path": "/a/../health"}},
    {"tool": {"server": "files", "name": "open"}, "args": {"a": [1, 2, {"b": None}]}},
    {"action": {"name": "read"}, "resource": {"type": "document", "id": "é"}},
    {**OPEN, "pending": ["body", "context"]}, {**OPEN, "pending": ["bdy"]}, {**OPEN, "agnet": {}}, {**OPEN, "user": 5},
    {**OPEN, "credentials": {"authorization": "Bearer x"}}, {**OPEN, "approvals": [{"id": "a", "by": "b"}]},
    {**OPEN, "context": {"a": "x" * 20_000}}, {}, [], None, 5, "text",
])  # fmt: skip
OPTIONS = st.sampled_from([
    None, {}, {"consume": True}, {"consume": False}, {"consume": None}, {"consume": 1}, {"explain": True},
    {"explain": False}, {"explain": None}, {"at": "2027-01-01T00:00:00Z"},
    {"at": "2027-01-01T00:00:00Z", "consume": False},
    {"obligations_supported": ["audit"]}, {"obligations_supported": []}, {"obligations_supported": "audit"}, [], "x",
    {"consume": False, "explain": False, "obligations_supported": ["notify"]}, {"other": 1},
])  # fmt: skip


@st.composite
def questions(draw: st.DrawFn) -> Any:
    item, options = draw(ITEM), draw(OPTIONS)
    return item if options is None or not isinstance(item, dict) else {**item, "options": options}


SEMANTICS = st.sampled_from(["execute_all", "deny_on_first_deny", "permit_on_first_permit", "other", 5, None])
BATCHES = st.builds(
    lambda items, semantics, more: {
        "requests": items, **({} if semantics is None else {"semantics": semantics}), **more,
    },
    st.lists(questions(), max_size=5) | st.lists(st.just(OPEN), min_size=15, max_size=18) | st.just(5),
    SEMANTICS,
    st.sampled_from([{}, {}, {"more": 1}]),
) | questions()  # fmt: skip
ENTITY = st.sampled_from([
    {"type": "user", "id": "alice"}, {"type": "document", "id": "1"}, {"type": "route", "id": "/mine"},
    {"type": "user", "id": "alice", "properties": {"iss": "acme", "act": {"sub": "reader", "iss": "acme"}}},
    {"type": "user", "id": "alice", "properties": {"act": {"sub": "reader", "act": {"sub": 5}}}},
    {"type": "agent", "id": "reader"}, {"type": "tool", "id": "files/open"}, {"type": "route", "id": "/limited/1"},
    {"type": "user"}, {"id": 5, "type": "user"}, 5, None,
])  # fmt: skip
CONTEXT = st.sampled_from([
    None, {}, {"consume": True}, {"consume": False}, {"consume": 5}, {"risk": 5}, {"approval": {"id": "a", "by": "b"}},
    {"a": ["x"] * 20}, {"supported_obligations": ["custom"]}, {"credentials": {"authorization": "Bearer x"}},
    {"agent": "reader"}, {"chain": {"hops": []}}, [],
])  # fmt: skip
EVALUATIONS = st.builds(
    lambda **members: {name: value for name, value in members.items() if value is not None},
    subject=ENTITY, action=st.sampled_from([{"name": "read"}, {"name": "GET"}, {"name": "tools/call"}, {"name": 5}]),
    resource=ENTITY, context=CONTEXT,
)  # fmt: skip
SEVERAL = st.builds(
    lambda whole, items, options: {**whole, "evaluations": items, **({} if options is None else {"options": options})},
    EVALUATIONS,
    st.lists(EVALUATIONS | st.sampled_from([{}, 5, None]), max_size=4) | st.sampled_from([None, 5, [{}] * 18]),
    SEMANTICS.map(lambda one: None if one is None else {"evaluations_semantic": one}) | st.just([]),
)
ODD_BODIES = st.sampled_from([
    b"", b"{", b"\xff", b"[]", b'{"requests": [{"tool": {"name": "x"}, "tool": {"name": "y"}}]}',
    b'{"request": {"method": "GET", "path": "/health"}, "user": {"id": "a", "id": "b"}}',
    b'{"subject": {"type": "user", "id": "a", "id": "b"}, "action": {"name": "read"}}',
    b'{"request": {"method": "GET", "path": "/health"}, "body": {"a": 1e9999}}',
    b'{"requests": [{"\\ud800": 1}]}', b'{"amount": 12.5}', b"amount=12.5", b'{"_method": "DELETE"}',
    json.dumps({"requests": [OPEN] * 3}).encode().ljust(LONG_BODY_BYTES + 1),
])  # fmt: skip
PATHS = {
    "/decide": questions(), "/evaluate": questions(), "/decide/batch": BATCHES,
    "/access/v1/evaluation": EVALUATIONS, "/access/v1/evaluations": SEVERAL,
}  # fmt: skip
ENVOY_PATHS = st.sampled_from([
    "/envoy/health", "/envoy/orders", "/envoy/mine", "/envoy/limited/1", "/envoy/often/1", "/envoy/scored/1?a=1&b=2",
    "/envoy/a/../health", "/envoy/%2e%2e/health", "/envoy//health", "/envoy/health%0a", "/envoy/health%0Ax", "/envoy/",
    "/envoy", "/%65nvoy/health", "/envoy/health?", "/envoy/health??a", "/envoy/tenants", "/envoyx/health",
    "/envoy/health/%ff", "/envoy/%2fhealth",
])  # fmt: skip
OTHER_PATHS = st.sampled_from([
    "/forward%2Dauth", "/forward-auth/", "//forward-auth", "/forward-auth/nginx/", "/dec%69de", "/decide/", "//decide",
    "/access/v1/evaluation/", "/nowhere", "/healthz", "/evaluate/batch", "/Decide",
])  # fmt: skip
ROOT = st.sampled_from([""] * 12 + ["/api", "/envoy", "/forward-auth", "/decide"])
QUERY = st.sampled_from(["", "", "", "?", "?a=1", "?/decide", "??"])


@st.composite
def api_exchanges(draw: st.DrawFn) -> Exchange:
    path = draw(st.sampled_from(sorted(PATHS)) | st.sampled_from(sorted(PATHS)) | OTHER_PATHS)
    packed = draw(st.integers(0, 4)) == 0
    tree = PATHS.get(path, questions()).map(msgpack.packb if packed else lambda one: json.dumps(one).encode())
    body = draw(ODD_BODIES if draw(st.integers(0, 9)) == 0 else tree)
    headers = (MSGPACK if packed else JSON, *draw(st.lists(HEADER, max_size=3)))
    method = draw(st.sampled_from(["POST"] * 12 + ["GET", "HEAD", "OPTIONS"]))
    return Exchange(path + draw(QUERY), headers, body, method, draw(st.booleans()), draw(ROOT))


@st.composite
def gateway_exchanges(draw: st.DrawFn) -> Exchange:
    if draw(st.booleans()):
        path = draw(st.sampled_from(["/forward-auth"] * 3 + ["/forward-auth/nginx"] * 3) | OTHER_PATHS)
        told = [(b"x-forwarded-method", draw(st.sampled_from([b"GET"] * 5 + HEADERS[b"x-forwarded-method"])))]
        told.append((b"x-forwarded-uri", draw(st.sampled_from(HEADERS[b"x-forwarded-uri"]))))
        method, body = (
            draw(st.sampled_from(["GET"] * 12 + ["POST", "HEAD", "OPTIONS"])),
            draw(st.sampled_from([b"", b"x"])),
        )
    else:
        path, told = draw(ENVOY_PATHS), [(b"x-envoy-auth-partial-body", draw(st.sampled_from([b"false", b"true"])))]
        method = draw(st.sampled_from(["GET"] * 4 + ["POST"] * 4 + ["HEAD", "OPTIONS", "PROPFIND", "DELETE"]))
        body = draw(ODD_BODIES | st.sampled_from([b"", b'{"amount": 900}']))
        told += draw(st.sampled_from([[], [JSON]]))
    caller = [(b"x-agent-id", b"reader"), (b"x-agent-issuer", b"acme"), (b"x-agent-user", b"alice")]
    headers = [*told, *draw(st.sampled_from([[], caller])), *draw(st.lists(HEADER, max_size=4))]
    return Exchange(path + draw(QUERY), tuple(headers), body, method, draw(st.booleans()), draw(ROOT))


EXCHANGES = st.lists(api_exchanges() | gateway_exchanges(), min_size=1, max_size=4)
GATEWAY = GatewayHeaders(
    hands_on_nginx=("x-tenant", "x-agent-groups"),
    hands_on_envoy=("x-tenant",),
    bodies=("envoy",),
    obligations=("audit",),
)
WITH_TOKEN = (b"authorization", f"Bearer {TOKEN}".encode())
