"""The gateway over streamable HTTP: refuses foreign hosts and large bodies, and finds the session of each request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from policyengine.http.host_check import AllowedHosts
from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.http_messages import NOT_JSON, decode_body, header
from policyengine.integrations.mcp.clients.http_refusals import (
    HttpRefusal,
    encode_document,
    refusal_document,
    send_refusal,
)
from policyengine.integrations.mcp.clients.legacy_client import SESSION_HEADER
from policyengine.integrations.mcp.clients.session_endpoint import SessionEndpoint
from policyengine.integrations.mcp.clients.sessions import SessionTable
from policyengine.integrations.mcp.clients.stateless_endpoint import StatelessEndpoint
from policyengine.integrations.mcp.eras import has_envelope
from policyengine.integrations.mcp.message_bounds import MAX_MESSAGE_VALUES, has_too_many_values
from policyengine.log_throttle import LogThrottle

try:
    from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
    from mcp_types import INVALID_REQUEST
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

if TYPE_CHECKING:
    from policyengine.integrations.mcp.gateway import McpGateway

PATH = "/mcp"
MAX_REQUEST_BYTES = 4 * 1024 * 1024
VERSION_HEADER = MCP_PROTOCOL_VERSION_HEADER.encode()
TOO_LARGE = HttpRefusal(
    413,
    f"the body has more than {MAX_REQUEST_BYTES} bytes",
    INVALID_REQUEST,
    headers={"connection": "close"},  # the rest of the body is not read, so the connection ends with this answer
)
TOO_MANY_VALUES = HttpRefusal(413, f"the message has more than {MAX_MESSAGE_VALUES:,} values", INVALID_REQUEST)
OTHER_PATH = HttpRefusal(404, f"there is nothing at this path: the endpoint of MCP is `{PATH}`", INVALID_REQUEST)
NO_SESSION = HttpRefusal(
    400,
    "the request has no session: send `initialize` first, or the headers and `_meta` of 2026-07-28",
    INVALID_REQUEST,
)


class McpEndpoint:
    """An ASGI endpoint: modern requests are answered one by one, and each legacy client has a session with its own
    upstream. The number of sessions is bounded; when the limit is reached, the owner with the most sessions loses one.

    Requests whose `Host` or `Origin` is not among `hosts` are refused before anything else.
    """

    def __init__(self, gateway: McpGateway, hosts: AllowedHosts) -> None:
        self._gateway, self._hosts = gateway, hosts
        self._open = SessionTable(gateway.upstream.max_sessions)
        self._stateless: StatelessEndpoint | None = None
        self._sessions: SessionEndpoint | None = None
        self._warnings = LogThrottle.every(60)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            return await send_refusal(refusal, send)
        body = await read_body(scope, receive) if scope["method"] == "POST" else b""
        if body is None:
            return await send_refusal(TOO_LARGE, send)
        if has_too_many_values(body):
            return await send_refusal(TOO_MANY_VALUES, send)
        await self._answer(scope, receive, send, body)

    def _refusal(self, scope: Scope) -> HttpRefusal | None:
        """Return the refusal of a request because of its head; None if the head is accepted."""
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
        if self._sessions is None:
            return HttpRefusal(503, "the gateway has not started")
        if scope["method"] != "POST" and is_modern(header(scope, VERSION_HEADER)):
            return HttpRefusal(405, "this version of MCP accepts only POST requests", headers={"allow": "POST"})
        return None

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        async with self._gateway.running() as service, anyio.create_task_group() as group:
            self._stateless = StatelessEndpoint(service)
            self._sessions = SessionEndpoint(self._gateway, self._open, group)
            yield
            group.cancel_scope.cancel()

    def end_listening(self) -> None:
        """End the streams on which clients listen, because the gateway stops. Requests in progress go on, except for
        calls that wait for an approval, which get the confirm."""
        if self._gateway.confirms is not None:
            self._gateway.confirms.end_waits()
        if self._sessions is not None and self._stateless is not None:
            self._sessions.end_listening()
            self._stateless.end_listening()

    def end_requests(self) -> None:
        """Answer the requests in progress with an error, because the time for the stop is over."""
        if self._sessions is not None and self._stateless is not None:
            self._sessions.end_all()
            self._stateless.end_requests()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Answer a request in its era, which its version header determines or, without a session, its envelope."""
        version, session = header(scope, VERSION_HEADER), header(scope, SESSION_HEADER)
        assert self._stateless is not None
        assert self._sessions is not None
        if session is not None and not is_modern(version):
            return await self._sessions.answer(session, scope, receive, send, body)
        if scope["method"] != "POST":
            return await send_refusal(NO_SESSION, send)
        decoded = decode_body(body)
        if is_modern(version) or has_envelope(params_of(decoded)):
            return await self._stateless.answer(scope, receive, send, body, decoded)
        if not isinstance(decoded, dict) or decoded.get("method") != "initialize":
            return await send_refusal(NOT_JSON if decoded is None else NO_SESSION, send)
        await self._sessions.begin(scope, receive, send, body)


class McpApplication(Starlette):
    """The routes of the gateway. Requests to the endpoint reach it without a search for their route."""

    def __init__(self, endpoint: McpEndpoint) -> None:
        super().__init__(
            routes=[Route(PATH, endpoint)], lifespan=endpoint.running, exception_handlers={404: answer_other_path}
        )
        self.router.redirect_slashes = False  # a redirect of `/mcp/` would name the `Host` of the request, unchecked
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            return await self.endpoint(scope, receive, send)
        await super().__call__(scope, receive, send)


async def answer_other_path(_request: Request, _error: Exception) -> Response:
    return Response(encode_document(refusal_document(OTHER_PATH)), OTHER_PATH.status, media_type="application/json")


def is_modern(version: str | None) -> bool:
    """Return whether a version header does not name a version with sessions. The modern endpoint then answers, and
    names the supported versions if it does not know this one."""
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


def params_of(decoded: object) -> object:
    return decoded.get("params") if isinstance(decoded, dict) else None
