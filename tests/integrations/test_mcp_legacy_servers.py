"""Real legacy servers over HTTP behind the gateway: of the SDK and of FastMCP, with sessions and without, with answers
as JSON and as streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import fastmcp
import pytest
from mcp.client.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult
from mcp_types.jsonrpc import JSONRPCMessage

from policyengine.importers import ApiImportError
from policyengine.importers.mcp_client import list_server_tools
from policyengine.integrations.mcp.gateway import McpGateway
from policyengine.integrations.mcp.methods import DENIED
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream import bounded_transport
from policyengine.integrations.mcp.upstream.bounded_transport import bounded_streams
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream.session_pool import SessionPool
from tests.integrations.conftest import BOT, Watched
from tests.integrations.era_servers import envelope, in_process, raw
from tests.integrations.scripted_http import HeardRequest, scripted
from tests.integrations.serving import serving
from tests.integrations.test_mcp_http_sessions import serving as session_script

FORM: dict[str, Any] = {"type": "object", "properties": {}}


def sdk_server(is_json: bool, is_stateless: bool) -> Any:
    server = MCPServer("behind")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def secret() -> str:
        return "secret"

    @server.tool()
    async def busy(ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        return "done"

    @server.tool()
    async def ask(ctx: Context) -> str:
        return (await ctx.session.elicit_form("sure?", FORM, related_request_id=ctx.request_id)).action

    return server.streamable_http_app(json_response=is_json, stateless_http=is_stateless)


def fastmcp_server(is_json: bool, is_stateless: bool) -> Any:
    server = fastmcp.FastMCP("behind")

    @server.tool
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool
    def secret() -> str:
        return "secret"

    @server.tool
    async def busy(ctx: fastmcp.Context) -> str:
        await ctx.report_progress(1, 2, "half")
        return "done"

    @server.tool
    async def ask(ctx: fastmcp.Context) -> str:
        return str((await ctx.elicit("sure?", bool)).action)

    return server.http_app(json_response=is_json, stateless_http=is_stateless)


def gateway_of(watched: Watched, url: str) -> McpGateway:
    return McpGateway(watched, "billing", always(BOT), McpUpstream(url, {}, {}, 10.0))


@asynccontextmanager
async def client_of(watched: Watched, url: str) -> AsyncIterator[Client]:
    """A legacy client of the gateway in front of the server."""

    async def accept(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"value": True})

    with anyio.fail_after(60):
        async with Client(in_process(gateway_of(watched, url)), mode="legacy", elicitation_callback=accept) as client:
            yield client


@pytest.mark.parametrize("is_stateless", [False, True])
@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("make", [sdk_server, fastmcp_server])
def test_tools_of_a_legacy_server_over_http(make: Any, is_json: bool, is_stateless: bool, watched: Watched) -> None:
    async def work() -> None:
        progress: list[float] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.append(done)

        with serving(make(is_json, is_stateless)) as url:
            async with client_of(watched, f"{url}/mcp") as client:
                assert [tool.name for tool in (await client.list_tools()).tools] == ["add", "busy", "ask"]
                for number in range(3):
                    answer: Any = await client.call_tool("add", {"a": number, "b": 1})
                    assert answer.content[0].text == str(number + 1)
                with pytest.raises(MCPError) as caught:
                    await client.call_tool("secret", {})
                assert caught.value.code == DENIED
                await client.call_tool("busy", {}, progress_callback=note)
                if not is_json and not is_stateless:
                    answer = await client.call_tool("ask", {})
                    assert answer.content[0].text == "accept"
        assert progress == ([] if is_json else [1])

    asyncio.run(work())


# ── Servers that start again ──────────────────────────────────────────────────────────────────


class RestartedServer:
    """A server that no longer knows the sessions of its earlier runs."""

    run = 1

    async def __call__(self, request: HeardRequest) -> None:
        session = f"run-{self.run}"
        if request.headers.get("mcp-session-id", session) != session:
            return await request.answer_json(
                {"id": None, "error": {"code": -32600, "message": "Session not found"}}, 404
            )
        await session_script(session=session)(request)


def test_a_client_learns_that_a_server_that_started_again_has_ended_its_session(watched: Watched) -> None:
    async def work() -> None:
        script = RestartedServer()
        add = {"name": "add", "arguments": {"a": 1, "b": 2}}
        async with scripted(script) as behind, raw(gateway_of(watched, behind.url)) as client:
            await client.begin()
            await client.ask("tools/call", add)
            script.run += 1
            with pytest.raises(MCPError, match="has ended the session"):
                await client.ask("tools/call", add)
            with pytest.raises(MCPError, match="has ended, or cannot be reached"):
                await client.ask("tools/call", add)
        assert [one.headers["mcp-session-id"] for one in behind.of("tools/call")] == ["run-1", "run-1"]

    asyncio.run(work())


@pytest.mark.parametrize("sessions", [100, 2])
def test_a_modern_caller_gets_a_new_session_with_a_server_that_started_again(sessions: int) -> None:
    async def work() -> None:
        script = RestartedServer()
        async with scripted(script) as behind, anyio.create_task_group() as group:
            pool = SessionPool(McpUpstream(behind.url, {}, {}, 10.0, max_sessions=sessions), group)
            call = UpstreamCall("tools/call", {"name": "add", "_meta": envelope()}, 1, ("alice",))
            for _ in range(2):
                assert (await pool.exchange(call))["content"] == []
                script.run += 1
            assert [one.headers["mcp-session-id"] for one in behind.of("tools/call")] == ["run-1", "run-1", "run-2"]
            assert len(pool._open) == 1
            await pool.close()
            group.cancel_scope.cancel()

    asyncio.run(work())


@pytest.mark.parametrize("message", ["has ended the session", "the upstream server has ended the session"])
def test_attack_server_that_lets_the_gateway_repeat_a_call(message: str) -> None:
    """An error in an answer is no 404: the call may have run."""

    async def call(request: HeardRequest) -> None:
        await request.answer_json({"id": request.id, "error": {"code": -1, "message": message}})

    async def work() -> None:
        async with scripted(session_script(call)) as behind, anyio.create_task_group() as group:
            pool = SessionPool(McpUpstream(behind.url, {}, {}, 10.0), group)
            with pytest.raises(MCPError, match=message):
                await pool.exchange(UpstreamCall("tools/call", {"name": "add", "_meta": envelope()}, 1, ("alice",)))
            assert len(behind.of("tools/call")) == 1
            await pool.close()
            group.cancel_scope.cancel()

    asyncio.run(work())


def test_attack_server_that_forgets_every_session_gets_each_call_once() -> None:
    async def call(request: HeardRequest) -> None:
        await request.answer(404)

    async def work() -> None:
        async with scripted(session_script(call)) as behind, anyio.create_task_group() as group:
            pool = SessionPool(McpUpstream(behind.url, {}, {}, 10.0), group)
            with pytest.raises(MCPError, match="has ended the session"):
                await pool.exchange(UpstreamCall("tools/call", {"name": "add", "_meta": envelope()}, 1, ("alice",)))
            assert len(behind.of("tools/call")) == 1
            assert not pool._open
            await pool.close()
            group.cancel_scope.cancel()

    asyncio.run(work())


class KeptEvents(EventStore):
    """The events of a server whose streams can be resumed."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JSONRPCMessage | None]] = []
        self.replayed: list[str] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        self.replayed.append(last_event_id)
        stream = self.events[int(last_event_id) - 1][0]
        for number, (id, message) in enumerate(self.events[int(last_event_id) :], int(last_event_id) + 1):
            if id == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def test_an_answer_is_fetched_from_a_server_of_the_sdk_that_ends_its_stream(watched: Watched) -> None:
    server, events = MCPServer("behind"), KeptEvents()

    @server.tool()
    async def add(a: int, b: int, ctx: Context) -> int:
        await ctx.report_progress(1, 2, "half")
        await ctx.close_sse_stream()
        await ctx.report_progress(2, 2, "done")
        return a + b

    async def work() -> None:
        progress: list[float] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.append(done)

        with serving(server.streamable_http_app(event_store=events, retry_interval=100)) as url:
            async with client_of(watched, f"{url}/mcp") as client:
                answer: Any = await client.call_tool("add", {"a": 1, "b": 2}, progress_callback=note)
                assert (answer.content[0].text, progress) == ("3", [1, 2])
        assert events.replayed

    asyncio.run(work())


@pytest.mark.parametrize(("padding", "headers"), [(0, {}), (30_000, {}), (0, {"content_encoding": "identity, br"})])
def test_attack_server_that_answers_a_review_without_end(
    padding: int, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of tools are read with the SDK, which would keep the whole answer in memory."""
    monkeypatch.setattr(bounded_transport, "MAX_ANSWER_BYTES", 20_000)

    async def script(request: HeardRequest) -> None:
        if request.method == "POST" and request.message.get("method") == "tools/list":
            listed = json.dumps({"jsonrpc": "2.0", "id": request.id, "result": {"tools": []}}).encode()
            return await request.answer(200, listed + b" " * padding, **headers)
        if request.method == "POST" and request.message.get("method") == "server/discover":
            return await request.answer(400)
        await session_script()(request)

    def list_tools(upstream: McpUpstream) -> Any:
        return list_server_tools("behind", lambda: bounded_streams(upstream)).newest

    async def work() -> None:
        async with scripted(script) as behind:
            listing = asyncio.to_thread(list_tools, McpUpstream(behind.url, {}, {}, 10.0))
            if not padding and not headers:
                assert await listing == []
                return
            with pytest.raises(ApiImportError, match="listing the tools failed"):
                await listing

    asyncio.run(work())
