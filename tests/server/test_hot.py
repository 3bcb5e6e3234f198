"""The hot path answers what the application would answer without it, to the byte, and is taken where it should be."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyengine.http.host_check import AllowedHosts
from policyengine.reload import ReloadableEngine
from policyengine.server import create_app
from policyengine.server.app import DecisionApp
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.content_negotiation import MAX_BODY_BYTES
from policyengine.server.fast_path.app import DoorTable, FastPathApp
from policyengine.server.fast_path.door import DoorCounts
from policyengine.server.fast_path.question_door import QuestionDoor
from policyengine.server.telemetry.shared_counters import ServerCounters
from tests.server.conftest import OPEN, ORDER, SHUT, TOKEN, Watched, small

ENGINE = small()
ID = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")
HOST = (b"host", b"127.0.0.1:8080")
JSON = (b"content-type", b"application/json")
MSGPACK = (b"content-type", b"application/msgpack")
OPTIONS = {**OPEN, "options": {"obligations_supported": ["notify"]}}


@dataclass(frozen=True)
class Exchange:
    """A request as a server hands it over: `parts` of a body, each a moment after the other; None hangs up."""

    headers: tuple[tuple[bytes, bytes], ...]
    parts: tuple[bytes | None, ...]
    method: str = "POST"
    path: str = "/decide"
    root: str = ""
    late: bool = False

    @property
    def scope(self) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": self.root,
            "headers": [*self.headers] if b"host" in dict(self.headers) else [HOST, *self.headers],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8080),
        }

    async def messages(self) -> AsyncIterator[Message]:
        for number, part in enumerate(self.parts, start=1):
            if self.late:
                await asyncio.sleep(0)
            if part is None:
                break
            yield {"type": "http.request", "body": part, "more_body": number < len(self.parts)}
        while True:
            yield {"type": "http.disconnect"}


def answered(app: ASGIApp, exchange: Exchange) -> list[Message]:
    """Every message that is sent, ids of decisions made equal."""
    sent: list[Message] = []

    async def run() -> None:
        messages = exchange.messages()

        async def receive() -> Message:
            return await anext(messages)

        async def send(message: Message) -> None:
            sent.append({**message, "body": ID.sub(b"id", message["body"])} if "body" in message else message)

        await app(exchange.scope, receive, send)

    asyncio.run(run())
    return sent


def careful(app: FastAPI) -> ASGIApp:
    return super(DecisionApp, app).__call__


APPS = {token: create_app(ENGINE, token=token) for token in (None, TOKEN)}

# ── Equal ─────────────────────────────────────────────────────────────────────────────────────

VALUES = {
    b"content-type": [
        b"application/json",
        b"application/json; charset=utf-8",
        b"Application/JSON",
        b"application/json;charset=latin-1",
        b"application/msgpack",
        b"application/x-msgpack",
        b"text/plain",
        b"",
    ],
    b"accept": [b"*/*", b"application/json", b"application/msgpack", b"text/html, */*;q=0.1", b"application/*", b""],
    b"content-length": [b"10", b"999999", b"1048577", b"9" * 30, b"x"],
    b"content-encoding": [b"identity", b"gzip"],
    b"authorization": [
        f"Bearer {TOKEN}".encode(),
        f"bearer  {TOKEN} ".encode(),
        f"Bearer {TOKEN}x".encode(),
        b"Bearer \xff\xff",
        b"",
    ],
    b"x-request-id": [b"label-1", b"x" * 129, b"two words", b"\xe9", b"line\n", b""],
    b"host": [b"127.0.0.1", b"LOCALHOST.:80", b"[::1]:8080", b"gateway.example", b"127.0.0.1.evil.example", b""],
    b"origin": [b"http://127.0.0.1:8080", b"https://evil.example", b"null"],
    b"sec-fetch-site": [b"same-origin", b"cross-site"],
    b"user-agent": [b"gateway/1"],
}
HEADER = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])
USUAL = st.sampled_from([JSON, MSGPACK])
QUESTIONS = st.sampled_from(
    [
        OPEN,
        SHUT,
        ORDER,
        OPTIONS,
        {**OPEN, "options": {"explain": True}},
        {**OPEN, "options": {"consume": False}},
        {**OPEN, "options": {"at": "2027-01-01T00:00:00Z"}},
        {**OPEN, "options": []},
        {**OPEN, "agnet": {}},
        {**OPEN, "user": {"id": 5}, "body": {"amount": 0.1, "big": 2**63, "": "é:"}},
        {**OPEN, "user": {"id": "alice", "roles": ["admin"]}},
        {"request": {"method": "GET", "path": "/a/../health"}},
        {"tool": {"name": "x"}, **OPEN},
        {},
        [OPEN],
        None,
    ]
)
ODD_BODIES = st.sampled_from(
    [
        b"",
        b"{",
        b"\xff",
        b'{"request": {"method": "GET", "path": "/health", "path": "/health"}}',
        b'{"request": {"method": "GET", "path": "/health"}, "user": {"id": "a", "id": "b"}}',
        b'{"request": {"method": "GET", "path": "\\u002fhealth\\ud800"}}',
        b'{"tool": {"name": "x"}, "body": {"a": 1e9999}}',
        b'{"tool": {"name": "x"}, "body": ' + b"[" * 40 + b"]" * 40 + b"}",
        json.dumps({**OPEN, "body": {"a": [[0]] * 40}}).encode(),
        json.dumps({**OPEN, "body": {f"m{number}": 0 for number in range(10_001)}}).encode(),
        json.dumps({**OPEN, "body": {"x" * 65_537: 0}}).encode(),
        b'{"request": {"method": "GET", "path": "/health"}, "body": ' + b'{"a":' * 40 + b"0" + b"}" * 41,
        msgpack.packb({**OPEN, "body": {"a": {"a": {"a": {1: 2}}}}}),
        json.dumps(OPEN).encode().ljust(MAX_BODY_BYTES + 1),
    ]
)
BODIES = (
    QUESTIONS.map(lambda question: json.dumps(question).encode())
    | QUESTIONS.map(msgpack.packb)
    | ODD_BODIES
    | st.binary(max_size=20)
)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    body = draw(BODIES)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=2)))
    parts: list[bytes | None] = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    if draw(st.integers(0, 9)) == 0:
        parts[-1] = None
    return Exchange(
        headers=(draw(USUAL), *draw(st.lists(HEADER, max_size=3))),
        parts=tuple(parts),
        method=draw(st.sampled_from(["POST"] * 8 + ["GET", "HEAD"])),
        path=draw(st.sampled_from(["/decide"] * 8 + ["/evaluate", "/decide/", "/nowhere"])),
        root=draw(st.sampled_from([""] * 8 + ["/decide", "/api"])),
        late=draw(st.booleans()),
    )


@given(exchange=exchanges(), token=st.sampled_from([None, TOKEN]))
def test_the_fast_path_returns_the_same_answer_as_the_slow_path(exchange: Exchange, token: str | None) -> None:
    app = APPS[token]
    assert answered(app, exchange) == answered(careful(app), exchange)


@given(question=QUESTIONS, packed=st.booleans(), label=st.none() | st.sampled_from(VALUES[b"x-request-id"]))
def test_the_fast_path_returns_the_same_answer_to_ordinary_questions(
    question: object, packed: bool, label: bytes | None
) -> None:
    body = msgpack.packb(question) if packed else json.dumps(question).encode()
    labels = () if label is None else ((b"x-request-id", label),)
    exchange = Exchange((MSGPACK if packed else JSON, *labels), (body,))
    assert answered(APPS[None], exchange) == answered(careful(APPS[None]), exchange)


# ── Taken ─────────────────────────────────────────────────────────────────────────────────────


def uncounted(answer: object, took: int) -> None:
    pass


DOORS = DoorTable({b"/decide": QuestionDoor(DoorCounts(ServerCounters(), uncounted, uncounted), spends=True)}, {})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    pytest.fail("it went the careful way")


def status(app: ASGIApp, exchange: Exchange) -> int:
    return int(answered(app, exchange)[0]["status"])


@pytest.mark.parametrize(
    ("headers", "question"),
    [
        ([JSON], OPEN),
        ([JSON], SHUT),
        ([JSON], ORDER),
        ([JSON], OPTIONS),
        ([(b"host", b"localhost"), JSON, (b"accept", b"*/*"), (b"user-agent", b"b")], OPEN),
        ([JSON, (b"accept", b"application/json"), (b"content-length", b"53")], OPEN),
        ([(b"content-type", b"application/json; charset=utf-8"), (b"x-request-id", b"label")], OPEN),
        ([MSGPACK], OPEN),
        ([MSGPACK, (b"accept", b"application/msgpack")], OPEN),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("late", [False, True])
def test_an_ordinary_question_takes_the_fast_path(headers: Any, question: object, parts: int, late: bool) -> None:
    body = msgpack.packb(question) if MSGPACK in headers else json.dumps(question).encode()
    size = len(body) // parts + 1
    cut = tuple(body[at : at + size] for at in range(0, len(body), size))
    hot = FastPathApp(refuse, ReloadableEngine(ENGINE), None, AllowedHosts(), 30.0, DOORS)
    assert status(hot, Exchange(tuple(headers), cut, late=late)) == 200


def test_a_question_with_a_token_takes_the_fast_path() -> None:
    hot = FastPathApp(refuse, ReloadableEngine(ENGINE), BearerTokens.of(TOKEN), AllowedHosts(), 30.0, DOORS)
    headers = ((b"host", b"gateway.example"), JSON, (b"authorization", f"Bearer {TOKEN}".encode()))
    exchange = Exchange(headers, (json.dumps(OPEN).encode(),))
    assert status(hot, exchange) == 200


def test_the_application_uses_the_fast_path_before_its_routes() -> None:
    app = create_app(ENGINE)
    app.router.routes.clear()
    exchange = Exchange((JSON,), (json.dumps(OPEN).encode(),))
    assert status(app, exchange) == 200
    assert status(careful(app), exchange) == 404


# ── Not taken ─────────────────────────────────────────────────────────────────────────────────


class Teapot:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "add", [lambda app: app.add_middleware(Teapot), lambda app: app.user_middleware.append(Middleware(Teapot))]
)
def test_the_fast_path_does_not_bypass_added_middleware(add: Callable[[FastAPI], object]) -> None:
    app = create_app(ENGINE)
    add(app)
    assert status(app, Exchange((JSON,), (json.dumps(OPEN).encode(),))) == 418


def test_a_failing_engine_is_a_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = Watched(ENGINE, broken=TimeoutError("late"))
    exchange = Exchange((JSON,), (json.dumps(OPEN).encode(),))
    assert status(create_app(engine), exchange) == 500  # type: ignore[arg-type]
    assert [record.message for record in caplog.records] == ["failed to answer: POST (no X-Request-ID)"]


def test_a_body_that_does_not_arrive_is_408_after_the_body_timeout() -> None:
    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        async def never() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        await create_app(ENGINE, body_timeout=0.01)(scope, never, send)

    assert status(hang, Exchange((JSON,), ())) == 408
