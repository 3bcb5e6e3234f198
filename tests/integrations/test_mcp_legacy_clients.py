"""Legacy sessions over HTTP at the gateway: each status and header, the stream of each message, and the end of
sessions. The requests are those of ASGI, without a socket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from policyengine.integrations.mcp.clients import http_endpoint, session_endpoint
from policyengine.integrations.mcp.clients.http_endpoint import MAX_REQUEST_BYTES
from policyengine.integrations.mcp.clients.legacy_client import REQUEST_CANCELLED
from policyengine.integrations.mcp.clients.response_stream import ResponseStream, format_event
from policyengine.integrations.mcp.clients.sessions import SessionTable
from policyengine.integrations.mcp.gateway import McpGateway, http_app
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream.server import McpUpstream
from tests.integrations.conftest import BOT, Watched
from tests.integrations.era_servers import HELLO, EraServer, gateway_of

ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
EVENTS = {"accept": "text/event-stream"}
ADD = {"name": "add", "arguments": {"a": 1, "b": 2}}
INVALID_REQUEST, PARSE_ERROR = -32600, -32700


@dataclass(eq=False)
class HttpCall:
    """One request to the application, whose answer arrives in parts."""

    method: str
    headers: Mapping[str, str]
    body: bytes
    status: int = 0
    answered: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    is_complete: bool = False
    has_left: anyio.Event = field(default_factory=anyio.Event)
    changed: anyio.Event = field(default_factory=anyio.Event)
    pending: bool = True

    async def receive(self) -> dict[str, Any]:
        if self.pending:
            self.pending = False
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.has_left.is_set():
            return
        if message["type"] == "http.response.start":
            assert not self.status, "the answer began twice"
            self.status = message["status"]
            self.answered = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert self.status, "the answer has no status"
            assert not self.is_complete, "the answer ended twice"
            self.content += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self.changed.wait()

    @property
    def messages(self) -> list[Any]:
        if self.answered.get("content-type") != "text/event-stream":
            return [json.loads(self.content)] if self.content else []
        lines = self.content.decode().split("\r\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    @property
    def error(self) -> Any:
        return self.messages[-1]["error"]


class Client:
    """A client of one gateway, which sends what a test says."""

    def __init__(self, app: Any, group: Any) -> None:
        self.app, self.group = app, group
        self.session: dict[str, str] = {}

    def start(self, method: str, headers: Mapping[str, str], body: bytes = b"") -> HttpCall:
        """Begin a request, and do not wait for its answer."""
        sent = {"host": "127.0.0.1", **headers, **self.session}
        call = HttpCall(method, sent, body)
        head = [(name.encode(), value.encode()) for name, value in sent.items()]
        scope = {"type": "http", "method": method, "path": "/mcp", "headers": head, "server": ("127.0.0.1", 80)}
        self.group.start_soon(self.app, scope, call.receive, call.send)
        return call

    async def send(self, method: str, headers: Mapping[str, str], body: bytes = b"") -> HttpCall:
        call = self.start(method, headers, body)
        await call.until(lambda: call.is_complete)
        return call

    async def post(self, message: Any, **headers: str) -> HttpCall:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.send("POST", {**ACCEPT, **headers}, body)

    def begin_call(self, tool: str, id: Any = 2, **meta: Any) -> HttpCall:
        params = {"name": tool, "arguments": {}, **({"_meta": meta} if meta else {})}
        return self.start("POST", ACCEPT, json.dumps(request("tools/call", params, id)).encode())

    async def begin(self, capabilities: Any = None) -> HttpCall:
        begun = await self.post(request("initialize", {**HELLO, "capabilities": capabilities or {}}, 1))
        self.session = {"mcp-session-id": begun.answered["mcp-session-id"]}
        await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return begun

    async def listen(self) -> HttpCall:
        listening = self.start("GET", EVENTS)
        await listening.until(lambda: bool(listening.status))
        return listening


class EndedTasks:
    """Tasks of requests, which their server cancels when it stops."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def start_soon(self, work: Callable[..., Any], *arguments: Any) -> None:
        self.tasks.append(asyncio.create_task(work(*arguments)))

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def request(method: str, params: Any = None, id: Any = 2) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params})}


