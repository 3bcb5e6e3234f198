"""Attacks between the parts of the MCP gateway: floods that stop it for everybody, servers that stop to read, callers
that are halted while they listen, and what a hostile server leaves in its memory."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import INVALID_PARAMS, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.jsonrpc import jsonrpc_message_adapter
from starlette.testclient import TestClient

from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.clients.caller_places import CallerPlaces
from policyengine.integrations.mcp.clients.stateless_service import ModernRequest, StatelessService
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.eras import Envelope
from policyengine.integrations.mcp.gateway import (
    McpGateway,
    UpstreamPolicyMiddleware,
    http_app,
    identify_by_headers,
    parse_caller_facts,
)
from policyengine.integrations.mcp.methods import DENIED, MAX_FOLLOWED
from policyengine.integrations.mcp.pinned_tools import MAX_NAME_LENGTH, MAX_REPORTS, ToolPins
from policyengine.integrations.mcp.relay import line_streams
from policyengine.integrations.mcp.relay.line_streams import command_streams
from policyengine.integrations.mcp.relay.relay import MAX_REQUESTS
from policyengine.integrations.mcp.schema_tools import SchemaTools
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.task_requests import check_followed
from policyengine.integrations.mcp.tasks import MAX_ID_LENGTH, TaskTable, short_token
from policyengine.integrations.mcp.unambiguous_messages import drop_ambiguous_arguments
from policyengine.integrations.mcp.upstream.calls import ACKNOWLEDGED, UpstreamCall
from policyengine.integrations.mcp.upstream.eras import ModernUpstream, UpstreamEras
from policyengine.integrations.mcp.upstream.http_upstream import HttpUpstream
from policyengine.integrations.mcp.upstream.legacy_bridge import LegacyBridge
from policyengine.integrations.mcp.upstream.legacy_session import MAX_QUESTIONS
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream.stream_upstream import StreamUpstream
from policyengine.runtime.decision import Gate
from policyengine.tool_pins.listed_tools import ListedTool, PinState
from tests.integrations.conftest import BOT, Watched
from tests.integrations.era_servers import HELLO, MODERN, EraServer, envelope, gateway_of, raw
from tests.integrations.serving import serving

SECONDS = 60.0  # after which a test fails that would hang
FOLLOWED = ["docs://open/a"] * (MAX_FOLLOWED + 1)


def run(work: Any) -> None:
    async def limited() -> None:
        with anyio.fail_after(SECONDS):
            await work()

    anyio.run(limited)


# ── Floods of one client ──────────────────────────────────────────────────────────────────────


def test_attack_stream_that_follows_so_many_resources_that_nobody_else_is_served(watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer())) as client:
            for wanted in ({"resourceSubscriptions": FOLLOWED}, {"taskIds": FOLLOWED}):
                refused = await client.refused("subscriptions/listen", {"notifications": wanted})
                assert refused["code"] == INVALID_PARAMS

    run(work)
    assert watched.looked == []


@pytest.mark.parametrize("middleware", [sdk.PolicyMiddleware, of_fastmcp.PolicyMiddleware])
def test_attack_stream_that_follows_too_much_at_a_middleware(watched: Watched, middleware: Any) -> None:
    @dataclass
    class Context:
        method: str = "subscriptions/listen"
        request_id: int = 1
        request: Any = None

        @property
        def params(self) -> dict[str, Any]:
            return {"notifications": {"resourceSubscriptions": FOLLOWED[1:], "taskIds": ["t"]}}

        message = params

    policy = middleware(watched, server="billing", identify=lambda context: BOT)
    handle = getattr(policy, "on_request", policy)

    async def work() -> None:
        with pytest.raises(MCPError, match="a stream can follow at most 100"):
            await handle(Context(), None)

    run(work)
    assert watched.looked == []


def test_a_stream_may_follow_as_much_as_is_allowed() -> None:
    check_followed({"notifications": {"resourceSubscriptions": FOLLOWED[1:]}})


@dataclass
class ListeningServer:
    """A modern server that acknowledges no subscription until `acknowledges`; `open` is the number of its streams."""

    acknowledges: bool = False
    open: int = 0
    most: int = 0

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if self.acknowledges:
                await call.notify(ACKNOWLEDGED, {"notifications": {}, "_meta": {SUBSCRIPTION_ID_META_KEY: 1}})
            await anyio.sleep_forever()
        finally:
            self.open -= 1
        return {}


@pytest.mark.parametrize("acknowledges", [False, True])
def test_attack_client_that_changes_its_subscriptions_without_end(acknowledges: bool) -> None:
    server = ListeningServer(acknowledges)

    async def work() -> None:
        to_relay, from_bridge = anyio.create_memory_object_stream[Any](1_000)
        to_bridge, outgoing = anyio.create_memory_object_stream[Any]()
        bridge, ids = LegacyBridge(server, to_relay), count(1)  # type: ignore[arg-type]

        def message(method: str, uri: str) -> SessionMessage:
            return SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=next(ids), method=method, params={"uri": uri}))

        with to_relay, from_bridge, outgoing, to_bridge:
            async with anyio.create_task_group() as group:
                group.start_soon(bridge.run, message("resources/subscribe", "docs://open/0"), outgoing)
                for number in range(60):
                    await to_bridge.send(message("resources/subscribe", f"docs://open/{number}"))
                    await to_bridge.send(message("resources/unsubscribe", f"docs://open/{number}"))
                    await to_bridge.send(message("resources/unsubscribe", "docs://open/unknown"))
                await anyio.wait_all_tasks_blocked()
                assert server.open == 1
                to_bridge.close()

    run(work)
    assert server.most <= 2


def test_attack_flood_of_foreign_hosts_is_bounded_in_the_log(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    app = http_app(McpGateway(watched, "billing", always(BOT), McpUpstream("http://127.0.0.1:9/mcp", {}, {}, 1.0)))
    with caplog.at_level(logging.WARNING), TestClient(app, base_url="http://127.0.0.1") as client:
        for number in range(50):
            assert client.post("/mcp", headers={"host": f"evil{number}.example"}).status_code == 403
    assert [one.event for one in caplog.records if hasattr(one, "event")] == ["foreign_refused"]
    assert sum("refused" in one.getMessage() for one in caplog.records) == 1


# ── Callers that are halted ───────────────────────────────────────────────────────────────────


def test_attack_halted_caller_goes_on_listening(watched: Watched) -> None:
    listening = anyio.Event()

    class Behind:
        async def find(self) -> Behind:
            return self

        async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
            listening.set()
            await anyio.sleep_forever()
            return {}

    async def work() -> None:
        confirms = ConfirmHandler(watched, ConfirmOptions())
        policy = UpstreamPolicyMiddleware(watched, confirms, server="billing", identify=always(BOT), tasks=TaskTable())
        service = StatelessService(policy, Behind(), recheck_seconds=0.001)  # type: ignore[arg-type]
        params = {"notifications": {"toolsListChanged": True}}
        asked = ModernRequest("subscriptions/listen", params, 1, Envelope(MODERN, None, {}))

        async def halt() -> None:
            await listening.wait()
            looked = len(watched.looked)
            while len(watched.looked) < looked + 3:  # until then, the caller may listen
                await anyio.sleep(0)
            watched.engine.halt(reason="it spams", end=timedelta(hours=1), agent="bot")

        async with anyio.create_task_group() as group:
            group.start_soon(halt)
            with pytest.raises(MCPError, match="it spams") as refused:
                await service.answer(asked)
        assert refused.value.code == DENIED
        assert service.listening == []

    run(work)


def test_a_caller_that_can_do_nothing_else_may_listen(watched: Watched) -> None:
    decider = ClientMessageDecider(watched, "billing")

    async def work() -> None:
        assert await decider.refuse_listener({}) is None
        assert await decider.refuse_listener({"agent": {"id": "nobody", "issuer": "acme"}}) is None
        watched.engine.halt(everything=True, reason="stop", end=timedelta(hours=1))
        assert (await decider.refuse_listener({})) is not None

    run(work)


# ── Servers that stop to read, or to answer ───────────────────────────────────────────────────


@dataclass
class DeafStreams:
    """A legacy server that answers `initialize` and what is in `answered`, and then reads nothing more. Once it has
    answered `initialize`, the gateway waits `limit` seconds for other answers."""

    answered: tuple[str, ...] = ()
    reads_rest: bool = False
    limit: float = 0.05
    upstream: McpUpstream | None = None
    answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    heard: list[Any] = field(default_factory=list)

    async def send(self, item: SessionMessage) -> None:
        message = item.message
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            return
        if not isinstance(message, JSONRPCRequest) or message.method not in ("initialize", *self.answered):
            self.heard.append(message)
            if not self.reads_rest:
                await anyio.sleep_forever()
            return
        offered = {"logging": {}, "resources": {"subscribe": True}}
        result = {"protocolVersion": "2025-11-25", "capabilities": offered, "serverInfo": {"name": "x", "version": "1"}}
        self.answers.put_nowait(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=message.id, result=result)))
        object.__setattr__(self.upstream, "limit", self.limit)

    async def receive(self) -> Any:
        return await self.answers.get()


class DeafUpstream(McpUpstream):
    """A legacy server that has stopped to read."""

    streams: DeafStreams

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[Any, Any]]:
        yield self.streams, self.streams

    def connect(self) -> Any:
        return self._connect()


def deaf_gateway(watched: Watched, streams: DeafStreams) -> McpGateway:
    upstream = streams.upstream = DeafUpstream("memory", {}, {}, SECONDS)
    object.__setattr__(upstream, "streams", streams)
    return McpGateway(watched, "billing", always(BOT), upstream)


def test_attack_server_that_stops_to_read_holds_calls_of_a_session_for_ever(watched: Watched) -> None:
    async def work() -> None:
        gateway = deaf_gateway(watched, DeafStreams())
        object.__setattr__(gateway.upstream, "limit", 1.0)  # of the whole session: `initialize` is answered in time
        async with raw(gateway) as client:
            await client.begin()
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "slow"}}
            assert "did not answer" in (await client.answer(call))["error"]["message"]

    run(work)
    assert [one["status"] for one in watched.reports] == [500]  # the call gives its place back


@pytest.mark.parametrize("reads_rest", [False, True])
@pytest.mark.parametrize(
    ("method", "params", "meta"),
    [
        ("tools/call", {"name": "slow"}, {}),
        ("tools/call", {"name": "slow"}, {"io.modelcontextprotocol/logLevel": "info"}),
        ("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["docs://open/a"]}}, {}),
    ],
)
def test_attack_server_that_stops_to_answer_holds_modern_calls_for_ever(
    watched: Watched, reads_rest: bool, method: str, params: dict[str, Any], meta: dict[str, Any]
) -> None:
    streams = DeafStreams(reads_rest=reads_rest)
    gateway = deaf_gateway(watched, streams)

    async def work() -> None:
        async with UpstreamEras.running(gateway.upstream) as eras:
            eras._found, eras._until = eras._pool, float("inf")
            service = StatelessService(gateway._policy(), eras)
            asked = {**params, "_meta": {**envelope(), **meta}}
            with pytest.raises(MCPError, match="did not answer"):
                await service.answer(ModernRequest(method, asked, 1, Envelope(MODERN, None, {})))

    run(work)
    assert streams.heard


def test_attack_server_that_stops_to_read_fills_the_memory_with_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_streams, "END_SECONDS", 0.01)
    big = {"x": "x" * 300_000}

    async def work() -> None:
        async with anyio.create_task_group() as group:
            upstream = StreamUpstream(McpUpstream("sleep 120", {}, {}, 0.05), group)
            with pytest.raises(MCPError, match="did not answer"):
                await upstream.exchange(UpstreamCall("tools/call", big))
            await upstream.close()

        async with command_streams(["sleep", "120"], {}) as (_, writer):
            message = SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="x", params=big))
            for _ in range(8):
                with anyio.move_on_after(0.01):
                    await writer.send(message)
            assert writer._stream.transport.get_write_buffer_size() < 2 * len(big["x"])

    run(work)


def test_attack_call_that_occupies_a_modern_server_makes_it_look_like_a_legacy_one(watched: Watched) -> None:
    behind, occupied = EraServer(speaks="modern"), False

    async def occupy(context: Any, call_next: Any) -> Any:
        if occupied and context.method == "server/discover":
            await anyio.sleep_forever()
        return await call_next(context)

    behind.server.middleware.append(occupy)

    async def work() -> None:
        nonlocal occupied
        async with UpstreamEras.running(gateway_of(watched, behind).upstream) as eras:
            found = await eras.find()
            assert isinstance(found, ModernUpstream)
            occupied, eras._until, eras.discover_seconds = True, 0.0, 0.01
            assert await eras.find() is found
            assert await eras.find_only_modern() is found

    run(work)


# ── What a hostile server asks, and what it leaves ────────────────────────────────────────────


@dataclass
class AskingStreams(DeafStreams):
    """A server that answers a call with questions without end."""

    questions: Any = field(default_factory=lambda: count(1))
    is_called: anyio.Event = field(default_factory=anyio.Event)

    async def send(self, item: SessionMessage) -> None:
        message = item.message
        if isinstance(message, JSONRPCRequest) and message.method == "tools/call":
            self.is_called.set()
            self.answers.put_nowait(self.question())
        elif isinstance(message, JSONRPCRequest):
            await super().send(item)

    async def receive(self) -> Any:
        if self.is_called.is_set():
            await anyio.sleep(0)
            return self.question()
        return await super().receive()

    def question(self) -> SessionMessage:
        form = {"message": "sure?", "requestedSchema": {"type": "object", "properties": {}}}
        asked = {"jsonrpc": "2.0", "id": f"q{next(self.questions)}", "method": "elicitation/create", "params": form}
        return SessionMessage(jsonrpc_message_adapter.validate_python(asked))


def test_attack_server_that_asks_without_end_during_one_call(watched: Watched) -> None:
    async def work() -> None:
        gateway = deaf_gateway(watched, AskingStreams(limit=SECONDS))
        async with UpstreamEras.running(gateway.upstream) as eras:
            eras._found, eras._until = eras._pool, float("inf")
            service = StatelessService(gateway._policy(), eras)
            meta = envelope({"elicitation": {"form": {}}})
            params = {"name": "ask", "arguments": {}, "_meta": meta}
            asked = ModernRequest("tools/call", params, 1, Envelope(MODERN, None, {"elicitation": {"form": {}}}))
            result = await service.answer(asked)
            assert len(result["inputRequests"]) <= MAX_QUESTIONS

    run(work)


def test_attack_tools_with_schemas_without_end() -> None:
    known = SchemaTools(100)
    for start in range(0, 1_000, 100):
        known.learn(f"tool{number}" for number in range(start, start + 100))
    assert len(known) == 100
    assert "tool999" in known
    assert "tool899" not in known
    known.learn(["x" * (MAX_NAME_LENGTH + 1), "tool900", "new"])
    assert len(known) == 100
    assert "tool900" in known
    assert "tool901" not in known


@pytest.mark.parametrize("token", ["x" * (MAX_ID_LENGTH + 1), ["x"], {"x": 1}, 1.5, None])
def test_attack_progress_token_that_fills_the_memory_of_tasks(token: Any) -> None:
    assert short_token({"_meta": {"progressToken": token}}) is None
    assert short_token({"_meta": {"progressToken": "t"}}) == "t"


def test_attack_tools_that_change_without_end_fill_the_log(tmp_path: Path) -> None:
    pins = ToolPins(tmp_path / "tools.pins")
    written: list[dict[str, Any]] = []

    class Recorder:
        def write_system(self, event: str, **members: Any) -> None:
            written.append(members)

    @dataclass
    class Decides:
        recorder: Recorder = field(default_factory=Recorder)

    for number in range(10 * MAX_REPORTS):  # calls of a client
        pins.report(ListedTool(f"{number}" + "x" * 10_000, PinState.UNLISTED), "billing", Decides())
    for number in range(10 * MAX_REPORTS):  # lists of a server
        pins.report(ListedTool("add", PinState.CHANGED, "changed", f"{number}"), "billing", Decides())
    assert Counter(one["state"] for one in written) == {"unlisted": MAX_REPORTS, "changed": MAX_REPORTS}
    assert max(len(one["tool"]) for one in written) == MAX_NAME_LENGTH


# ── One caller against the others ─────────────────────────────────────────────────────────────


def test_attack_caller_that_occupies_all_connections_to_a_server() -> None:
    places = CallerPlaces(2, 0.01)

    async def work() -> None:
        for _ in range(2):
            await places.take(("hog",))
        with pytest.raises(MCPError, match="2 requests of this caller"):
            await places.take(("hog",))
        await places.take(("other",))
        async with anyio.create_task_group() as group:
            group.start_soon(places.take, ("hog",))
            await anyio.wait_all_tasks_blocked()
            places.give_back(("hog",))
        for owner in ("hog", "hog", "other"):
            places.give_back((owner,))
        assert len(places) == 0

    run(work)


def test_attack_caller_with_slow_calls_does_not_shut_others_out(watched: Watched) -> None:
    behind = EraServer(speaks="modern")
    with serving(behind) as url:
        upstream = HttpUpstream(McpUpstream(f"{url}/mcp", {}, {}, SECONDS), CallerPlaces(3, 0.01))

        def call(name: str, owner: str) -> UpstreamCall:
            params = {"name": name, "arguments": {"a": 1, "b": 2}, "_meta": envelope()}
            return UpstreamCall("tools/call", params, 1, (owner,))

        async def work() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(upstream.exchange, call("slow", "hog"))
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(MCPError, match="3 requests of this caller") as refused:
                    await upstream.exchange(call("add", "hog"))
                assert refused.value.error.data["kind"] == "caller_busy"
                assert (await upstream.exchange(call("add", "other")))["content"]
                group.cancel_scope.cancel()
            assert (await upstream.exchange(call("add", "hog")))["content"]
            await upstream.close()

        run(work)


def test_attack_message_of_a_million_values_is_compared_at_once() -> None:
    arguments = {"x": [[]] * 1_000}
    message = {"params": {"name": "add", "arguments": arguments}}
    params = {"name": "add", "arguments": arguments}
    assert drop_ambiguous_arguments(params, message) is params


def test_attack_session_of_another_caller_whom_a_header_names(watched: Watched) -> None:
    names = {"agent": "x-agent"}
    identify = identify_by_headers(names, lambda found: parse_caller_facts({**found, "issuer": "acme"}))
    gateway = gateway_of(watched, EraServer(), identify)
    with TestClient(http_app(gateway), base_url="http://127.0.0.1") as client:

        def send(verb: str, agent: str | None, **more: Any) -> Any:
            accepted = {"accept": "application/json, text/event-stream"}
            caller = {} if agent is None else {"x-agent": agent}
            return client.request(verb, "/mcp", headers={**accepted, **caller, **session}, **more)

        session: dict[str, str] = {}
        begun = send("POST", "bot", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        for agent in ("other", None, ""):
            for verb in ("GET", "POST", "DELETE"):
                assert send(verb, agent, **({"json": ping} if verb == "POST" else {})).status_code == 404
        assert send("POST", "bot", json=ping).status_code == 200


def test_attack_session_with_requests_without_end(watched: Watched) -> None:
    """Over HTTP, a client can close the connection of each of its requests, which go on."""
    gateway = deaf_gateway(watched, DeafStreams(reads_rest=True, limit=SECONDS))

    async def work() -> None:
        async with raw(gateway) as client:
            await client.begin()
            for number in range(MAX_REQUESTS):
                await client.send({"jsonrpc": "2.0", "id": f"call {number}", "method": "tools/list"})
            refused = await client.answer({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            assert "too many requests" in refused["error"]["message"]

    run(work)


def test_a_caller_about_whom_nothing_can_be_decided_may_no_longer_listen() -> None:
    class Broken:
        async def evaluate_async(self, question: object) -> object:
            raise RuntimeError("the decision point is broken")

    async def work() -> None:
        refused = await ClientMessageDecider(Broken(), "billing").refuse_listener({})  # type: ignore[arg-type]
        assert refused is not None
        assert refused.gate is Gate.FAILURE

    run(work)
