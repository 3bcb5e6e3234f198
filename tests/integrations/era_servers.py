"""One MCP server that speaks both eras, only the modern one, or only the legacy ones; and gateways in front of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.runner import serve_loop
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCRequest
from mcp_types.jsonrpc import jsonrpc_message_adapter

from policyengine.integrations.mcp.confirm_handler import ConfirmHandler
from policyengine.integrations.mcp.gateway import McpGateway
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol
from tests.integrations.conftest import BOT

MODERN = "2026-07-28"
LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
FORM: dict[str, Any] = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
TOOLS = ("add", "secret", "refund", "slow", "busy", "ask")
META = "io.modelcontextprotocol/"


def tool(name: str) -> types.Tool:
    return types.Tool(name=name, input_schema={"type": "object"})


def text(words: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=words)])


@dataclass(eq=False)
class EraServer:
    """A server with tools, resources and prompts. `heard` are its requests, with the version of each; `states` the
    states that come back to it."""

    speaks: str = "both"  # or `modern`, `legacy`
    heard: list[tuple[str, str, Any]] = field(default_factory=list)
    states: list[str | None] = field(default_factory=list)
    cancelled: int = 0
    bus: InMemorySubscriptionBus = field(default_factory=InMemorySubscriptionBus)
    subscribed: list[str] = field(default_factory=list)
    sessions: list[Any] = field(default_factory=list)  # of legacy clients that subscribe
    headers: list[dict[str, str]] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)  # methods that it does not answer

    def __post_init__(self) -> None:
        self.server: Server[Any] = Server(
            "behind",
            version="3",
            on_list_tools=self._tools,
            on_call_tool=self._call,
            on_list_resources=self._resources,
            on_list_resource_templates=self._templates,
            on_read_resource=self._read,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_list_prompts=self._prompts,
            on_get_prompt=self._prompt,
            on_subscriptions_listen=ListenHandler(self.bus),
        )
        self.server.middleware.append(self._listen)
        self.app = self.server.streamable_http_app()

    async def _listen(self, context: Any, call_next: Any) -> Any:
        self.heard.append((context.method, context.protocol_version, context.params))
        if context.method in self.silent:
            await anyio.sleep_forever()
        return await call_next(context)

    @property
    def methods(self) -> list[str]:
        return [method for method, _, _ in self.heard]

    @property
    def versions(self) -> set[str]:
        return {version for method, version, _ in self.heard if method == "tools/call"}

    async def _tools(self, context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool(name) for name in TOOLS])

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> Any:
        arguments = params.arguments or {}
        match params.name:
            case "add":
                return text(str(arguments["a"] + arguments["b"]))
            case "slow":
                return await self._slow()
            case "busy":
                await context.session.report_progress(1, 2, "half")
                return text("done")
            case "ask":
                return await self._ask(context, params)
            case _:
                return text(f"{params.name} {json.dumps(arguments)}")

    async def _slow(self) -> Any:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise

    async def _ask(self, context: Any, params: types.CallToolRequestParams) -> Any:
        if context.protocol_version != MODERN:
            found = await context.session.elicit_form("sure?", FORM, related_request_id=context.request_id)
            return text(found.action)
        self.states.append(params.request_state)
        answers = params.input_responses or {}
        if "sure" not in answers:
            asked = types.ElicitRequest(params=types.ElicitRequestFormParams(message="sure?", requested_schema=FORM))
            return types.InputRequiredResult(input_requests={"sure": asked}, request_state="state of the server")
        return text(getattr(answers["sure"], "action", "?"))

    async def _resources(self, context: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[types.Resource(name="a", uri="docs://open/a")])

    async def _templates(self, context: Any, params: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=[])

    async def _read(self, context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        content = types.TextResourceContents(uri=params.uri, text="words")
        return types.ReadResourceResult(contents=[content])

    async def _subscribe(self, context: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.subscribed.append(str(params.uri))
        self.sessions.append(context.session)
        return types.EmptyResult()

    async def _unsubscribe(self, context: Any, params: Any) -> types.EmptyResult:
        self.subscribed.remove(str(params.uri))
        return types.EmptyResult()

    async def _prompts(self, context: Any, params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name="greet"), types.Prompt(name="hidden")])

    async def _prompt(self, context: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        content = types.TextContent(type="text", text=f"hello from {params.name}")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    async def change(self, uri: str) -> None:
        """Tell the clients that subscribe to a resource that it has changed."""
        await self.bus.publish(ResourceUpdated(uri=uri))
        for session in self.sessions:
            await session.send_resource_updated(uri)

    async def change_tools(self) -> None:
        await self.bus.publish(ToolsListChanged())
        for session in self.sessions:
            await session.send_tool_list_changed()

    # ── Over HTTP ─────────────────────────────────────────────────────────────────────────────

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.headers.append(headers)
            is_modern = headers.get("mcp-protocol-version", "") == MODERN
            if self.speaks != "both" and is_modern != (self.speaks == "modern"):
                return await refuse(send, is_modern)
        await self.app(scope, receive, send)

    # ── In this process ───────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Any, Any]]:
        options = self.server.create_initialization_options(NotificationOptions(tools_changed=True))
        async with (
            create_client_server_memory_streams() as (client, (reader, writer)),
            anyio.create_task_group() as group,
        ):
            match self.speaks:
                case "legacy":
                    group.start_soon(partial(serve_loop, self.server, reader, writer, lifespan_state={}))
                case "modern":
                    group.start_soon(self.server.run, NoSessions(reader, writer), writer, options)
                case _:
                    group.start_soon(self.server.run, reader, writer, options)
            try:
                yield client
            finally:
                for stream in client:  # otherwise the server waits a second for somebody who reads its last answers
                    stream.close()
                group.cancel_scope.cancel()


@dataclass(eq=False)
class LegacyListFails(EraServer):
    """A server of both eras that does not list its tools to clients with a handshake."""

    async def _tools(self, context: Any, params: Any) -> types.ListToolsResult:
        if context.protocol_version != MODERN:
            raise MCPError(-32603, "no list `here`\x1b")
        return await super()._tools(context, params)


async def refuse(send: Any, is_modern: bool) -> None:
    """Answer as a server that knows nothing of the other era, or as a modern one that names its versions."""
    error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [MODERN]}}
    body = b"no" if is_modern else json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
    kind = b"text/plain" if is_modern else b"application/json"
    await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})


@dataclass(eq=False)
class NoSessions:
    """The messages of a client without `initialize`, which a server that is only modern refuses."""

    reader: Any
    writer: Any

    async def receive(self) -> Any:
        while True:
            item = await self.reader.receive()
            message = item.message
            if not isinstance(message, JSONRPCRequest) or message.method != "initialize":
                return item
            error = types.ErrorData(code=-32022, message="Unsupported protocol version", data={"supported": [MODERN]})
            await self.writer.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=message.id, error=error)))

    async def aclose(self) -> None:
        await self.reader.aclose()

    def __aiter__(self) -> NoSessions:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class InProcessUpstream(McpUpstream):
    """An upstream server in this process, in place of a command."""

    behind: EraServer

    def connect(self) -> AbstractAsyncContextManager[tuple[Any, Any]]:
        return self.behind.connect()


def gateway_of(
    decides: Any,
    behind: EraServer,
    identify: Any = None,
    confirms: ConfirmHandler | None = None,
    limit: float = 20,
    protocol: UpstreamProtocol = UpstreamProtocol.AUTO,
) -> McpGateway:
    upstream = InProcessUpstream("memory", {}, {}, limit, protocol)
    object.__setattr__(upstream, "behind", behind)
    return McpGateway(decides, "billing", identify or always(BOT), upstream, confirms)


@asynccontextmanager
async def in_process(gateway: McpGateway) -> AsyncIterator[tuple[Any, Any]]:
    """The gateway as a transport of a client, as over stdio."""
    async with create_client_server_memory_streams() as (client, (reader, writer)), anyio.create_task_group() as group:
        group.start_soon(gateway.session, reader, writer)
        yield client
        group.cancel_scope.cancel()


HELLO: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}


@dataclass(eq=False)
class RawStreams:
    """A client that sends and receives messages as it likes."""

    reader: Any
    writer: Any
    ids: Any = field(default_factory=lambda: count(100))

    async def send(self, message: dict[str, Any]) -> None:
        await self.writer.send(SessionMessage(jsonrpc_message_adapter.validate_python(message)))

    async def receive(self) -> dict[str, Any]:
        item = await self.reader.receive()
        found: dict[str, Any] = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
        return found

    async def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises MCPError."""
        await self.send(message)
        found = await self.receive()
        while found.get("id") != message["id"]:
            found = await self.receive()
        return found

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Return the result of a request of a session. Raises MCPError."""
        found = await self.answer({"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params})
        if "error" in found:
            raise MCPError(**found["error"])
        return found["result"]

    async def begin(self, capabilities: Any = None) -> None:
        await self.ask("initialize", {**HELLO, "capabilities": capabilities or {}})
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def ask_modern(self, method: str, params: Any = None, meta: Any = None) -> Any:
        found = await self.answer(modern_body(method, params, next(self.ids), meta))
        assert "result" in found, found
        return found["result"]

    async def refused(self, method: str, params: Any = None, meta: Any = None) -> Any:
        """Return the error, or the text of a result that is one."""
        found = await self.answer(modern_body(method, params, next(self.ids), meta))
        assert "error" in found or found["result"].get("isError"), found
        return found.get("error", found.get("result"))


@asynccontextmanager
async def raw(gateway: McpGateway) -> AsyncIterator[RawStreams]:
    async with in_process(gateway) as (reader, writer):
        yield RawStreams(reader, writer)


def envelope(capabilities: Any = None, **more: Any) -> dict[str, Any]:
    return {
        f"{META}protocolVersion": MODERN,
        f"{META}clientCapabilities": capabilities or {},
        f"{META}clientInfo": {"name": "raw", "version": "1"},
        **more,
    }


def modern_body(method: str, params: dict[str, Any] | None = None, id: Any = 1, meta: Any = None) -> dict[str, Any]:
    asked = {**(params or {}), "_meta": envelope() if meta is None else meta}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": asked}


def modern_headers(body: dict[str, Any], **more: str) -> dict[str, str]:
    params = body.get("params") or {}
    named = params.get("name", params.get("uri"))
    headers = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": body["method"],
    }
    return {**headers, **({"mcp-name": named} if isinstance(named, str) else {}), **more}
