"""Relays one session between a client and an upstream server: passes on the messages that the policy allows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.methods import METHOD_NOT_FOUND, NOTIFICATIONS
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.plurals import format_seconds

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import ClientMessageMetadata, MessageMetadata, ServerMessageMetadata, SessionMessage
    from mcp_types import (
        INTERNAL_ERROR,
        INVALID_REQUEST,
        ErrorData,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
        RequestId,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

CLIENT_METHODS = frozenset({"sampling/createMessage", "elicitation/create", "roots/list", "ping"})
UPSTREAM_GONE = "the upstream server has ended, or cannot be reached"
CANCELLED = "notifications/cancelled"
MAX_LOGGED_METHOD = 80  # characters of a client's method in the server log
_LOG = logging.getLogger("policyengine")


class MessageReader(Protocol):
    async def receive(self) -> SessionMessage | Exception: ...


class MessageWriter(Protocol):
    async def send(self, item: SessionMessage, /) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """A request as the middleware sees it. `request` is the HTTP request that carried it, if there is one."""

    method: str
    params: Mapping[str, Any] | None
    request_id: RequestId
    request: Any


class RequestDroppedError(Exception):
    """The error for a request that the client cancelled: the client no longer waits."""


@dataclass(eq=False)
class UpstreamRequest:
    """A request sent upstream; `done` is set when it has ended."""

    token: object
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None = None

    def end(self, answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None) -> None:
        self.answer = answer
        self.done.set()


class Relay:
    """A relay of messages between a client and its upstream server. `limit` is the number of seconds to wait for an
    upstream answer.
    """

    def __init__(
        self, policy: PolicyMiddleware, to_client: MessageWriter, to_upstream: MessageWriter, limit: float
    ) -> None:
        self._policy, self._limit = policy, limit
        self._to_client, self._to_upstream = to_client, to_upstream
        self._waiting: dict[RequestId, UpstreamRequest] = {}
        self._asked: set[RequestId] = set()  # ids of requests of the upstream server
        self._version: str | None = None
        self._down = False

    async def run(self, first: SessionMessage, client: MessageReader, upstream: MessageReader) -> None:
        """Relay until the client disconnects. Without the upstream server, each request is answered with an error."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._from_upstream, upstream)
            await self._from_client(first, client, group)
            group.cancel_scope.cancel()

    # ── From the client ───────────────────────────────────────────────────────────────────────

    async def _from_client(self, first: SessionMessage, client: MessageReader, group: TaskGroup) -> None:
        item: SessionMessage | Exception = first
        while True:
            if isinstance(item, SessionMessage):
                await self._heard(item, group)
            try:
                item = await client.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                return

    async def _heard(self, item: SessionMessage, group: TaskGroup) -> None:
        match item.message:
            case JSONRPCRequest() as request:
                # Keeps the order: the request has now been sent or answered.
                await group.start(self._requested, request, item.metadata)
            case JSONRPCNotification(method=str(method)) as told if method.startswith(NOTIFICATIONS):
                await self._up(told)
                if method == CANCELLED:
                    self._cancelled(told.params)
            case JSONRPCResponse() | JSONRPCError() as answer if answer.id is not None and answer.id in self._asked:
                self._asked.discard(answer.id)
                await self._up(answer)
            case _:
                pass

    def _cancelled(self, params: Mapping[str, Any] | None) -> None:
        waiting = self._waiting.get((params or {}).get("requestId", ""))
        if waiting is not None:
            waiting.end(RequestDroppedError())

    async def _requested(
        self, request: JSONRPCRequest, metadata: MessageMetadata, *, task_status: TaskStatus[None]
    ) -> None:
        http = metadata.request_context if isinstance(metadata, ServerMessageMetadata) else None
        context = cast(RequestContext, RelayRequest(request.method, request.params, request.id, http))

        async def go_on(_: RequestContext) -> dict[str, Any]:
            return await self._forwarded(request, task_status)

        try:
            # Each client session has its own upstream session, so a handshake is required.
            if request.method == "server/discover":
                raise MCPError(METHOD_NOT_FOUND, "this gateway requires a session: send `initialize`")
            result = await self._policy(context, go_on)
            await self._down_to(JSONRPCResponse(jsonrpc="2.0", id=request.id, result=cast(dict[str, Any], result)))
        except MCPError as error:
            await self._down_to(JSONRPCError(jsonrpc="2.0", id=request.id, error=error.error))
        except RequestDroppedError:
            if isinstance(metadata, ServerMessageMetadata) and metadata.on_request_unanswered is not None:
                await metadata.on_request_unanswered()
        except Exception:
            extra = {"event": "answer_failed", "method": request.method[:MAX_LOGGED_METHOD]}
            _LOG.exception("an MCP request could not be answered and was denied", extra=extra)
            broken = ErrorData(code=INTERNAL_ERROR, message="the gateway failed; the request was denied")
            await self._down_to(JSONRPCError(jsonrpc="2.0", id=request.id, error=broken))
        finally:
            notify_started(task_status)

    async def _forwarded(self, request: JSONRPCRequest, task_status: TaskStatus[None]) -> dict[str, Any]:
        """Return the upstream's answer. Raises MCPError if the upstream answers with an error or not at all, and
        RequestDroppedError."""
        if request.id in self._waiting:
            raise MCPError(INVALID_REQUEST, "another request in progress has this id")
        if self._down:
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
        waiting = self._waiting[request.id] = UpstreamRequest(progress_token(request.params))
        try:
            await self._up(request)
            notify_started(task_status)
            with anyio.move_on_after(self._limit):
                await waiting.done.wait()
            return await self._answered(request, waiting)
        finally:
            del self._waiting[request.id]

    async def _answered(self, request: JSONRPCRequest, waiting: UpstreamRequest) -> dict[str, Any]:
        match waiting.answer:
            case JSONRPCResponse(result=result):
                if request.method == "initialize":
                    self._version = str(result.get("protocolVersion"))
                return result
            case JSONRPCError(error=error):
                raise MCPError.from_error_data(error)
            case RequestDroppedError() as dropped:
                raise dropped
            case _ if waiting.done.is_set():
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
            case _:
                late = {"requestId": request.id, "reason": "the request timed out"}
                await self._up(JSONRPCNotification(jsonrpc="2.0", method=CANCELLED, params=late))
                raise MCPError(
                    INTERNAL_ERROR, f"the upstream server did not answer within {format_seconds(self._limit)}"
                )

    async def _up(self, message: Any) -> None:
        """Send a message upstream, without headers or tokens of the client. Raises MCPError if a request cannot be
        sent; other messages are then dropped.
        """
        headers = {} if self._version is None else {"mcp-protocol-version": self._version}
        try:
            await self._to_upstream.send(SessionMessage(message, ClientMessageMetadata(headers=headers)))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._down = True
            if isinstance(message, JSONRPCRequest):
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None

    # ── From the upstream server ──────────────────────────────────────────────────────────────

    async def _from_upstream(self, upstream: MessageReader) -> None:
        while True:
            try:
                item = await upstream.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                self._down = True
                for waiting in list(self._waiting.values()):
                    waiting.end(None)
                return
            if isinstance(item, SessionMessage):
                await self._told(item.message)

    async def _told(self, message: Any) -> None:
        match message:
            case JSONRPCResponse() | JSONRPCError():
                waiting = None if message.id is None else self._waiting.get(message.id)
                if waiting is not None and not waiting.done.is_set():
                    waiting.end(message)
            case JSONRPCRequest(method=method) if method in CLIENT_METHODS:
                self._asked.add(message.id)
                await self._down_to(message, self._related(None))
            case JSONRPCRequest():
                refused = ErrorData(code=METHOD_NOT_FOUND, message="this gateway does not relay the method")
                await self._up(JSONRPCError(jsonrpc="2.0", id=message.id, error=refused))
            case JSONRPCNotification():
                await self._down_to(message, self._related((message.params or {}).get("progressToken")))
            case _:
                pass

    def _related(self, token: object) -> RequestId | None:
        """Return the ID of the client's request to which a message belongs, or None if it is not known; over HTTP, the
        request determines the stream.
        """
        about = [id for id, waiting in self._waiting.items() if token is not None and waiting.token == token]
        only = list(self._waiting) if len(self._waiting) == 1 else []
        return next(iter(about or only), None)

    async def _down_to(self, message: Any, related: RequestId | None = None) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the client has left; its session ends
            await self._to_client.send(SessionMessage(message, ServerMessageMetadata(related_request_id=related)))


def progress_token(params: Mapping[str, Any] | None) -> object:
    meta = (params or {}).get("_meta")
    return meta.get("progressToken") if isinstance(meta, Mapping) else None


def notify_started(task_status: TaskStatus[None]) -> None:
    """Notify the task group once; later calls have no effect."""
    try:
        task_status.started()
    except RuntimeError:
        return
