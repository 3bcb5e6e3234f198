"""`policyengine mcp-gateway`: a proxy in front of any MCP server, over stdio or streamable HTTP on either side."""

from __future__ import annotations

import logging
import shlex
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias, cast
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from policyengine.http.host_check import AllowedHosts, url_host_names
from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import (
    Facts,
    Identify,
    PolicyDecisionPoint,
    identify_caller,
    prove_credentials,
)
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions, McpCaller
from policyengine.integrations.mcp.relay import MessageReader, MessageWriter, Relay, RelayRequest
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.integrations.mcp.sessions import Owner, SessionTable, session_owner
from policyengine.integrations.mcp.unambiguous_messages import StdioRequest, check_upstream_params

try:
    import httpx2
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server.stdio import stdio_server
    from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
    from mcp.server.transport_security import RequestBodyLimitMiddleware
    from mcp.shared.message import ServerMessageMetadata, SessionMessage
    from mcp_types import INTERNAL_ERROR
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Outgoing: TypeAlias = MemoryObjectReceiveStream[SessionMessage]
Incoming: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
Streams: TypeAlias = AbstractAsyncContextManager[tuple[Any, Any]]
MAX_REQUEST_BYTES = 4 * 1024 * 1024
IDLE_SECONDS = 30 * 60.0  # seconds until an idle session ends
CONNECT_SECONDS = 5.0
_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class McpUpstream:
    """The upstream server: a URL or a command line. `headers` and `environment` are all that the gateway passes to it.
    `limit` is the number of seconds to wait for an answer.
    """

    target: str
    headers: Mapping[str, str]
    environment: Mapping[str, str]
    limit: float

    @property
    def is_url(self) -> bool:
        return self.target.startswith(("http://", "https://"))

    def connect(self) -> Streams:
        """Open a new session."""
        return self._url() if self.is_url else self._command()

    def _command(self) -> Streams:
        command, *arguments = shlex.split(self.target)
        return stdio_client(StdioServerParameters(command=command, args=arguments, env=dict(self.environment)))

    @asynccontextmanager
    async def _url(self) -> AsyncIterator[tuple[Any, Any]]:
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=self.limit)
        async with (
            httpx2.AsyncClient(headers=dict(self.headers), timeout=timeout, trust_env=False) as http,
            streamable_http_client(self.target, http_client=http) as streams,
        ):
            yield streams


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A request that begins a session, in the form that the middleware expects."""

    request: Request
    request_id: None = None
    method: str = "initialize"
    params: None = None


class UpstreamPolicyMiddleware(PolicyMiddleware):
    """The middleware for a server whose parser is unknown. All sessions share one ConfirmHandler, and its bounds."""

    params = staticmethod(check_upstream_params)

    def __init__(
        self,
        decides: PolicyDecisionPoint,
        confirms: ConfirmHandler,
        *,
        server: str,
        identify: Identify[RequestContext],
    ) -> None:
        super().__init__(decides, server=server, identify=identify)
        self._confirms = confirms

    def answer(self, result: dict[str, Any]) -> dict[str, Any]:
        return result  # the relay sends it as it is

    def caller(self, ctx: RequestContext) -> McpCaller | None:
        return cast(RelayRequest, ctx).caller


@dataclass(frozen=True, slots=True)
class McpGateway:
    decides: PolicyDecisionPoint
    server: str
    identify: Identify[RequestContext]
    upstream: McpUpstream
    confirms: ConfirmHandler | None = None

    async def session(self, client: MessageReader, to_client: MessageWriter) -> None:
        """Serve one client until it disconnects. The upstream is started when the client sends its first message."""
        first = await receive_first_message(client)
        if first is None:
            return
        confirms = self.confirms or ConfirmHandler(self.decides, ConfirmOptions())
        policy = UpstreamPolicyMiddleware(self.decides, confirms, server=self.server, identify=self.identify)
        to_upstream, outgoing = anyio.create_memory_object_stream[SessionMessage]()
        incoming, upstream = anyio.create_memory_object_stream[SessionMessage | Exception]()
        async with to_upstream, upstream, anyio.create_task_group() as group:
            group.start_soon(self._connected, outgoing, incoming)
            await Relay(policy, to_client, to_upstream, self.upstream.limit).run(first, client, upstream)
            group.cancel_scope.cancel()

    async def _connected(self, outgoing: Outgoing, incoming: Incoming) -> None:
        """Run the upstream session in its own task, so that its failure does not interrupt answers to the client."""
        async with outgoing, incoming:
            try:
                async with self.upstream.connect() as (upstream, to_upstream), anyio.create_task_group() as group:
                    group.start_soon(pump_messages, outgoing, to_upstream)
                    await pump_messages(upstream, incoming)
                    group.cancel_scope.cancel()
            except Exception as error:
                _LOG.error("the upstream session failed: %s", describe_error(error))

    async def owner(self, request: Request) -> Owner:
        """Return the owner of the session that the request begins."""
        facts = await identify_caller(self.identify, cast(RequestContext, SessionRequest(request)))
        return session_owner(None if facts is None else await prove_credentials(self.decides, facts))

    async def over_stdio(self) -> None:
        """Serve one client until it closes the pipe, then stop the upstream and end."""
        lines = StdioLines(open(0, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
        async with stdio_server(lines) as (client, to_client), client, to_client:
            await self.session(StdioMessageReader(client, lines), to_client)


class StdioLines(anyio.AsyncFile[str]):
    """Lines of text, each of which becomes one message. A line is kept until its message is received."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        self.kept: deque[str] = deque()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in super().__aiter__():
            self.kept.append(line)
            yield line


