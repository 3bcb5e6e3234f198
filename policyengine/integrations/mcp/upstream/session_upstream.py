"""The upstream end of a legacy client's session: a session with the server, or a bridge to a modern server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.relay.line_streams import Lane, LineWriter
from policyengine.integrations.mcp.relay.request_tasks import AwaitedRequest
from policyengine.integrations.mcp.upstream.eras import ModernUpstream, UpstreamEras
from policyengine.integrations.mcp.upstream.http_session import HttpSession
from policyengine.integrations.mcp.upstream.legacy_bridge import LegacyBridge
from policyengine.integrations.mcp.upstream.server import describe_error, pump_messages

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCError, JSONRPCRequest
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Outgoing: TypeAlias = MemoryObjectReceiveStream[SessionMessage]
Incoming: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
_LOG = logging.getLogger("policyengine")


@dataclass(eq=False)
class SessionPort:
    """The way from the relay to the upstream end of its session. Messages go through streams of this process until the
    session with the server has begun, and from then on directly: to the writer of a server over pipes, or to the HTTP
    session, and back to `pass_on`."""

    stream: MemoryObjectSendStream[SessionMessage]
    writer: LineWriter | None = None
    pass_on: Callable[[Any], Awaitable[None]] | None = None
    lane: Lane | None = None  # takes lines of the server as they arrive
    session: HttpSession | None = None

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message. Over HTTP, a task that waits for an answer also reads it, so this returns after it. Raises
        BrokenResourceError."""
        if self.session is not None:
            start = item.metadata.start if isinstance(item.metadata, AwaitedRequest) else None
            if start is None:
                return await self.session.send(item)
            start.started()
            return await self.session.exchange(item)
        await (self.stream if self.writer is None else self.writer).send(item)


async def connect_session(eras: UpstreamEras, outgoing: Outgoing, incoming: Incoming, port: SessionPort) -> None:
    """Connect a session with the upstream server in a task of its own, so that its failure does not interrupt answers
    to the client."""
    async with outgoing, incoming:
        try:
            first = await outgoing.receive()
            modern = await begin_session(eras, first, outgoing, incoming, port)
            if modern is not None:
                await LegacyBridge(modern, incoming).run(first, outgoing)
        except anyio.EndOfStream:
            return
        except Exception as error:
            _LOG.error("the upstream session failed: %s", describe_error(error))
        finally:
            port.writer = port.session = None


async def begin_session(
    eras: UpstreamEras, first: SessionMessage, outgoing: Outgoing, incoming: Incoming, port: SessionPort
) -> ModernUpstream | None:
    """Relay a session with a legacy server until one side ends it. If the server refuses `initialize` because it is a
    modern server, return the server instead."""
    if not eras.has_sessions:
        return await find_pinned(eras, first, incoming)
    if eras.known_modern is not None:
        return eras.known_modern
    async with eras.upstream.connect() as (upstream, to_upstream), anyio.create_task_group() as group:
        await to_upstream.send(first)
        answer = await receive_answer(first, upstream, incoming)
        if isinstance(answer, SessionMessage) and isinstance(answer.message, JSONRPCError):
            modern = await eras.find_only_modern()
            if modern is not None:
                return modern
        if answer is not None:
            await incoming.send(answer)
        if isinstance(to_upstream, LineWriter):
            group.start_soon(pump_until_empty, outgoing, to_upstream, port)
            await pump_lines(upstream, incoming, port)
        elif isinstance(to_upstream, HttpSession):
            group.start_soon(pump_to_session, outgoing, to_upstream, port)
            await pump_from_session(to_upstream, incoming, port)
        else:
            group.start_soon(pump_messages, outgoing, to_upstream)
            await pump_messages(upstream, incoming)
        group.cancel_scope.cancel()
    return None


async def find_pinned(eras: UpstreamEras, first: SessionMessage, incoming: Incoming) -> ModernUpstream | None:
    """Return a server that is used only by modern requests, or answer `initialize` with the reason why there is no such
    server, and return None."""
    try:
        return await eras.find_pinned()
    except MCPError as error:
        if isinstance(first.message, JSONRPCRequest):
            refusal = JSONRPCError(jsonrpc="2.0", id=first.message.id, error=error.error)
            await incoming.send(SessionMessage(refusal))
        return None


async def pump_until_empty(outgoing: Outgoing, writer: LineWriter, port: SessionPort) -> None:
    """Pass on the messages that wait. Later messages go directly to the writer, because no message is before them."""
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.WouldBlock):
        while True:
            await writer.send(outgoing.receive_nowait())
    port.writer = writer


async def pump_lines(upstream: Any, incoming: Incoming, port: SessionPort) -> None:
    """Pass on the messages of the server until one of the two ends is closed. Once the relay has taken all messages
    that were sent to it, it gets later messages directly."""
    is_direct = False
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            item = await upstream.receive()
            is_direct = is_direct or incoming.statistics().tasks_waiting_receive > 0
            upstream.lane = port.lane if is_direct else None
            if not is_direct or port.pass_on is None:
                await incoming.send(item)
            elif isinstance(item, SessionMessage):
                await port.pass_on(item.message)


async def pump_to_session(outgoing: Outgoing, session: HttpSession, port: SessionPort) -> None:
    """Send the messages that wait. Later messages go directly to the session."""
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.WouldBlock):
        while True:
            await session.send(outgoing.receive_nowait())
    port.session = session


async def pump_from_session(session: HttpSession, incoming: Incoming, port: SessionPort) -> None:
    """Pass on the messages of the server until the session ends. Once the relay has taken all messages that were sent
    to it, it gets later messages directly."""
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            item = await session.receive()
            if incoming.statistics().tasks_waiting_receive > 0:
                session.pass_on = port.pass_on
            if session.pass_on is None:
                await incoming.send(item)
            else:
                await session.pass_on(item.message)


async def receive_answer(first: SessionMessage, upstream: Any, incoming: Incoming) -> SessionMessage | Exception | None:
    """Return the answer to `initialize`, and pass on the messages before it. Return None if `first` is another
    message."""
    request = first.message
    if not isinstance(request, JSONRPCRequest) or request.method != "initialize":
        return None
    while True:
        item: SessionMessage | Exception = await upstream.receive()
        if isinstance(item, SessionMessage) and getattr(item.message, "id", None) == request.id:
            return item
        await incoming.send(item)
