"""The gateway over streamable HTTP: refuses foreign hosts and large bodies, and finds the session of each request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup, TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from policyengine.http.host_check import AllowedHosts
from policyengine.install_hints import install_command
from policyengine.integrations.mcp.http_exchange import find_exchange, owned_session
from policyengine.integrations.mcp.http_refusals import HttpRefusal, send_refusal
from policyengine.integrations.mcp.sessions import SessionTable
from policyengine.integrations.mcp.upstream import describe_error

try:
    from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
    from mcp.server.transport_security import RequestBodyLimitMiddleware
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

if TYPE_CHECKING:
    from policyengine.integrations.mcp.gateway import McpGateway

MAX_REQUEST_BYTES = 4 * 1024 * 1024
IDLE_SECONDS = 30 * 60.0  # seconds until an idle session ends
_LOG = logging.getLogger("policyengine")


class McpEndpoint:
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
        refusal = self._refusal(scope)
        if refusal is not None:
            return await send_refusal(refusal, send)
        await self.bounded(scope, receive, send)

    def _refusal(self, scope: Scope) -> HttpRefusal | None:
        """Return the refusal of a request by its head; None if it is accepted."""
        server = scope.get("server")
        refused = self._hosts.refusal(scope["method"], scope["headers"], server[0] if server else None)
        if refused is not None:
            _LOG.warning("a request was refused: %s: %s", refused.message, refused.hint)
            return HttpRefusal(403, f"{refused.message}: {refused.hint}")
        return None

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
        session = owned_session(self._open.get(name), find_exchange(Request(scope)))
        if session is None:
            return await send_refusal(HttpRefusal(404, "the session does not exist"), send)
        self._open.enter(session)
        try:
            await session.transport.handle_request(scope, receive, send)
        finally:
            self._open.leave(session)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._group is None:
            return await send_refusal(HttpRefusal(503, "the gateway has not started"), send)
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