@asynccontextmanager
async def client_of(gateway: McpGateway) -> AsyncIterator[Client]:
    app = http_app(gateway)
    with anyio.fail_after(60):
        async with app.router.lifespan_context(app), anyio.create_task_group() as group:
            yield Client(app, group)
            group.cancel_scope.cancel()


def run(gateway: McpGateway, work: Callable[[Client], Any], *, begins: bool = True) -> None:
    async def bounded() -> None:
        async with client_of(gateway) as client:
            if begins:
                await client.begin()
            await work(client)

    asyncio.run(bounded())


@pytest.fixture
def behind() -> EraServer:
    return EraServer()


@pytest.fixture
def gateway(watched: Watched, behind: EraServer) -> McpGateway:
    return gateway_of(watched, behind)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> SessionTable:
    """The sessions of the gateway."""
    table = SessionTable()
    monkeypatch.setattr(http_endpoint, "SessionTable", lambda most: table)
    return table


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await anyio.sleep(0.001)


# ── The head and the body of a POST ───────────────────────────────────────────────────────────


def test_initialize_begins_a_session_that_its_answer_names(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        begun = await client.begin()
        assert (begun.status, begun.answered["content-type"]) == (200, "application/json")
        assert begun.answered["content-length"] == str(len(begun.content))
        assert begun.messages[0]["result"]["protocolVersion"] == "2025-11-25"
        name = begun.answered["mcp-session-id"]
        assert name.isalnum()
        assert len(name) == 32
        called = await client.post(request("tools/call", ADD))
        assert (called.status, called.answered["mcp-session-id"]) == (200, name)
        assert called.messages[0]["result"]["content"][0]["text"] == "3"

    run(gateway, work, begins=False)


def test_an_initialize_that_fails_begins_no_session(watched: Watched, sessions: SessionTable) -> None:
    async def work(client: Client) -> None:
        failed = await client.post(request("initialize", HELLO, 1))
        assert (failed.status, failed.messages[0]["id"], "error" in failed.messages[0]) == (200, 1, True)
        assert "mcp-session-id" not in failed.answered
        assert len(sessions) == 0

    unreachable = McpGateway(watched, "billing", always(BOT), McpUpstream("http://127.0.0.1:9/mcp", {}, {}, 2.0))
    run(unreachable, work, begins=False)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"accept": "application/json"}, 406),
        ({"accept": "text/event-stream"}, 406),
        ({"accept": ""}, 406),
        ({"accept": "text/html, application/json;q=0.9, text/event-stream"}, 200),
        ({"accept": "*/*"}, 200),
        ({"accept": "APPLICATION/*, TEXT/*"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "application/json-seq"}, 415),
        ({"content-type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_a_post_says_that_it_has_json_and_takes_both_kinds_of_answers(
    gateway: McpGateway, headers: dict[str, str], status: int
) -> None:
    async def work(client: Client) -> None:
        assert (await client.post(request("ping"), **headers)).status == status
        session, client.session = client.session, {}
        begun = await client.post(request("initialize", HELLO), **headers)
        assert (begun.status, "mcp-session-id" in begun.answered) == (status, status == 200)
        client.session = session

    run(gateway, work)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", PARSE_ERROR),
        (b"no json", PARSE_ERROR),
        (b"\xff\xfe", PARSE_ERROR),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, PARSE_ERROR),
        (b"[]", INVALID_REQUEST),
        (json.dumps([request("ping")]).encode(), INVALID_REQUEST),
        (b"1", INVALID_REQUEST),
        (b'{"id": 2, "method": "ping"}', INVALID_REQUEST),
        (json.dumps(request("ping", id=None)).encode(), INVALID_REQUEST),
        (json.dumps(request("ping", id=True)).encode(), INVALID_REQUEST),
        (json.dumps(request("ping", id=1.5)).encode(), INVALID_REQUEST),
        (json.dumps(request("ping", [])).encode(), INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 2}', INVALID_REQUEST),
    ],
)
def test_a_body_that_is_no_message_is_refused(gateway: McpGateway, behind: EraServer, body: bytes, code: int) -> None:
    async def work(client: Client) -> None:
        heard = list(behind.methods)
        refused = await client.post(body)
        assert (refused.status, refused.error["code"]) == (400, code)
        assert behind.methods == heard

    run(gateway, work)


