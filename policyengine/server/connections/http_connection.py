"""Additions to both HTTP protocols of uvicorn: an entry in the connection table, and a close that loses no answer.

If the server closes a connection while its client still sends, the connection is reset and the client may lose an
answer that it has not read. If a request is incomplete, the server therefore closes only its own side, and continues to
read for a while.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, ip_address
from typing import Any, cast

from policyengine.server.connections.connection_table import (
    CloseReason,
    ConnectionStage,
    ConnectionTable,
    has_unread_bytes,
)

LINGER_SECONDS = 10.0
LINGER_BYTES = 16 * 1024 * 1024
EVICTION_REASONS = (CloseReason.ADDRESS, CloseReason.ALL, CloseReason.MEMORY)
TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
NO_ROOM_DETAIL = (
    # The connection was evicted before its request had arrived completely.
    b"the server needed the connection for other clients"
)


def busy_response(detail: bytes) -> bytes:
    """Return the 503 response that precedes a close."""
    return (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(detail), detail)
    )


class LingeringTransport:
    """A transport whose `close` calls `HttpConnection.end`."""

    __slots__ = ("_connection", "_wire", "close", "write")

    def __init__(self, connection: HttpConnection, wire: asyncio.Transport) -> None:
        self._connection, self._wire = connection, wire
        self.write, self.close = wire.write, connection.end

    def is_closing(self) -> bool:
        return self._connection.lingered is not None or self._wire.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)


class HttpConnection(asyncio.Protocol):
    """A mixin for a protocol of uvicorn, placed before it in the bases.

    `wire` is the real transport. `began` is the start of the stage, `_idle` the time when the connection was first
    found idle after that, and `_unread` the time since which the client has not read. `lingered` counts the bytes that
    arrived after the connection ended, and is None before that.
    """

    wire: asyncio.Transport
    transport: Any
    cycle: Any  # uvicorn's exchange of the last request
    flow: Any
    loop: Any
    shutdown: Any
    address = ""
    began = 0.0
    spare = False
    unproved = True
    held = 0  # bytes of requests without an answer
    counted = False  # whether the table counts bytes of this connection
    lingered: int | None = None
    _idle: tuple[float, float] | None = None
    _unread: float | None = None

    def __init__(self, table: ConnectionTable, **given: Any) -> None:
        super().__init__(**given)
        self.table = table

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wire = cast(asyncio.Transport, transport)
        self.transport = LingeringTransport(self, self.wire)
        self.began = self.table.now
        self.address = peer_address(transport.get_extra_info("peername"))
        self.table.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.leave(self)
        super().connection_lost(exc)

    # ── Interface of the connection table ─────────────────────────────────────────────────────

    @property
    def receiving(self) -> bool:
        """Whether a request has begun to arrive and is incomplete."""
        raise NotImplementedError

    @property
    def stage(self) -> ConnectionStage:
        raise NotImplementedError

    @property
    def has_unread_bytes(self) -> bool:
        return has_unread_bytes(self.wire)

    def account(self) -> bool:
        """Report the number of buffered bytes to the table; return whether there is room for them."""
        size = self.held + self.wire.get_write_buffer_size()
        self.counted = bool(size)
        return self.table.hold(self, size)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.loop.call_soon(self.account)  # later, because this may end the connection during a write

    def resume_writing(self) -> None:
        super().resume_writing()
        self.account()

    def overdue(self, now: float) -> CloseReason | None:
        limits = self.table.limits
        if self.lingered is not None:
            return CloseReason.REQUEST if now - self.began > LINGER_SECONDS else None
        if self._slow_to_read(now):
            return CloseReason.ANSWER
        match self.stage:
            case ConnectionStage.HEAD:
                return CloseReason.HEAD if now - self.began > limits.head else None
            case ConnectionStage.IDLE:
                late = now - self.idle_since(now) > limits.idle and not self.has_unread_bytes
                return CloseReason.IDLE if late else None
            case ConnectionStage.BODY | ConnectionStage.BUSY | ConnectionStage.UNREAD:
                late = self.receiving and now - self.began > limits.head + limits.request
                return CloseReason.REQUEST if late else None

    def idle_since(self, now: float) -> float:
        """Return when the connection was first found idle after its last request."""
        if self._idle is None or self._idle[0] != self.began:
            self._idle = self.began, now
        return self._idle[1]

    def _slow_to_read(self, now: float) -> bool:
        if not self.wire.get_write_buffer_size():
            self._unread = None
        elif self._unread is None:
            self._unread = now
        return self._unread is not None and now - self._unread > self.table.limits.request

    def settle(self) -> None:
        """Send the answers that wait for the end of this turn of the event loop."""

    def drop(self, reason: CloseReason) -> None:
        self.settle()
        if reason is CloseReason.HEAD and self.receiving:
            self.wire.write(TIMEOUT_RESPONSE)
        elif reason in EVICTION_REASONS and self.stage is ConnectionStage.BODY and not self.cycle.response_started:
            self.wire.write(busy_response(NO_ROOM_DETAIL))
        if reason in (CloseReason.ANSWER, CloseReason.REQUEST) or self.stage is ConnectionStage.UNREAD:
            self.wire.abort()
        else:
            self.wire.close()

    # ── Closing ───────────────────────────────────────────────────────────────────────────────

    def end(self) -> None:
        """Close the connection. A client that is still sending gets time to read its answer; a second call closes
        immediately.
        """
        self.settle()
        if self.lingered is None and self.receiving and not self.wire.is_closing() and self.wire.can_write_eof():
            self.linger()
        else:
            self.wire.close()

    def linger(self) -> None:
        self.lingered, self.began = 0, self.table.now
        self.wire.write_eof()
        self.wire.resume_reading()

    def passed_over(self, data: bytes) -> bool:
        """Return whether these bytes arrived after the end of the connection, so that the caller must drop them."""
        if self.lingered is None:
            return False
        self.lingered += len(data)
        if self.lingered > LINGER_BYTES:
            self.wire.abort()
        return True


def peer_address(peer: object) -> str:
    """Return the address of a client; for IPv6 its /64 network, because a host can choose any address in that
    network."""
    if not isinstance(peer, tuple):
        return "socket"
    address = ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
