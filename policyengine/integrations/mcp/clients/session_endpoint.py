"""Legacy requests over HTTP (MCP 2024-11-05 … 2025-11-25): finds the session of each request, which only its owner may
use, and begins and ends sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup, TaskStatus
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.http_messages import accepts_events, head_refusal, read_message
from policyengine.integrations.mcp.clients.http_refusals import (
    HttpRefusal,
    encode_document,
    refusal_document,
    send_empty,
    send_refusal,
)
from policyengine.integrations.mcp.clients.legacy_client import LegacyClient
from policyengine.integrations.mcp.clients.response_stream import KEEP_ALIVE_SECONDS, ResponseStream
from policyengine.integrations.mcp.clients.sessions import McpSession, Owner, SessionTable
from policyengine.integrations.mcp.http_exchange import find_exchange, owned_session

try:
    from mcp_types import INVALID_REQUEST, JSONRPCRequest, RequestId
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

if TYPE_CHECKING:
    from policyengine.integrations.mcp.gateway import McpGateway

IDLE_SECONDS = 30 * 60.0  # seconds until an idle session ends
TICK_SECONDS = KEEP_ALIVE_SECONDS / 2
MAX_POSTS = 400  # of one session in progress; at most 200 of them wait for the upstream server
UNKNOWN_SESSION = HttpRefusal(404, "the session does not exist")
UNKNOWN_METHOD = HttpRefusal(
    405, "a session accepts only GET, POST and DELETE", INVALID_REQUEST, headers={"allow": "GET, POST, DELETE"}
)
NOT_INITIALIZE = HttpRefusal(400, "`initialize` must be a request with an ID", INVALID_REQUEST)
NO_EVENTS_ACCEPTED = HttpRefusal(406, "accept `text/event-stream`", INVALID_REQUEST)
ALREADY_LISTENING = HttpRefusal(409, "this session already has an open stream, and can have only one", INVALID_REQUEST)
IS_STOPPING = HttpRefusal(503, "the gateway is stopping: no client can listen")
TOO_MANY_POSTS = HttpRefusal(429, "too many messages of this session are in progress", INVALID_REQUEST)
SESSION_ENDED = "the session has ended before the request was answered"


class SessionEndpoint:
    """Answers requests of sessions, which are in the table `sessions` while they are open."""

    def __init__(self, gateway: McpGateway, sessions: SessionTable, group: TaskGroup) -> None:
        self._gateway, self._open, self._group = gateway, sessions, group
        self._is_stopping = False
        group.start_soon(self._tick)

    async def answer(self, name: str, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Answer a request that names a session."""
        request = Request(scope, receive)
        session = await self._find(name, request)
        if session is None:
            return await send_refusal(UNKNOWN_SESSION, send)
        self._open.enter(session)
        try:
            match scope["method"]:
                case "POST":
                    await self._post(session, request, send, body)
                case "GET":
                    await self._listen(session.client, request, send)
                case "DELETE":
                    self._end(name)
                    await send_empty(200, send)
                case _:
                    await send_refusal(UNKNOWN_METHOD, send)
        finally:
            self._open.leave(session)

    async def _find(self, name: str, request: Request) -> McpSession | None:
        """Return a session that the sender of the request may use."""
        owner = await self._find_owner(request)
        session = self._open.get(name)
        return None if session is None or session.client.is_over else owned_session(session, owner)

    async def _find_owner(self, request: Request) -> Owner | None:
        """Return the owner of a session that a request may use; None if the request does not say."""
        exchange = find_exchange(request)
        return await self._gateway.stated_owner(request) if exchange is None else exchange.owner

    # ── POST ──────────────────────────────────────────────────────────────────────────────────

    async def _post(self, session: McpSession, request: Request, send: Send, body: bytes) -> None:
        message = head_refusal(request.scope) or read_message(body)
        if isinstance(message, HttpRefusal):
            return await send_refusal(message, send)
        if session.requests > MAX_POSTS:
            return await send_refusal(TOO_MANY_POSTS, send)
        request._body = body  # the message as its client wrote it
        client: LegacyClient = session.client
        if not isinstance(message, JSONRPCRequest):
            await client.hear(message, request)
            return await send_empty(202, send, client.headers)
        if not client.accepts(message.id):
            return await send_refusal(repeated_id(message.id), send)
        await self._answer(client, message, request, ResponseStream(send, client.headers))

    async def _answer(
        self, client: LegacyClient, message: JSONRPCRequest, request: Request, stream: ResponseStream
    ) -> None:
        await client.answer(message, request, stream)
        if not stream.is_finished:
            ended = HttpRefusal(404, SESSION_ENDED, INVALID_REQUEST, message.id)
            await stream.finish(encode_document(refusal_document(ended)), ended.status)

    async def begin(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Begin a session with `initialize`. If it fails, there is no session."""
        message = head_refusal(scope) or read_message(body)
        if not isinstance(message, JSONRPCRequest):
            return await send_refusal(message if isinstance(message, HttpRefusal) else NOT_INITIALIZE, send)
        request = Request(scope, receive)
        owner = await self._gateway.owner(request)
        request._body = body
        if (replaced := self._open.replaceable()) is not None:
            self._end(replaced)
        name = uuid4().hex
        client = LegacyClient(name)
        session = self._open.begin(name, client, owner)
        self._open.enter(session)
        try:
            await self._group.start(self._serve, name, client)
            await self._answer(client, message, request, ResponseStream(send, client.headers))
        finally:
            self._open.leave(session)
            if not client.has_begun:
                self._end(name)

    # ── GET ───────────────────────────────────────────────────────────────────────────────────

    async def _listen(self, client: LegacyClient, request: Request, send: Send) -> None:
        """Send the messages that belong to no request until the client leaves, its session or the gateway ends."""
        if self._is_stopping:
            return await send_refusal(IS_STOPPING, send)
        if not accepts_events(request.scope):
            return await send_refusal(NO_EVENTS_ACCEPTED, send)
        if client.listening is not None:
            return await send_refusal(ALREADY_LISTENING, send)
        stream = client.listening = ResponseStream(send, client.headers)

        async def follow_client() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        try:
            await stream.open()
            async with anyio.create_task_group() as group:
                group.start_soon(follow_client)
                await client.wait_listening_end()
                group.cancel_scope.cancel()
            await stream.close()
        finally:
            stream.is_finished, client.listening = True, None

    # ── Sessions ──────────────────────────────────────────────────────────────────────────────

    async def _serve(self, name: str, client: LegacyClient, *, task_status: TaskStatus[None]) -> None:
        try:
            await client.serve(self._gateway.relaying, task_status=task_status)
        finally:
            self._end(name)

    def _end(self, name: str) -> None:
        session = self._open.end(name)
        if session is not None:
            session.client.close()

    def end_listening(self) -> None:
        """End the streams of clients that listen, and begin no others."""
        self._is_stopping = True
        for client in self._open.clients:
            client.end_listening()

    def end_all(self) -> None:
        """End all sessions, and with them the requests in progress."""
        for name in self._open.names:
            self._end(name)

    async def _tick(self) -> None:
        """End idle sessions, and keep silent streams alive."""
        while True:
            await anyio.sleep(TICK_SECONDS)
            for name in self._open.idle(IDLE_SECONDS):
                self._end(name)
            for client in self._open.clients:
                client.tick(self._group)


def repeated_id(id: RequestId) -> HttpRefusal:
    return HttpRefusal(200, "another request in progress has this id", INVALID_REQUEST, id)
