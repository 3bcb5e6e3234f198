"""The gateway over streamable HTTP: refuses foreign hosts and large bodies, and finds the session of each request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup, TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from policyengine.http.host_check import AllowedHosts
from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import has_envelope
from policyengine.integrations.mcp.http_exchange import find_exchange, owned_session
from policyengine.integrations.mcp.http_refusals import HttpRefusal, send_refusal
from policyengine.integrations.mcp.message_bounds import MAX_MESSAGE_VALUES, has_too_many_values
from policyengine.integrations.mcp.sessions import Owner, SessionTable
from policyengine.integrations.mcp.stateless_endpoint import StatelessEndpoint
from policyengine.integrations.mcp.upstream import describe_error
from policyengine.log_throttle import LogThrottle

try:
    import pydantic_core
    from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
    from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
    from mcp_types import INVALID_REQUEST, PARSE_ERROR
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

if TYPE_CHECKING:
    from policyengine.integrations.mcp.gateway import McpGateway

PATH = "/mcp"
MAX_REQUEST_BYTES = 4 * 1024 * 1024
IDLE_SECONDS = 30 * 60.0  # seconds until an idle session ends
VERSION_HEADER, SESSION_HEADER = MCP_PROTOCOL_VERSION_HEADER.encode(), MCP_SESSION_ID_HEADER.encode()
TOO_LARGE = HttpRefusal(413, f"the body has more than {MAX_REQUEST_BYTES} bytes", INVALID_REQUEST)
NOT_JSON = HttpRefusal(400, "the body is not JSON", PARSE_ERROR)
TOO_MANY_VALUES = HttpRefusal(413, f"the message has more than {MAX_MESSAGE_VALUES:,} values", INVALID_REQUEST)
NO_SESSION = HttpRefusal(
    400,
    "the request has no session: send `initialize` first, or the headers and `_meta` of 2026-07-28",
    INVALID_REQUEST,
)
_LOG = logging.getLogger("policyengine")


class McpEndpoint:
    """An ASGI endpoint: modern requests are answered one by one, and each legacy client has a session with its own
    upstream. The number of sessions is bounded; when the limit is reached, the owner with the most sessions loses one.

    Requests whose `Host` or `Origin` is not among `hosts` are refused before anything else.
    """

    def __init__(self, gateway: McpGateway, hosts: AllowedHosts) -> None:
        self._gateway, self._hosts = gateway, hosts
        self._open = SessionTable()
        self._group: TaskGroup | None = None
        self._stateless: StatelessEndpoint | None = None
        self._warnings = LogThrottle.every(60)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            return await send_refusal(refusal, send)
        if scope["method"] != "POST":
            return await self._answer_session(scope, receive, send)
        body = await read_body(scope, receive)
        if body is None:
            return await send_refusal(TOO_LARGE, send)
        if has_too_many_values(body):
            return await send_refusal(TOO_MANY_VALUES, send)
        await self._answer_post(scope, replay(body, receive), send, body)

    def _refusal(self, scope: Scope) -> HttpRefusal | None:
        """Return the refusal of a request by its head; None if it is accepted."""
        server, headers = scope.get("server"), dict(scope["headers"])
        is_plain = len(headers) == len(scope["headers"]) and self._hosts.at_once(headers)
        refused = (
            None if is_plain else self._hosts.refusal(scope["method"], scope["headers"], server[0] if server else None)
        )
        if refused is not None:
            why = f"{refused.message}: {refused.hint}"
            event = {"event": "foreign_refused", "header": refused.header, "why": why}
            self._warnings.tell(logging.WARNING, refused.header, f"a request was refused: {why}", **event)
            return HttpRefusal(403, why)
        if self._group is None:
            return HttpRefusal(503, "the gateway has not started")
        if scope["method"] != "POST" and is_modern(header(scope, VERSION_HEADER)):
            return HttpRefusal(405, "this version has requests by POST only", headers={"allow": "POST"})
        return None

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        async with self._gateway.running() as service, anyio.create_task_group() as group:
            self._group, self._stateless = group, StatelessEndpoint(service)
            yield
            group.cancel_scope.cancel()

    async def _answer_post(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Answer a POST in its era: that of its version header or, without a session, of its envelope."""
        version, session = header(scope, VERSION_HEADER), header(scope, SESSION_HEADER)
        stateless = self._stateless
        if is_modern(version) or session is None:
            decoded = decode_body(body)
            if stateless is not None and (is_modern(version) or has_envelope(params_of(decoded))):
                return await stateless.answer(scope, receive, send, body, decoded)
            if not isinstance(decoded, dict) or decoded.get("method") != "initialize":
                return await send_refusal(NOT_JSON if decoded is None else NO_SESSION, send)
        await self._answer_session(scope, receive, send)

    async def _answer_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = header(scope, SESSION_HEADER)
        if name is None and scope["method"] != "POST":
            return await send_refusal(NO_SESSION, send)
        if name is None:
            return await self._begin(scope, receive, send)
        session = self._open.get(name)
        if session is not None:
            session = owned_session(session, await self._find_owner(Request(scope)))
        if session is None:
            return await send_refusal(HttpRefusal(404, "the session does not exist"), send)
        self._open.enter(session)
        try:
            await session.transport.handle_request(scope, receive, send)
        finally:
            self._open.leave(session)

    async def _find_owner(self, request: Request) -> Owner | None:
        """Return the owner of a session that a request may use; None if the request does not say."""
        exchange = find_exchange(request)
        return await self._gateway.stated_owner(request) if exchange is None else exchange.owner

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._group is not None
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


class McpApplication(Starlette):
    """The routes of the gateway. Requests to the endpoint reach it without a search for their route."""

    def __init__(self, endpoint: McpEndpoint) -> None:
        super().__init__(routes=[Route(PATH, endpoint)], lifespan=endpoint.running)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            return await self._endpoint(scope, receive, send)
        await super().__call__(scope, receive, send)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header of a name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def is_modern(version: str | None) -> bool:
    """Return whether a version header is not one of a session, so that the modern endpoint names the versions."""
    return version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS


async def read_body(scope: Scope, receive: Receive) -> bytes | None:
    """Return the body; None if it is too large or its client has left."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > MAX_REQUEST_BYTES:
        return None
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        return body if len(body) <= MAX_REQUEST_BYTES else None
    parts, size, more = [], 0, True
    while more:
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_REQUEST_BYTES:
            return None
        parts.append(part)
        more = message.get("more_body", False)
        if more:
            message = await receive()
    return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that begins with the body."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def decode_body(body: bytes) -> Any:
    """Return the JSON of a body; None if the body is not JSON, or nested too deep."""
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError:
        return None


def params_of(decoded: object) -> object:
    return decoded.get("params") if isinstance(decoded, dict) else None
