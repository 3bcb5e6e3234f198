"""Sessions with legacy servers over HTTP: answers as JSON and as streams, the server's own messages, and their ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types.jsonrpc import jsonrpc_message_adapter

from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.relay.request_tasks import AwaitedRequest, RequestStart
from policyengine.integrations.mcp.upstream import connections as upstream_connections
from policyengine.integrations.mcp.upstream import http_session, session_answers
from policyengine.integrations.mcp.upstream.http_session import SESSION_ENDED, HttpSession
from policyengine.integrations.mcp.upstream.session_upstream import SessionPort
from tests.integrations.scripted_http import PLAIN, STREAM, HeardRequest, Script, ScriptedHttp, scripted

MOST = 20_000
SESSION = "s-1"
INFO = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "add"}}


def serving(
    call: Script | None = None, get: Script | None = None, delete: Script | None = None, session: str = SESSION
) -> Script:
    """A server with sessions that answers a call, a GET and a DELETE as these scripts do."""

    async def script(request: HeardRequest) -> None:
        if request.method == "GET":
            return await (get(request) if get else request.answer(405))
        if request.method == "DELETE":
            return await (delete(request) if delete else request.answer(204))
        match request.message.get("method"):
            case "initialize":
                await request.result(INFO, **({"mcp_session_id": session} if session else {}))
            case "tools/call" if call is not None:
                await call(request)
            case "tools/call":
                await request.result({"content": []})
            case _:
                await request.answer(202)

    return script


@dataclass(eq=False)
class SessionTest:
    """A session, and the server behind it."""

    session: HttpSession
    behind: ScriptedHttp

    async def send(self, message: dict[str, Any], version: str | None = "2025-06-18") -> None:
        headers = {} if version is None else {"mcp-protocol-version": version}
        parsed = jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", **message})
        await self.session.send(SessionMessage(parsed, ClientMessageMetadata(headers=headers)))

    async def receive(self) -> dict[str, Any]:
        item: Any = await self.session.receive()
        found: dict[str, Any] = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
        return found

    async def begin(self) -> None:
        await self.send({"id": 1, "method": "initialize", "params": {}}, None)
        assert (await self.receive())["result"] == INFO
        await self.send({"method": "notifications/initialized"})

    async def call(self, id: int = 7) -> dict[str, Any]:
        await self.send({**CALL, "id": id})
        return await self.receive()

    async def fail(self) -> str:
        error = (await self.call())["error"]
        return str(error["message"])


@asynccontextmanager
async def session_with(script: Script, limit: float = 10.0, **headers: str) -> AsyncIterator[SessionTest]:
    async with scripted(script) as behind, HttpSession.open(behind.url, headers, limit, MOST) as (session, _):
        yield SessionTest(session, behind)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with anyio.fail_after(60):
            await work()

    asyncio.run(limited())


@pytest.fixture(autouse=True)
def kept_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep connections that a busy machine would drop: it may take seconds to use them again."""
    for name in ("FINISH_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(upstream_connections, name, 60.0)


# ── Requests and answers ──────────────────────────────────────────────────────────────────────


def test_every_request_carries_the_session_and_its_version_and_no_header_twice() -> None:
    async def work() -> None:
        given = {"authorization": "Bearer own", "Mcp-Session-Id": "other", "MCP-Protocol-Version": "x", "Accept": "y"}
        async with session_with(serving(), **given) as test:
            await test.begin()
            assert (await test.call())["result"] == {"content": []}
            await test.behind.until("GET")
        first, *others = test.behind.heard
        assert not {"mcp-session-id", "mcp-protocol-version"} & set(first.headers)
        assert {one.method for one in others} == {"POST", "GET", "DELETE"}
        for one in others:
            assert (one.headers["mcp-session-id"], one.headers["mcp-protocol-version"]) == (SESSION, "2025-06-18")
        assert {one.headers["authorization"] for one in test.behind.heard} == {"Bearer own"}
        assert {one.headers.get("accept-encoding") for one in test.behind.heard if one.method != "DELETE"} == {
            "identity"
        }

    run(work)


def test_an_answer_arrives_as_a_stream_after_the_messages_that_belong_to_it() -> None:
    async def call(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.event()
        await request.event({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}})
        await request.event({"id": "q", "method": "roots/list"})
        await test.behind.until("POST", 4)
        await request.event({"id": request.id, "result": {"content": []}})
        await request.end_stream()

    async def work() -> None:
        nonlocal test
        async with session_with(serving(call)) as test:
            await test.begin()
            assert (await test.call())["method"] == "notifications/progress"
            assert (await test.receive())["id"] == "q"
            await test.send({"id": "q", "result": {"roots": []}})
            assert (await test.receive())["result"] == {"content": []}
            while len(test.session._connections._idle) < 2:  # neither the call nor the answer has ended yet
                await asyncio.sleep(0.001)
            assert test.behind.of("POST")[3].message["result"] == {"roots": []}
            used = test.behind.of("tools/call")[0].connection
            for id in (8, 9):  # together, they take both connections
                await test.send({**CALL, "id": id})
            await test.behind.until("tools/call", 3)
            assert used in {one.connection for one in test.behind.of("tools/call")[1:]}

    test: Any = None
    run(work)


@pytest.mark.parametrize("kind", [PLAIN, STREAM])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"id": 8, "result": {}}, "not an answer to the request"),
        ({"id": "7", "result": {}}, "not an answer to the request"),
        ({"id": 8, "error": {"code": -1, "message": "of another"}}, "not an answer to the request"),
        ({"id": 7, "result": []}, "not a message"),
        ({"id": 7, "error": {"code": -1, "message": "no"}}, "no"),
        ({"id": None, "error": {"code": -1, "message": "no"}}, "no"),
    ],
)
def test_attack_answer_to_another_request(kind: str, answer: dict[str, Any], words: str) -> None:
    async def call(request: HeardRequest) -> None:
        if kind == PLAIN:
            return await request.answer_json(answer)
        await request.begin_stream()
        await request.event(answer)

    async def work() -> None:
        async with session_with(serving(call)) as test:
            await test.begin()
            assert words in await test.fail()

    run(work)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (200, b"no json", PLAIN, "not a message"),
        (200, b"[]", PLAIN, "not a message"),
        (200, b'{"a":' * 3_000, PLAIN, "not a message"),
        (200, b" " * 30_000, PLAIN, "too large"),
        (200, b"data: " + b"x" * 30_000, STREAM, "sends too much"),
        (200, b": ping\n\n", STREAM, "ended its stream without an answer"),
        (200, b"<html>", "text/html", "HTTP 200, which is not an answer of MCP"),
        (202, b"", PLAIN, "HTTP 202, which is not an answer of MCP"),
        (400, b"bad", "text/plain", "HTTP 400, which is not an answer of MCP"),
        (
            405,
            b"",
            PLAIN,
            "HTTP 405, which is not an answer of MCP; the URL of `--upstream` may lack its path, such as `/mcp`",
        ),
        (400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"why"}}', PLAIN, "why"),
        (404, b'{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"unknown"}}', PLAIN, "unknown"),
        (401, b"", PLAIN, "refuses the credentials of the gateway"),
        (403, b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}', PLAIN, "refuses the credentials"),
        (429, b"", PLAIN, "failed: HTTP 429"),
        (503, b"", PLAIN, "failed: HTTP 503"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_call(status: int, body: bytes, kind: str, words: str) -> None:
    calls = 0

    async def call(request: HeardRequest) -> None:
        nonlocal calls
        calls += 1
        await (request.answer(status, body, kind) if calls == 1 else request.result({}))

    async def work() -> None:
        async with session_with(serving(call)) as test:
            await test.begin()
            assert words in await test.fail()
            assert "result" in await test.call()  # the session goes on
            assert len(test.behind.of("GET")) <= 1  # nothing is resumed

    run(work)


def test_a_compressed_answer_is_not_read() -> None:
    async def call(request: HeardRequest) -> None:
        await request.answer(200, b"xyz", content_encoding="gzip")

    async def work() -> None:
        async with session_with(serving(call)) as test:
            await test.begin()
            assert "compressed" in await test.fail()

    run(work)


def test_attack_redirect_that_would_take_the_credentials_along(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with scripted(serving()) as elsewhere:

            async def call(request: HeardRequest) -> None:
                await request.answer(307, location=f"{elsewhere.url}\x1b[31m")

            async with session_with(serving(call), authorization="Bearer own") as test:
                await test.begin()
                for _ in range(2):
                    assert "HTTP 307, which is not an answer of MCP" in await test.fail()
            assert elsewhere.heard == []

    with caplog.at_level(logging.WARNING):
        run(work)
    [line] = [one.getMessage() for one in caplog.records]
    assert "redirects to" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("session", ["a b", "a\x7f", "x" * 9_000])
def test_attack_session_id_that_is_none(session: str) -> None:
    async def work() -> None:
        async with session_with(serving(session=session)) as test:
            await test.send({"id": 1, "method": "initialize", "params": {}}, None)
            assert "malformed" in (await test.receive())["error"]["message"]

    run(work)


def test_a_server_without_sessions_gets_no_stream_and_no_end() -> None:
    async def work() -> None:
        async with session_with(serving(session="")) as test:
            await test.begin()
            await test.call()
        assert {one.method for one in test.behind.heard} == {"POST"}
        assert not any("mcp-session-id" in one.headers for one in test.behind.heard)

    run(work)


def test_a_call_is_sent_after_the_notification_before_it_was_accepted() -> None:
    accepted = asyncio.Event()

    async def script(request: HeardRequest) -> None:
        if request.method == "POST" and request.message.get("method") == "notifications/initialized":
            await accepted.wait()
        await serving()(request)

    async def work() -> None:
        async with session_with(script) as test, anyio.create_task_group() as group:

            async def talk() -> None:
                await test.begin()
                await test.call()

            group.start_soon(talk)
            await test.behind.until("notifications/initialized")
            await anyio.wait_all_tasks_blocked()
            assert not test.behind.of("tools/call")
            accepted.set()
        assert test.behind.of("tools/call")

    run(work)


def test_a_notification_that_is_not_accepted_holds_nothing_for_ever() -> None:
    async def script(request: HeardRequest) -> None:
        if request.method != "POST" or request.message.get("method") != "notifications/initialized":
            await serving()(request)

    async def work() -> None:
        async with session_with(script, limit=0.05) as test:
            await test.begin()
            assert "result" in await test.call()

    run(work)


# ── The server's own messages ─────────────────────────────────────────────────────────────────


def test_the_server_sends_messages_by_itself_and_its_stream_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_answers, "MIN_RETRY_SECONDS", 0.0)

    async def get(request: HeardRequest) -> None:
        number = len(test.behind.of("GET"))
        await request.begin_stream()
        await request.event({"method": "notifications/tools/list_changed"}, id=f"e{number}", retry=1)
        await request.chunk(b"data: no message\n\n")
        if number == 1:
            return await request.end_stream()
        if number == 2:
            return await request.hang_up()
        await request.event({"id": 7, "result": {"forged": True}})
        await request.event({"id": 3, "method": "ping"})

    async def work() -> None:
        nonlocal test
        async with session_with(serving(get=get)) as test:
            await test.begin()
            for _ in range(3):
                assert (await test.receive())["method"] == "notifications/tools/list_changed"
            assert (await test.receive())["method"] == "ping"
            assert (await test.call())["result"] == {"content": []}  # and not the answer that nobody asked for there
        found = [one.headers.get("last-event-id") for one in test.behind.of("GET")]
        assert found == [None, "e1", "e2"]
        assert all(one.headers["accept"] == "text/event-stream" for one in test.behind.of("GET"))

    test: Any = None
    run(work)


@pytest.mark.parametrize("status", [404, 405, 400, 200])
def test_a_server_without_messages_of_its_own_is_asked_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_answers, "RETRY_SECONDS", 0.0)

    async def get(request: HeardRequest) -> None:
        await request.answer(status)

    async def work() -> None:
        async with session_with(serving(get=get)) as test:
            await test.begin()
            await test.behind.until("GET")
            for _ in range(5):
                assert "result" in await test.call()  # the session goes on
            assert len(test.behind.of("GET")) == 1

    run(work)


