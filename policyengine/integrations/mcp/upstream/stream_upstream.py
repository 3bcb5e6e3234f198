"""A modern upstream server over stdio: one process for all callers of the gateway.

A modern server keeps nothing of one request for the next, so callers may share it. The gateway rewrites the IDs and
progress tokens of requests, so that no caller can name, cancel or answer a request of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec.json import encode

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import read_meta
from policyengine.integrations.mcp.methods import METHOD_NOT_FOUND
from policyengine.integrations.mcp.notifications import CANCELLED, LOG_MESSAGE, PROGRESS
from policyengine.integrations.mcp.relay.direct_calls import CallTimer, encode_call, read_usual_answer
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter
from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.tool_headers import ToolHeaders
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.server import McpUpstream, describe_error
from policyengine.plurals import format_seconds

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import SessionMessage
    from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
    from mcp_types import (
        INTERNAL_ERROR,
        ErrorData,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

# Notifications of one request that its client has not yet accepted, and their bytes; more are dropped. One notification
# may be larger, if there is room for it among those of all requests.
MAX_BACKLOG, MAX_BACKLOG_BYTES = 256, 1024 * 1024
MAX_BACKLOGS_BYTES = 64 * 1024 * 1024
RESTART_SECONDS = 1.0  # shortest time between two starts of the process
CANCEL_SECONDS = 0.2  # longest time to tell the server that a request is cancelled
NO_ANSWER = "the upstream server did not answer"
_LOG = logging.getLogger("policyengine")


class PendingRequest(Protocol):
    """A request that the server has not answered."""

    def add(self, method: str, params: Mapping[str, Any]) -> None:
        """Accept a notification."""
        ...

    def end(self, answer: JSONRPCResponse | JSONRPCError | None) -> None:
        """Accept the first answer; others are dropped. None means that the server has ended."""
        ...


class DirectRequest(PendingRequest, Protocol):
    """A request that no task waits for."""

    def take(self, result: dict[str, Any]) -> bool:
        """Accept a usual result of a call. Return False if it must be accepted with `end`."""
        ...


class BacklogRoom:
    """The bytes of the notifications of all requests that their clients have not yet accepted, at most `most`."""

    def __init__(self, most: int = MAX_BACKLOGS_BYTES) -> None:
        self._most, self.taken = most, 0

    def take(self, size: int) -> bool:
        """Reserve room for a notification. Return False if there is not enough room."""
        if self.taken + size > self._most:
            return False
        self.taken += size
        return True

    def free(self, size: int) -> None:
        self.taken -= size


class PendingAnswer:
    """A request that waits: the notifications for its client, and its answer."""

    def __init__(self, call: UpstreamCall, id: int, room: BacklogRoom) -> None:
        self.call, self.id, self._room = call, id, room
        self.answer: JSONRPCResponse | JSONRPCError | None = None
        self.is_over = self.is_late = False
        self._backlog: deque[tuple[str, dict[str, Any], int]] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    def add(self, method: str, params: Mapping[str, Any]) -> None:
        translated = self.call.translate(self.id, method, params)
        if translated is None or len(self._backlog) >= MAX_BACKLOG:
            return
        size = len(encode(translated))
        if (self._size + size <= MAX_BACKLOG_BYTES or not self._size) and self._room.take(size):
            self._size += size
            self._backlog.append((method, translated, size))
            self._wake()

    def end(self, answer: JSONRPCResponse | JSONRPCError | None) -> None:
        """Accept the first answer; others are dropped."""
        if not self.is_over:
            self.answer, self.is_over = answer, True
            self._wake()

    def time_out(self) -> None:
        """End the wait without an answer."""
        if not self.is_over:
            self.is_late = self.is_over = True
            self._wake()

    def drop_backlog(self) -> None:
        """Drop the notifications that the client has not accepted."""
        self._room.free(self._size)
        self._size = 0
        self._backlog.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, limit: float | None) -> JSONRPCResponse | JSONRPCError | None:
        """Send the client its notifications until the request is answered, or `limit` seconds have passed. Return None
        if the server has ended, or has not answered."""
        loop = asyncio.get_running_loop()
        ends = None if limit is None else loop.time() + limit
        timer = None if ends is None else loop.call_at(ends, self.time_out)
        try:
            while True:
                if self._backlog:
                    await self._send_backlog(ends)
                if self.is_over:
                    return self.answer
                self._waiter = loop.create_future()
                await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    async def _send_backlog(self, ends: float | None) -> None:
        with anyio.CancelScope(deadline=inf if ends is None else ends) as scope:
            while self._backlog:
                method, params, size = self._backlog.popleft()
                await self.call.notify(method, params)
                self._size -= size
                self._room.free(size)
        if scope.cancelled_caught:
            self.time_out()


class SharedConnection:
    """One connection to a modern server. It ends when the server ends; `is_private` says that it has one caller."""

    def __init__(self, upstream: McpUpstream, *, is_private: bool) -> None:
        self._upstream, self._is_private = upstream, is_private
        self._pending: dict[int, PendingRequest] = {}
        self.timer = CallTimer(upstream.limit)
        self._direct: dict[int, DirectRequest] = {}  # these are pending, too
        self._room = BacklogRoom()
        self._ids = count(1)
        self._writer: Any = None
        self._scope = anyio.CancelScope()
        self.is_over = False

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Connect, and read until the server ends or `close` is called."""
        try:
            with self._scope:
                async with self._upstream.connect() as (reader, self._writer):
                    task_status.started()
                    if isinstance(reader, LineReader):
                        reader.lane = self._take_line
                    await self._read(reader)
        except Exception as error:
            _LOG.error("the connection to the upstream server failed: %s", describe_error(error))
            with suppress(RuntimeError):  # it failed before it started
                task_status.started()
        finally:
            self.is_over = True
            for pending in list(self._pending.values()):
                pending.end(None)
            self.timer.close()

    def close(self) -> None:
        self._scope.cancel()

    async def _read(self, reader: Any) -> None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                item = await reader.receive()
                if isinstance(item, SessionMessage):
                    await self._take(item.message)

    async def _take(self, message: Any) -> None:
        match message:
            case JSONRPCResponse() | JSONRPCError():
                pending = self._pending.get(message.id) if isinstance(message.id, int) else None
                if pending is not None:
                    pending.end(message)
            case JSONRPCRequest():  # modern servers do not send any
                refused = ErrorData(code=METHOD_NOT_FOUND, message="modern servers ask in results, with input_required")
                await self._send(JSONRPCError(jsonrpc="2.0", id=message.id, error=refused))
            case JSONRPCNotification(method=method):
                self._notify(method, message.params or {})

    def _notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Find the request to which a notification belongs. A log message names no request: it has an addressee only if
        the process has one caller."""
        if method == LOG_MESSAGE:
            open_calls = list(self._pending.values()) if self._is_private else []
            for pending in open_calls:
                pending.add(method, params)
            return
        if method == CANCELLED:  # the server ends a subscription
            key: object = params.get("requestId")
        elif method == PROGRESS:
            key = params.get("progressToken")
        else:
            key = read_meta(params).get(SUBSCRIPTION_ID_META_KEY)
        found = self._pending.get(key) if isinstance(key, int) and not isinstance(key, bool) else None
        if found is not None and method == CANCELLED:
            found.end(None)
        elif found is not None:
            found.add(method, params)

    async def exchange(self, call: UpstreamCall, limit: float | None) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises MCPError."""
        id = next(self._ids)
        pending = self._pending[id] = PendingAnswer(call, id, self._room)
        answered = False
        try:
            request = JSONRPCRequest(jsonrpc="2.0", id=id, method=call.method, params=call.upstream_params(id))
            with anyio.move_on_after(limit) as sending:
                await self._send(request)
            if not sending.cancelled_caught:
                answer = await pending.wait(limit)
                answered = not pending.is_late
        finally:
            del self._pending[id]
            pending.drop_backlog()
            if not answered and not self.is_over:
                with anyio.CancelScope(shield=True):
                    await self._cancel(id)
        if not answered:
            raise no_answer(limit)
        return read_result(answer)

    # ── Direct calls ──────────────────────────────────────────────────────────────────────────

    @property
    def is_direct(self) -> bool:
        """Whether a call can be sent now without waiting."""
        return isinstance(self._writer, LineWriter) and not self.is_over and self._writer.is_free

    def register(self, request: DirectRequest) -> int:
        """Return the ID of a request that `send_call` sends."""
        id = next(self._ids)
        self._pending[id] = self._direct[id] = request
        return id

    def send_call(self, id: int, params: Mapping[str, Any]) -> None:
        self._writer.write(encode_call(id, params))

    def forget(self, id: int) -> None:
        """End the wait for the answer to a direct request."""
        del self._pending[id], self._direct[id]

    async def result_of(self, answer: JSONRPCResponse | JSONRPCError | None) -> dict[str, Any]:
        """Return the result of an answer. Raises MCPError."""
        return read_result(answer)

    async def give_up(self, id: int) -> dict[str, Any]:
        """Tell the server that a request is cancelled. Raises MCPError."""
        if not self.is_over:
            with anyio.CancelScope(shield=True):
                await self._cancel(id)
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise no_answer(self._upstream.limit)

    def _take_line(self, line: bytes) -> bool:
        """Pass on the result of a direct call. Return False for a line that must be read as a message."""
        answer = read_usual_answer(line) if self._direct else None
        if answer is None or type(answer[0]) is not int:
            return False
        request = self._direct.get(answer[0])
        return request is not None and request.take(answer[1])

    async def _cancel(self, id: int) -> None:
        with anyio.move_on_after(CANCEL_SECONDS), suppress(MCPError):
            await self._send(JSONRPCNotification(jsonrpc="2.0", method=CANCELLED, params={"requestId": id}))

    async def _send(self, message: Any) -> None:
        if self.is_over or self._writer is None:
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
        try:
            await self._writer.send(SessionMessage(message))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None


