"""HTTP/1.1 connections to the endpoint of an upstream server: one exchange after the other on each, without redirects,
cookies and proxies."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias, cast

import anyio

from policyengine.install_hints import install_command

try:
    import h11
    import httpx2
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

Headers: TypeAlias = list[tuple[bytes, bytes]]
CONNECT_SECONDS = 5.0
ADDRESS_SECONDS = 1.0  # for an address of a host that has another one
IDLE_SECONDS = 4.0  # many servers close a connection after 5, and a request that meets its end fails
FINISH_SECONDS = 1.0  # for the end of a stream whose answer has arrived
MAX_IDLE = 32
MAX_HEAD_BYTES = 64 * 1024
MAX_INTERIM_ANSWERS = 20
MAX_ERROR_LENGTH = 200  # of what the server sent, in the server log
CLOSED = "the server closed the connection"
MAX_UNREAD_BYTES = 64 * 1024  # of an answer; then the server waits


class UpstreamConnectionError(Exception):
    """The error for a server that cannot be reached, or whose connection ends before its answer."""


@dataclass(frozen=True, slots=True)
class UpstreamEndpoint:
    """The endpoint of a server. `head` are the headers of every request: those of the gateway, with the credentials in
    its URL if there are any."""

    host: str
    port: int
    is_tls: bool
    target: bytes
    head: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, target: str, headers: Mapping[str, str], fixed: Mapping[str, str]) -> UpstreamEndpoint:
        """Return the endpoint of a URL. The `fixed` headers replace others of the same name."""
        url = httpx2.URL(target)
        given = {name.lower(): value for name, value in headers.items()}
        if url.userinfo and "authorization" not in given:
            secret = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
            given["authorization"] = f"Basic {secret}"
        names = {"user-agent": "policyengine", **given, **fixed, "host": url.netloc.decode()}
        head = tuple((name.encode(), value.encode()) for name, value in names.items())
        is_tls = url.scheme == "https"
        return cls(url.raw_host.decode(), url.port or (443 if is_tls else 80), is_tls, url.raw_path, head)


class AnswerHead(NamedTuple):
    status: int
    headers: Headers

    def value(self, name: bytes) -> bytes | None:
        """Return the first header of a name in lower case."""
        return next((value for key, value in self.headers if key == name), None)


class UpstreamConnection(asyncio.Protocol):
    """One connection. The server may send ahead of what is read, up to a limit."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unread = 0
        self._is_paused = self._is_ended = self._is_end_parsed = False
        self._finishing: UpstreamConnections | None = None
        self.expects_end = False
        self.expires = 0.0

    # ── Events of the connection ──────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own class

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        self._parser.receive_data(data)
        if self._unread > MAX_UNREAD_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._is_ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self._finishing is not None:
            self._finishing.finish(self)

    # ── One exchange ──────────────────────────────────────────────────────────────────────────

    @property
    def is_idle(self) -> bool:
        """Whether another request can be sent: the server has neither ended the connection nor sent anything."""
        return not self._is_ended and not self._unread

    @property
    def is_sent(self) -> bool:
        """Whether the request has left the process."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

    async def request(self, method: bytes, target: bytes, headers: Headers, body: bytes = b"") -> AnswerHead:
        """Send a request, and return the head of its answer. Raises UpstreamConnectionError."""
        self.send(method, target, headers, body)
        for _ in range(MAX_INTERIM_ANSWERS):
            event = await self._next_event()
            if type(event) is h11.Response:
                return AnswerHead(event.status_code, list(event.headers))
            if type(event) is not h11.InformationalResponse:
                raise UpstreamConnectionError(CLOSED)
        raise UpstreamConnectionError("the server sends interim answers only")

    def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> None:
        assert self._transport is not None
        send = self._parser.send
        try:
            parts = [send(h11.Request(method=method, target=target, headers=headers))]
            if body:
                parts.append(send(h11.Data(data=body)))
            parts.append(send(h11.EndOfMessage()))
        except h11.LocalProtocolError as error:
            raise UpstreamConnectionError(str(error)) from None
        self._transport.write(b"".join(part for part in parts if part))

    async def receive(self) -> bytes:
        """Return the next part of the body; it is empty at the end. Raises UpstreamConnectionError."""
        while True:
            event = await self._next_event()
            if type(event) is h11.Data:
                if event.data:
                    return bytes(event.data)
            elif type(event) is h11.EndOfMessage:
                return b""
            else:
                raise UpstreamConnectionError(CLOSED)

    async def _next_event(self) -> object:
        while True:
            event = self._parse()
            if event is not h11.NEED_DATA:
                return event
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _parse(self) -> object:
        """Return the next event, or NEED_DATA. Raises UpstreamConnectionError."""
        try:
            event = self._parser.next_event()
            if event is h11.NEED_DATA and self._is_ended and not self._is_end_parsed:
                self._is_end_parsed = True
                self._parser.receive_data(b"")
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise UpstreamConnectionError(CLOSED if self._is_end_parsed else str(error)[:MAX_ERROR_LENGTH]) from None
        if event is h11.NEED_DATA:
            self._go_on_reading()
        return event

    def _go_on_reading(self) -> None:
        self._unread = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    # ── Between two exchanges ─────────────────────────────────────────────────────────────────

    def finish_exchange(self) -> bool:
        """Return whether the answer was read to its end, so that another request can be sent."""
        parser = self._parser
        if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE or self._is_ended:
            return False
        if parser.trailing_data[0]:  # it answers no request
            return False
        parser.start_next_cycle()
        self._go_on_reading()
        return True

    def expect_end(self) -> None:
        """Record that the answer has arrived on a stream, which has to end now."""
        self.expects_end = True

    def is_at_end(self) -> bool:
        """Return whether the answer has ended. Raises UpstreamConnectionError if anything other than its end has
        arrived."""
        while self._parser.their_state is h11.SEND_BODY:
            event = self._parse()
            if event is h11.NEED_DATA:
                return False
            if type(event) is not h11.EndOfMessage:
                raise UpstreamConnectionError("the server sends more than its answer")
        return True

    def tell_end(self, connections: UpstreamConnections | None) -> None:
        """Let these connections finish the exchange when more data arrives; None means that no connections do so any
        longer."""
        self._finishing = connections
        self.expects_end = connections is not None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class UpstreamConnections:
    """Connections to an endpoint. If all are in use, another connection is opened; if `most` is set and as many
    connections are in use, an exchange waits."""

    def __init__(self, endpoint: UpstreamEndpoint, most: int | None = None) -> None:
        self._endpoint, self._most = endpoint, most
        self._places = None if most is None else asyncio.Semaphore(most)
        self._idle: list[UpstreamConnection] = []
        self._finishing: dict[UpstreamConnection, asyncio.TimerHandle] = {}
        self._is_closed = False

    async def take(self) -> UpstreamConnection:
        """Return a connection for one exchange. Raises UpstreamConnectionError."""
        await self._take_place()
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle and connection.expires > now:
                return connection
            connection.abort()
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                return await connect(self._endpoint)
        except BaseException as error:
            self._leave_place()
            if isinstance(error, TimeoutError):
                raise UpstreamConnectionError(f"no connection within {CONNECT_SECONDS:g} seconds") from None
            if isinstance(error, OSError | UnicodeError):
                raise UpstreamConnectionError(str(error) or type(error).__name__) from None
            raise

    async def _take_place(self) -> None:
        if self._places is not None:
            try:
                with anyio.fail_after(CONNECT_SECONDS):
                    await self._places.acquire()
            except TimeoutError:
                raise UpstreamConnectionError(f"all {self._most} connections are in use") from None

    def _leave_place(self) -> None:
        if self._places is not None:
            self._places.release()

    def give_back(self, connection: UpstreamConnection) -> None:
        """End an exchange. The connection is used again if the answer was read, or if only the end of the answer is
        missing and arrives now. It ends otherwise."""
        if connection.expects_end:
            timer = asyncio.get_running_loop().call_later(FINISH_SECONDS, self._drop, connection)
            self._finishing[connection] = timer
            connection.tell_end(self)
            return self.finish(connection)
        self._leave_place()
        if not connection.finish_exchange() or self._is_closed:
            return connection.abort()
        now = asyncio.get_running_loop().time()
        connection.expires = now + IDLE_SECONDS
        while self._idle and (len(self._idle) >= MAX_IDLE or self._idle[0].expires <= now):
            self._idle.pop(0).abort()
        self._idle.append(connection)

    def finish(self, connection: UpstreamConnection) -> None:
        """Give a connection back for good if its answer has ended, or if something else has arrived."""
        try:
            if not connection.is_at_end():
                return
        except UpstreamConnectionError:
            return self._drop(connection)
        self._finishing.pop(connection).cancel()
        connection.tell_end(None)
        self.give_back(connection)

    def _drop(self, connection: UpstreamConnection) -> None:
        self._finishing.pop(connection).cancel()
        connection.tell_end(None)
        self._leave_place()
        connection.abort()

    def close(self) -> None:
        """End the connections that are not in use; the others end when they are given back."""
        self._is_closed = True
        for connection in list(self._finishing):
            self._drop(connection)
        while self._idle:
            self._idle.pop().abort()


async def connect(endpoint: UpstreamEndpoint) -> UpstreamConnection:
    """Open a connection to the first address that answers. Raises OSError and TimeoutError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    opened = await open_socket([(family, address) for family, _, _, _, address in found])
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = tls_context() if endpoint.is_tls else None
        name = endpoint.host if endpoint.is_tls else None
        _, connection = await loop.create_connection(UpstreamConnection, sock=opened, ssl=tls, server_hostname=name)
    except BaseException:
        opened.close()
        raise
    return connection


async def open_socket(addresses: Sequence[tuple[int, tuple[object, ...]]]) -> socket.socket:
    """Connect to the first address that answers; an address after which there is another has little time."""
    loop = asyncio.get_running_loop()
    for number, (family, address) in enumerate(addresses, 1):
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            with anyio.fail_after(ADDRESS_SECONDS if number < len(addresses) else None):
                await loop.sock_connect(opened, address)
            return opened
        except BaseException as error:
            opened.close()
            if number == len(addresses) or not isinstance(error, OSError):
                raise
    raise OSError("the host has no address")


@cache
def tls_context() -> ssl.SSLContext:
    context = httpx2.create_ssl_context(trust_env=False)
    context.set_alpn_protocols(["http/1.1"])
    return context