@pytest.mark.parametrize("begins", [True, False])
def test_a_large_body_is_refused(gateway: McpGateway, begins: bool) -> None:
    async def work(client: Client) -> None:
        assert (await client.post(b" " * (MAX_REQUEST_BYTES + 1))).status == 413

    run(gateway, work, begins=begins)


def test_initialize_without_an_id_is_refused(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        refused = await client.post({"jsonrpc": "2.0", "method": "initialize", "params": HELLO})
        assert (refused.status, "mcp-session-id" in refused.answered) == (400, False)

    run(gateway, work, begins=False)


def test_an_unknown_version_in_a_session_is_refused_with_the_known_ones(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        refused = await client.post(request("ping"), **{"mcp-protocol-version": "1999-01-01"})
        assert refused.status == 400
        for version in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
            assert (await client.post(request("ping"), **{"mcp-protocol-version": version})).status == 200

    run(gateway, work)


def test_notifications_and_answers_are_accepted_without_a_body(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        for message in (
            {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
            {"jsonrpc": "2.0", "method": "notifications/of/nobody"},
            {"jsonrpc": "2.0", "id": "of nobody", "result": {}},
            {"jsonrpc": "2.0", "id": 9, "error": {"code": -1, "message": "no"}},
        ):
            accepted = await client.post(message)
            assert (accepted.status, accepted.content, accepted.answered["content-length"]) == (202, b"", "0")

    run(gateway, work)


def test_the_session_of_an_answer_is_the_first_that_a_request_names(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        names = [("mcp-session-id", "x"), *client.session.items()]
        for pairs, status in ((names, 404), (names[::-1], 200)):
            call = HttpCall("POST", {}, json.dumps(request("ping")).encode())
            head = [(k.encode(), v.encode()) for k, v in (("host", "127.0.0.1"), *ACCEPT.items(), *pairs)]
            scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": head, "server": ("127.0.0.1", 80)}
            await client.app(scope, call.receive, call.send)
            assert call.status == status

    run(gateway, work)


# ── Which stream a message is on ──────────────────────────────────────────────────────────────


def test_progress_comes_before_the_result_on_the_stream_of_its_request(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        listening = await client.listen()
        call = client.begin_call("busy", progressToken="mine")
        await call.until(lambda: call.is_complete)
        assert (call.status, call.answered["content-type"]) == (200, "text/event-stream")
        assert call.answered["cache-control"] == "no-cache, no-transform"
        assert call.answered["mcp-session-id"] == client.session["mcp-session-id"]
        assert [one.get("method", "the result") for one in call.messages] == ["notifications/progress", "the result"]
        assert call.messages[-1]["id"] == 2
        assert listening.messages == []

    run(gateway, work)


def test_a_question_comes_on_the_stream_of_its_request_and_its_answer_in_another(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        await client.begin({"elicitation": {"form": {}}})
        call = client.begin_call("ask")
        await call.until(lambda: bool(call.messages))
        question = call.messages[0]
        assert question["method"] == "elicitation/create"
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {}}}
        assert (await client.post(answer)).status == 202
        await call.until(lambda: call.is_complete)
        assert call.messages[-1]["result"]["content"][0]["text"] == "accept"

    run(gateway, work, begins=False)


def test_what_belongs_to_no_request_comes_on_the_stream_of_the_session(gateway: McpGateway, behind: EraServer) -> None:
    async def work(client: Client) -> None:
        await client.post(request("resources/subscribe", {"uri": "docs://open/a"}))
        await behind.change_tools()
        await anyio.wait_all_tasks_blocked()  # nobody listens: the message is dropped
        listening = await client.listen()
        assert (listening.status, listening.answered["content-type"]) == (200, "text/event-stream")
        assert listening.answered["mcp-session-id"] == client.session["mcp-session-id"]
        await behind.change("docs://open/a")
        await listening.until(lambda: bool(listening.messages))
        assert [one["method"] for one in listening.messages] == ["notifications/resources/updated"]

    run(gateway, work)


def test_a_session_has_one_stream_until_its_client_leaves(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        listening = await client.listen()
        assert (await client.send("GET", EVENTS)).status == 409
        listening.has_left.set()
        await anyio.wait_all_tasks_blocked()
        assert (await client.listen()).status == 200

    run(gateway, work)


def test_listening_needs_a_client_that_accepts_events(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        for accepted in ("application/json", ""):
            assert (await client.send("GET", {"accept": accepted})).status == 406

    run(gateway, work)


def test_a_client_that_resumes_a_stream_gets_a_new_one(gateway: McpGateway, behind: EraServer) -> None:
    """The gateway keeps no events, so nothing is sent again."""

    async def work(client: Client) -> None:
        await client.post(request("resources/subscribe", {"uri": "docs://open/a"}))
        listening = client.start("GET", {**EVENTS, "last-event-id": "7"})
        await listening.until(lambda: bool(listening.status))
        await behind.change("docs://open/a")
        await listening.until(lambda: bool(listening.messages))
        assert (listening.status, len(listening.messages), b"id:" in listening.content) == (200, 1, False)

    run(gateway, work)


def test_silent_streams_are_kept_alive_by_comments(
    gateway: McpGateway, behind: EraServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_endpoint, "TICK_SECONDS", 0.005)

    async def work(client: Client) -> None:
        listening, call = await client.listen(), client.begin_call("slow")
        for silent in (listening, call):
            await silent.until(lambda silent=silent: silent.content.count(b":\r\n\r\n") >= 2)
        await client.post(cancellation(2))
        await call.until(lambda: call.is_complete)
        assert (call.answered["content-type"], call.error["code"]) == ("text/event-stream", REQUEST_CANCELLED)
        assert listening.messages == []

    run(gateway, work)


def test_only_a_stream_that_was_silent_for_a_tick_needs_a_comment() -> None:
    async def work() -> None:
        stream = ResponseStream(HttpCall("POST", {}, b"").send)
        assert [stream.tick() for _ in range(3)] == [False, True, True]
        await stream.write(b"{}")
        assert [stream.tick() for _ in range(2)] == [False, True]
        await stream.finish(b"{}")
        assert not stream.tick()

    asyncio.run(work())


def test_attack_client_that_does_not_read_its_comments() -> None:
    """Nothing piles up for it."""

    async def work() -> None:
        stream = ResponseStream(lambda message: anyio.sleep_forever())
        async with anyio.create_task_group() as group:
            assert [stream.tick() for _ in range(2)] == [False, True]
            group.start_soon(stream.keep_alive)
            await anyio.lowlevel.checkpoint()
            assert not any(stream.tick() for _ in range(3))
            group.cancel_scope.cancel()

    asyncio.run(work())


def test_a_stream_that_its_server_ends_gets_no_more_messages(gateway: McpGateway, sessions: SessionTable) -> None:
    async def work(client: Client) -> None:
        tasks = EndedTasks()
        client.group = tasks
        listening = await client.listen()
        stream = sessions.clients[0].listening
        await tasks.end()
        await stream.write(b"{}")
        assert listening.content == b""
        assert sessions.clients[0].listening is None

    run(gateway, work)


@pytest.mark.parametrize("error", [OSError("the client has left"), RuntimeError("the answer has ended")])
def test_attack_client_whose_messages_cannot_be_sent(error: Exception) -> None:
    """The relay sends the messages of all requests of a session: one that cannot be sent must not end it."""

    async def work() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                raise error

        stream = ResponseStream(send)
        for _ in range(3):
            await stream.write(b"{}")
        await stream.finish(b"{}")
        assert (stream.is_finished, len(sent)) == (True, 2)

    asyncio.run(work())


@pytest.mark.parametrize("is_stream", [False, True])
def test_attack_client_that_leaves_before_its_answer_fills_the_log(is_stream: bool) -> None:
    """The request was answered: an error would be logged as a denial, with two tracebacks."""

    async def work() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            if len(sent) == 2 * is_stream:
                raise RuntimeError("the handler is closed")
            sent.append(message)

        stream = ResponseStream(send)
        if is_stream:
            await stream.write(b"{}")
        await stream.finish(b"{}")
        assert (stream.is_finished, len(sent)) == (True, 2 * is_stream)

    asyncio.run(work())


def test_an_answer_whose_sending_was_cancelled_is_sent_again() -> None:
    async def work() -> None:
        call, has_room = HttpCall("POST", {}, b""), anyio.Event()

        async def send(message: Any) -> None:
            await has_room.wait()
            await call.send(message)

        stream = ResponseStream(send)
        for sending in (stream.write(b"{}"), stream.finish(b"{}")):
            with anyio.move_on_after(0.001):
                await sending
        has_room.set()
        await stream.finish(b'{"an": "answer"}')
        assert (call.messages, call.is_complete) == ([{"an": "answer"}], True)

    asyncio.run(work())


def test_line_ends_of_unicode_do_not_split_an_event() -> None:
    words = "a\u2028b\u2029c\u0085d"
    event = format_event(json.dumps(words, ensure_ascii=False).encode()).decode()
    assert len(event.splitlines()) == 3
    assert json.loads(event.splitlines()[1].removeprefix("data: ")) == words


# ── Cancelled, repeated and lost requests ─────────────────────────────────────────────────────


def cancellation(id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}


def test_a_cancelled_request_is_answered_and_cancelled_upstream(gateway: McpGateway, behind: EraServer) -> None:
    async def work(client: Client) -> None:
        call = client.begin_call("slow")
        await until(lambda: "tools/call" in behind.methods)
        assert (await client.post(cancellation(2))).status == 202
        await call.until(lambda: call.is_complete)
        assert (call.status, call.messages[0]["id"], call.error["code"]) == (200, 2, REQUEST_CANCELLED)
        await until(lambda: behind.cancelled == 1)

    run(gateway, work)


def test_attack_request_cancelled_while_it_is_decided(watched: Watched, behind: EraServer) -> None:
    """The cancellation waits for the decision: otherwise, the call would go on without its client."""

    class Deciding:
        begun, go_on = anyio.Event(), anyio.Event()
        evaluate_async, report_async = watched.evaluate_async, watched.report_async

        async def decide_async(self, question: Any) -> Any:
            self.begun.set()
            await self.go_on.wait()
            return await watched.decide_async(question)

    deciding = Deciding()

    async def work(client: Client) -> None:
        call = client.begin_call("slow")
        await deciding.begun.wait()
        cancelling = client.start("POST", ACCEPT, json.dumps(cancellation(2)).encode())
        await anyio.wait_all_tasks_blocked()
        assert not cancelling.status
        deciding.go_on.set()
        await call.until(lambda: call.is_complete)
        assert call.error["code"] == REQUEST_CANCELLED
        await cancelling.until(lambda: cancelling.is_complete)
        assert cancelling.status == 202

    run(gateway_of(deciding, behind), work)


def test_attack_two_requests_with_one_id(gateway: McpGateway, behind: EraServer) -> None:
    """The second must not take the stream of the first."""

    async def work(client: Client) -> None:
        call = client.begin_call("slow")
        await until(lambda: "tools/call" in behind.methods)
        repeated = await client.post(request("tools/call", ADD, 2))
        assert (repeated.error["code"], repeated.messages[0]["id"]) == (INVALID_REQUEST, 2)
        for id in ("2", 3):  # other IDs
            assert (await client.post(request("tools/call", ADD, id))).messages[0]["id"] == id
        await client.post(cancellation(2))
        await call.until(lambda: call.is_complete)
        assert call.error["code"] == REQUEST_CANCELLED
        late = await client.post(request("tools/call", ADD, 2))  # the server could answer the first one now
        assert (late.error["code"], late.messages[0]["id"]) == (INVALID_REQUEST, 2)
        assert (await client.post(request("tools/call", ADD, 4))).messages[0]["result"]

    run(gateway, work)


def test_a_client_that_leaves_does_not_cancel_its_request(gateway: McpGateway, behind: EraServer) -> None:
    """In these versions, only a notification cancels; the connection may have been lost by chance."""

    async def work(client: Client) -> None:
        call = client.begin_call("slow")
        await until(lambda: "tools/call" in behind.methods)
        call.has_left.set()
        await anyio.wait_all_tasks_blocked()
        assert behind.cancelled == 0
        await client.post(cancellation(2))
        await until(lambda: behind.cancelled == 1)

    run(gateway, work)


def test_a_request_whose_task_the_server_ends_is_reported_and_frees_its_id(
    gateway: McpGateway, behind: EraServer, watched: Watched
) -> None:
    async def work(client: Client) -> None:
        tasks = EndedTasks()
        client.group, group = tasks, client.group
        client.begin_call("slow")
        await until(lambda: "tools/call" in behind.methods)
        await tasks.end()
        client.group = group
        assert [one["status"] for one in watched.reports] == [500]
        assert (await client.post(request("tools/call", ADD))).messages[0]["result"]

    run(gateway, work)


def test_attack_session_with_too_many_posts(
    gateway: McpGateway, behind: EraServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_endpoint, "MAX_POSTS", 1)

    async def work(client: Client) -> None:
        call = client.begin_call("slow")
        await until(lambda: "tools/call" in behind.methods)
        assert (await client.post(request("ping", id=3))).status == 429
        session = await client.send("DELETE", {})
        assert session.status == 200
        await call.until(lambda: call.is_complete)

    run(gateway, work)


# ── The end of a session ──────────────────────────────────────────────────────────────────────


def test_delete_ends_the_session_its_stream_and_its_requests(
    gateway: McpGateway, behind: EraServer, watched: Watched
) -> None:
    async def work(client: Client) -> None:
        listening, call = await client.listen(), client.begin_call("slow")
        await until(lambda: "tools/call" in behind.methods)
        assert (await client.send("DELETE", {})).status == 200
        await call.until(lambda: call.is_complete)
        assert (call.status, call.messages[0]["id"], call.error["code"]) == (404, 2, INVALID_REQUEST)
        await listening.until(lambda: listening.is_complete)
        assert listening.messages == []
        for method, headers in (("GET", EVENTS), ("DELETE", {}), ("PUT", {})):
            assert (await client.send(method, headers)).status == 404
        ended = await client.post(request("ping"))
        assert (ended.status, "mcp-session-id" in ended.answered) == (404, False)
        assert [one["status"] for one in watched.reports] == [500]

    run(gateway, work)


def test_a_session_that_is_ending_accepts_no_request(watched: Watched, sessions: SessionTable) -> None:
    class SlowEnd(EraServer):
        has_ended = anyio.Event()

        @asynccontextmanager
        async def connect(self) -> AsyncIterator[tuple[Any, Any]]:
            async with super().connect() as streams:
                try:
                    yield streams
                finally:
                    with anyio.CancelScope(shield=True):
                        await self.has_ended.wait()

    behind = SlowEnd()

    async def work(client: Client) -> None:
        sessions.clients[0].close()
        refused = client.start("POST", ACCEPT, json.dumps(request("ping")).encode())
        await anyio.wait_all_tasks_blocked()
        found = refused.status, len(sessions)
        behind.has_ended.set()
        await until(lambda: not len(sessions))
        assert found == (404, 1)

    run(gateway_of(watched, behind), work)


def test_attack_request_whose_session_ends_while_its_caller_is_identified(
    watched: Watched, behind: EraServer, sessions: SessionTable
) -> None:
    waits, go_on = anyio.Event(), anyio.Event()

    async def identify(context: Any) -> Any:
        if context.request.headers.get("x-waits"):
            waits.set()
            await go_on.wait()
        return BOT

    async def work(client: Client) -> None:
        call = client.start("POST", {**ACCEPT, "x-waits": "1"}, json.dumps(request("tools/call", ADD)).encode())
        await waits.wait()
        sessions.clients[0].close()
        go_on.set()
        await call.until(lambda: call.is_complete)
        assert (call.status, watched.asked) == (404, [])

    run(gateway_of(watched, behind, identify), work)


def test_other_methods_do_not_exist(gateway: McpGateway) -> None:
    async def work(client: Client) -> None:
        for method in ("PUT", "PATCH", "OPTIONS", "HEAD"):
            refused = await client.send(method, {})
            assert (refused.status, refused.answered["allow"]) == (405, "GET, POST, DELETE")

    run(gateway, work)


def test_an_idle_session_ends_and_one_with_a_listening_client_does_not(
    gateway: McpGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_endpoint, "TICK_SECONDS", 0.01)

    async def work(client: Client) -> None:
        idle, client.session = client.session, {}
        await client.begin()
        listening = await client.listen()
        monkeypatch.setattr(session_endpoint, "IDLE_SECONDS", 0.05)
        listened, client.session = client.session, idle
        while (await client.send("PUT", {})).status != 404:
            await anyio.sleep(0.06)
        client.session = listened
        assert (await client.post(request("ping"))).status == 200
        assert not listening.is_complete

    run(gateway, work)