@dataclass(frozen=True, slots=True)
class StdioMessageReader:
    """Messages with their raw lines."""

    client: MessageReader
    lines: StdioLines

    async def receive(self) -> SessionMessage | Exception:
        item = await self.client.receive()
        line = self.lines.kept.popleft()
        if isinstance(item, SessionMessage):
            return SessionMessage(item.message, ServerMessageMetadata(request_context=StdioRequest(line)))
        return item


async def receive_first_message(client: MessageReader) -> SessionMessage | None:
    while True:
        try:
            item = await client.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return None
        if isinstance(item, SessionMessage):
            return item


async def pump_messages(source: Any, sink: Any) -> None:
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            await sink.send(await source.receive())


def describe_error(error: BaseException) -> str:
    """Return the message of an error, or of the first error in a group; the name of its class if it has no message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


# ── Streamable HTTP ───────────────────────────────────────────────────────────────────────────


class SessionEndpoint:
    """An ASGI endpoint: each client has a session with its own upstream. The number of sessions is bounded; when the
    limit is reached, the owner with the most sessions loses one.

    Requests whose `Host` or `Origin` is not among `hosts` are refused before the session lookup.
    """

    def __init__(self, gateway: McpGateway, hosts: AllowedHosts) -> None:
        self._gateway, self._hosts = gateway, hosts
        self._open = SessionTable()
        self._group: TaskGroup | None = None
        self.bounded = RequestBodyLimitMiddleware(self._answer, MAX_REQUEST_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        refused = self._hosts.refusal(scope["method"], scope["headers"], server[0] if server else None)
        if refused is not None:
            _LOG.warning("a request was refused: %s: %s", refused.message, refused.hint)
            return await JSONResponse(problem_document(f"{refused.message}: {refused.hint}"), 403)(scope, receive, send)
        await self.bounded(scope, receive, send)

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            self._group = group
            yield
            group.cancel_scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Request(scope).headers.get(MCP_SESSION_ID_HEADER)
        if name is None:
            return await self._begin(scope, receive, send)
        session = self._open.get(name)
        if session is None:
            return await JSONResponse(problem_document("the session does not exist"), 404)(scope, receive, send)
        self._open.enter(session)
        try:
            await session.transport.handle_request(scope, receive, send)
        finally:
            self._open.leave(session)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._group is None:
            return await JSONResponse(problem_document("the gateway has not started"), 503)(scope, receive, send)
        owner = await self._gateway.owner(Request(scope))
        if (replaced := self._open.replaceable()) is not None:
            await self._end(replaced)
        name = uuid4().hex
        transport = StreamableHTTPServerTransport(name, idle_timeout=IDLE_SECONDS)
        self._open.begin(name, transport, owner)
        status = 500

        async def watching(message: Message) -> None:
            nonlocal status
            status = message["status"] if message["type"] == "http.response.start" else status
            await send(message)

        try:
            await self._group.start(self._session, name, transport)
            await transport.handle_request(scope, receive, watching)
        finally:
            if status >= 400:  # the session did not begin
                with anyio.CancelScope(shield=True):
                    await self._end(name)

    async def _session(
        self, name: str, transport: StreamableHTTPServerTransport, *, task_status: TaskStatus[None]
    ) -> None:
        try:
            async with transport.connect() as (client, to_client):
                task_status.started()
                with transport.idle_scope or anyio.CancelScope():
                    await self._gateway.session(client, to_client)
        except Exception as error:
            _LOG.error("a session ended with an error: %s", describe_error(error))
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(name)

    async def _end(self, name: str) -> None:
        session = self._open.end(name)
        if session is not None and not session.transport.is_terminated:
            await session.transport.terminate()


def problem_document(message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": INTERNAL_ERROR, "message": message}}


def http_app(gateway: McpGateway, allowed_hosts: Collection[str] = (), public_url: str | None = None) -> Starlette:
    """Return the gateway at `/mcp`, for requests to loopback, to the host of `public_url` or to one of `allowed_hosts`.
    Raises AllowedHostError."""
    sessions = SessionEndpoint(gateway, AllowedHosts.of((*allowed_hosts, *url_host_names(public_url))))
    return Starlette(routes=[Route("/mcp", sessions)], lifespan=sessions.running)


def identify_by_headers(
    names: Mapping[str, str], facts: Callable[[Mapping[str, str]], Facts]
) -> Identify[RequestContext]:
    """Identify the caller by headers that a trusted process on this machine sets. A missing header means an unknown
    caller."""

    def identify(context: RequestContext) -> Facts | None:
        headers = getattr(context.request, "headers", None)
        found = {} if headers is None else {name: headers.getlist(header) for name, header in names.items()}
        if not found or any(len(values) != 1 or not values[0] for values in found.values()):
            return None
        return facts({name: values[0] for name, values in found.items()})

    return identify


def parse_caller_facts(words: Mapping[str, str]) -> Facts:
    """Return the facts that the words `agent`, `issuer`, `user` and `scopes` state; each may be missing."""
    issuer = {"issuer": words["issuer"]} if "issuer" in words else {}
    scopes = {"scopes": parse_scopes(words["scopes"])} if "scopes" in words else {}
    agent = {"agent": {"id": words["agent"], **issuer}} if "agent" in words else {}
    user = {"user": {"id": words["user"]}} if "user" in words else {}
    credential = {"credential": {**issuer, **scopes}} if issuer or scopes else {}
    return {**agent, **user, **credential}


def parse_scopes(words: str) -> Sequence[str]:
    return words.replace(",", " ").split()