def test_a_stream_is_opened_again_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_answers, "RETRY_SECONDS", 0.0)

    async def get(request: HeardRequest) -> None:
        match len(test.behind.of("GET")):
            case 1:
                await request.answer(503)
            case 2:
                await request.hang_up()
            case _:
                await request.begin_stream()
                await request.event({"method": "notifications/tools/list_changed"})

    async def work() -> None:
        nonlocal test
        async with session_with(serving(get=get)) as test:
            await test.begin()
            assert (await test.receive())["method"] == "notifications/tools/list_changed"

    test: Any = None
    run(work)


def test_attack_server_that_ends_its_stream_again_and_again() -> None:
    pauses = [session_answers.retry_seconds(0.0, failures) for failures in range(100)]
    assert pauses[0] == session_answers.MIN_RETRY_SECONDS
    assert pauses[:9] == sorted(set(pauses[:9]))
    assert pauses[-1] == session_answers.retry_seconds(1e6, 0) == session_answers.MAX_RETRY_SECONDS


def test_pauses_grow_only_while_the_stream_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []

    def retry_seconds(wanted: float | None, failures: int) -> float:
        pauses.append(failures)
        return 0.0

    monkeypatch.setattr(http_session, "retry_seconds", retry_seconds)

    async def get(request: HeardRequest) -> None:
        await request.begin_stream()
        if len(test.behind.of("GET")) == 3:
            await request.event({"method": "notifications/tools/list_changed"})
        await request.end_stream()

    async def work() -> None:
        nonlocal test
        async with session_with(serving(get=get)) as test:
            await test.begin()
            await test.receive()
            await test.behind.until("GET", 6)
        assert pauses[:5] == [1, 2, 0, 1, 2]

    test: Any = None
    run(work)