def no_answer(limit: float | None) -> MCPError:
    return MCPError(INTERNAL_ERROR, f"{NO_ANSWER} within {format_seconds(limit or 0.0)}")


def read_result(answer: JSONRPCResponse | JSONRPCError | None) -> dict[str, Any]:
    """Return the result of an answer; None stands for a server that has ended. Raises MCPError."""
    match answer:
        case JSONRPCResponse(result=result):
            return result
        case JSONRPCError(error=error):
            raise MCPError.from_error_data(error)
        case _:
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)


class StreamUpstream:
    """The shared process of a modern server. It is started again for the next request after it has ended."""

    def __init__(self, upstream: McpUpstream, group: TaskGroup, *, is_private: bool = False) -> None:
        self._upstream, self._group, self._is_private = upstream, group, is_private
        self._connection: SharedConnection | None = None
        self._lock = anyio.Lock()
        self._started: float | None = None
        self.tools = ToolHeaders()

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        """Send a request and return its result. Raises MCPError."""
        connection = await self._connected()
        result = await connection.exchange(call, None if call.is_open_ended else self._upstream.limit)
        if call.method == "tools/list":
            self.tools.learn(result)
        return result

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def direct(self) -> SharedConnection | None:
        """The connection, if a call can be sent on it without waiting."""
        connection = self._connection
        return connection if connection is not None and connection.is_direct else None

    async def _connected(self) -> SharedConnection:
        connection = self._connection
        if connection is not None and not connection.is_over:
            return connection
        async with self._lock:
            if self._connection is None or self._connection.is_over:
                now = anyio.current_time()
                if self._started is not None and now - self._started < RESTART_SECONDS:
                    raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
                self._started = now
                connection = SharedConnection(self._upstream, is_private=self._is_private)
                await self._group.start(connection.serve)
                self._connection = connection
            return self._connection