def test_attack_event_without_end_of_the_servers_own_messages(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_session, "MAX_EVENT_BYTES", 1_000)

    async def get(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.chunk(b"data: " + b"x" * 2_000)
        await request.is_left()

    async def work() -> None:
        async with session_with(serving(get=get)) as test:
            await test.begin()
            await (await test.behind.until("GET")).is_left()
            assert "result" in await test.call()

    with caplog.at_level(logging.ERROR):
        run(work)
    assert "no longer read" in caplog.text


def test_messages_of_two_streams_are_passed_on_one_by_one() -> None:
    """Each is decided, so the relay must not begin with the second while it still decides the first."""
    running = most = written = 0
    passed: list[Any] = []

    async def pass_on(message: Any) -> None:
        nonlocal running, most
        if message.id == "same":
            running += 1
            most = max(most, running)
            while written < 2:
                await asyncio.sleep(0.001)
            for _ in range(20):  # the other message arrives meanwhile
                await asyncio.sleep(0)
            running -= 1
        passed.append(message.id)

    async def call(request: HeardRequest) -> None:
        nonlocal written
        await request.begin_stream()
        await request.event({"id": "same", "method": "roots/list"})
        written += 1
        await request.event({"id": request.id, "result": {}})

    async def work() -> None:
        nonlocal test
        async with session_with(serving(call)) as test:
            await test.begin()
            test.session.pass_on = pass_on
            for id in (7, 8):
                await test.send({**CALL, "id": id})
            while len(passed) < 4:
                await asyncio.sleep(0.001)
        assert most == 1
        assert sorted(map(str, passed)) == ["7", "8", "same", "same"]

    test: Any = None
    run(work)


# ── Streams that end before the answer ────────────────────────────────────────────────────────


def test_an_answer_is_fetched_from_the_stream_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_answers, "MIN_RETRY_SECONDS", 0.0)

    async def call(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.event(id="c1", retry=1)
        await request.end_stream()

    async def get(request: HeardRequest) -> None:
        match request.headers.get("last-event-id"):
            case "c1":
                await request.begin_stream()
                await request.event({"method": "notifications/progress", "params": {"progressToken": 1}}, id="c2")
                await request.hang_up()
            case "c2" if len(test.behind.of("GET")) < 4:
                await request.answer(503)
            case "c2":
                await request.begin_stream()
                await request.event({"id": 7, "result": {"content": []}})
            case _:
                await request.answer(405)

    async def work() -> None:
        nonlocal test
        async with session_with(serving(call, get)) as test:
            await test.begin()
            assert (await test.call())["method"] == "notifications/progress"
            assert (await test.receive())["result"] == {"content": []}

    test: Any = None
    run(work)


@pytest.mark.parametrize(
    ("status", "words"), [(405, "without an answer"), (503, "without an answer"), (404, SESSION_ENDED)]
)
def test_an_answer_that_cannot_be_fetched_is_an_error(status: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_answers, "MIN_RETRY_SECONDS", 0.0)

    async def call(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.event(id="c1", retry=0)
        await request.end_stream()

    async def get(request: HeardRequest) -> None:
        await request.answer(405 if "last-event-id" not in request.headers else status)

    async def work() -> None:
        async with session_with(serving(call, get)) as test:
            await test.begin()
            assert words in await test.fail()

    run(work)


# ── Ends ──────────────────────────────────────────────────────────────────────────────────────


def test_a_session_that_the_server_no_longer_knows_ends() -> None:
    async def call(request: HeardRequest) -> None:
        await request.answer_json({"id": None, "error": {"code": -32600, "message": "Session not found"}}, 404)

    async def work() -> None:
        async with session_with(serving(call)) as test:
            await test.begin()
            assert await test.fail() == SESSION_ENDED
            with pytest.raises(anyio.EndOfStream):
                await test.session.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await test.send(CALL)
        assert not test.behind.of("DELETE")

    run(work)


def test_a_session_whose_notification_the_server_refuses_with_404_ends() -> None:
    async def script(request: HeardRequest) -> None:
        is_signal = request.method == "POST" and "id" not in request.message
        await (request.answer(404) if is_signal else serving()(request))

    async def work() -> None:
        async with session_with(script) as test:
            await test.begin()
            with pytest.raises(anyio.EndOfStream):
                await test.session.receive()
        assert not test.behind.of("GET")

    run(work)


def test_a_session_is_ended_at_the_server_even_if_its_task_is_cancelled() -> None:
    async def work() -> None:
        begun = anyio.Event()

        async def use() -> None:
            async with HttpSession.open(behind.url, {}, 10.0, MOST) as (session, _):
                await SessionTest(session, behind).begin()
                begun.set()
                await anyio.sleep_forever()

        async with scripted(serving()) as behind:
            async with anyio.create_task_group() as group:
                group.start_soon(use)
                await begun.wait()
                group.cancel_scope.cancel()
            assert [one.headers["mcp-session-id"] for one in behind.of("DELETE")] == [SESSION]
            for one in behind.heard:
                await one.is_left()

    run(work)


def test_a_server_that_does_not_hear_of_the_end_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_session, "END_SECONDS", 0.01)

    async def never(request: HeardRequest) -> None:
        await request.is_left()

    async def work() -> None:
        async with session_with(serving(call=never, delete=never)) as test:
            await test.begin()
            await test.send(CALL)
            await test.behind.until("tools/call")
        for method in ("tools/call", "DELETE"):
            await test.behind.of(method)[0].is_left()

    run(work)


def test_a_cancelled_request_is_cancelled_at_the_server_and_then_left() -> None:
    async def never(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.is_left()

    async def work() -> None:
        async with session_with(serving(never)) as test:
            await test.begin()
            await test.send(CALL)
            call = await test.behind.until("tools/call")
            for id in ("7", True, None, [7]):  # of no request in progress
                await test.send({"method": "notifications/cancelled", "params": {"requestId": id}})
            assert not call.writer.transport.is_closing()
            await test.send({"method": "notifications/cancelled", "params": {"requestId": 7}})
            await call.is_left()
            sent = [one.message["params"]["requestId"] for one in test.behind.of("notifications/cancelled")]
            assert sent == ["7", True, None, [7], 7]

    run(work)


def test_a_request_that_is_cancelled_before_it_was_sent_never_reaches_the_server() -> None:
    async def work() -> None:
        async with session_with(serving()) as test:
            await test.begin()
            await test.send(CALL)
            await test.send({"method": "notifications/cancelled", "params": {"requestId": 7}})
            assert "result" in await test.call(8)
            assert [one.id for one in test.behind.of("tools/call")] == [8]
            assert not test.behind.of("notifications/cancelled")

    run(work)


def test_a_request_takes_the_place_of_an_earlier_one_with_its_id() -> None:
    async def call(request: HeardRequest) -> None:
        if len(test.behind.of("tools/call")) == 1:
            return await request.is_left()
        await request.result({"content": []})

    async def work() -> None:
        nonlocal test
        async with session_with(serving(call)) as test:
            await test.begin()
            await test.send(CALL)
            first = await test.behind.until("tools/call")
            assert "result" in await test.call()
            await first.is_left()

    test: Any = None
    run(work)


def test_a_connection_that_fails_ends_the_call_and_not_the_session(caplog: pytest.LogCaptureFixture) -> None:
    async def call(request: HeardRequest) -> None:
        await (request.hang_up() if len(test.behind.of("tools/call")) == 1 else request.result({}))

    async def work() -> None:
        nonlocal test
        async with session_with(serving(call)) as test:
            await test.begin()
            assert await test.fail() == UPSTREAM_GONE
            assert "result" in await test.call()

    test: Any = None
    with caplog.at_level(logging.ERROR):
        run(work)
    assert "the upstream server cannot be reached: the server closed the connection" in caplog.text


def test_a_server_that_cannot_be_reached_at_the_beginning_ends_the_session() -> None:
    async def work() -> None:
        async with HttpSession.open("http://127.0.0.1:9/mcp", {}, 1.0, MOST) as (session, _):
            await SessionTest(session, ScriptedHttp(serving())).send({"id": 1, "method": "initialize"}, None)
            with pytest.raises(anyio.EndOfStream):
                await session.receive()

    run(work)


def test_a_message_that_cannot_be_passed_on_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    async def get(request: HeardRequest) -> None:
        await request.begin_stream()
        await request.event({"method": "notifications/tools/list_changed"})

    async def pass_on(message: Any) -> None:
        raise MCPError(1, "broken")

    async def work() -> None:
        async with session_with(serving(get=get)) as test:
            test.session.pass_on = None
            await test.send({"id": 1, "method": "initialize"}, None)
            await test.receive()
            test.session.pass_on = pass_on
            await test.send({"method": "notifications/initialized"})
            with pytest.raises(anyio.EndOfStream):
                await test.session.receive()

    with caplog.at_level(logging.ERROR):
        run(work)
    assert "a session with the upstream server failed" in caplog.text


def test_the_task_that_waits_for_an_answer_reads_it() -> None:
    """Without a task for each request, and without a stream in between."""
    passed: list[Any] = []

    async def pass_on(message: Any) -> None:
        passed.append((asyncio.current_task(), message.id))

    async def work() -> None:
        async with session_with(serving()) as test:
            await test.begin()
            await test.behind.until("GET")
            test.session.pass_on = pass_on
            start = RequestStart()
            sink, unread = anyio.create_memory_object_stream[SessionMessage]()
            request = jsonrpc_message_adapter.validate_python(CALL)
            await SessionPort(sink, session=test.session).send(
                SessionMessage(request, AwaitedRequest(headers={}, start=start))
            )
            await start.wait()
            assert passed == [(asyncio.current_task(), 7)]
            sink.close()
            unread.close()

    run(work)
