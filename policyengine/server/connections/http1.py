"""HTTP/1.1 with llhttp: faster than uvicorn's protocol, and without three of its gaps.

llhttp refuses every request whose end two servers could find at different places. It does not limit the size of a head
or a trailer; uvicorn treats trailers as headers; and httptools reads no body after `Upgrade`, so the body would become
the next request. This module closes these gaps.

The protocol is faster because uvicorn creates an exchange and a task for each request, whereas a simple request that
has arrived completely is answered here without them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from policyengine.server.connections.connection_table import CloseReason, ConnectionStage, ConnectionTable
from policyengine.server.connections.h11_protocol import H11Connection
from policyengine.server.connections.http_connection import NO_ROOM_DETAIL, HttpConnection, busy_response
from policyengine.server.content_negotiation import MAX_BODY_BYTES

MAX_HEAD_BYTES = 64 * 1024
FIELD_OVERHEAD_BYTES = 4  # bytes that a header line has in addition to its name and value
VERSIONS = ("1.1", "1.0")
MAX_PIPELINED_REQUESTS = 128  # maximum number of requests that wait for earlier answers
FRAMING_HEADERS = frozenset((b"host", b"transfer-encoding", b"expect"))
PROBES = (b"/healthz", b"/readyz")  # paths that connections beyond the bound may request
ABSOLUTE = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*://(?P<authority>[^/?]*)")


class HeldAnswer(Protocol):
    """An answer that waits for the end of the turn of the event loop."""

    def hold(self, connection: Http1Protocol, method: str, keeps: bool) -> None:
        """Call `send_held` of the connection at the end of this turn, or `fail_held` if there is no answer."""


# A function from method, URL, headers and body to the answer (status, header lines, content), to an answer that is sent
# later, or to scope entries for the application.
AnswerFunction: TypeAlias = Callable[
    [str, bytes, list[tuple[bytes, bytes]], bytes], tuple[int, bytes, bytes] | HeldAnswer | dict[str, Any]
]


class PipelineFlow(FlowControl):
    """Stops reading while pipelined requests wait for earlier answers, so that their number is bounded."""

    def __init__(self, transport: asyncio.Transport, pipeline: Any) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class Http1Protocol(HttpConnection, HttpToolsProtocol):
    """A connection parsed by llhttp.

    `quiet` counts the bytes since the last complete head, piece of a body, or message. `waiting` means that the head of
    a request has arrived; uvicorn's exchange is created only if the request cannot be answered without one; `content`
    is the body of the request so far. `begun` is an exchange that is created but not started. `unwanted` counts the
    bytes of a body that arrived after its answer. `unsent` counts the answers that are sent at the end of this turn of
    the event loop: `settle` sends them before anything else is sent. `last` means that no later request is handled,
    `passing` that the current request is not handled, and `closing` that nothing more is read.
    """

    app: Any
    quiet = 0
    large = False  # whether the received bytes may contain a head that is too long
    waiting = False
    content: bytes | bytearray = b""
    version = "1.1"
    begun: tuple[RequestResponseCycle, Any] | None = None
    hosts = 0
    unwanted = 0
    unsent = 0
    in_body = False
    starting = False
    upgrading = False
    passing = False
    closing = False
    last = False

    def __init__(self, table: ConnectionTable, **given: Any) -> None:
        super().__init__(table, **given)
        self.now: AnswerFunction | None = None if self.root_path else getattr(self.app, "now", None)
        self.flush: Callable[[], None] | None = getattr(self.app, "flush", None)
        self.dated = self.server_state.default_headers, b""  # the headers of every answer, and their lines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flow = PipelineFlow(self.wire, self.pipeline)

    def data_received(self, data: bytes) -> None:
        if self.closing:
            self.passed_over(data)
            return
        if not self.quiet and not self.in_body:
            self.began = self.table.now
        self.quiet += len(data)
        self.large = self.quiet > MAX_HEAD_BYTES
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            if self.passing:
                self.closing = True
            else:
                self.go_on_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self.refuse()
        else:
            if self.quiet > MAX_HEAD_BYTES:
                self.refuse()
        if self.waiting:
            self.create_exchange({})
        self.start_task()
        if self.held:
            self.account()

    def refuse(self) -> None:
        """Refuse bytes that cannot be parsed, and all bytes after them."""
        self.settle()
        self.closing, self.waiting = True, False
        self.logger.warning("Invalid HTTP request received.")
        if not self.in_body and self.waits_for_answer:
            self.cycle.keep_alive = False  # a 400 sent now would take the place of an earlier answer
            return
        self.in_body = True
        self.send_400_response("Invalid HTTP request received.")

    # ── Interface of the connection table ─────────────────────────────────────────────────────

    @property
    def receiving(self) -> bool:
        return self.in_body or bool(self.quiet)

    @property
    def waits_for_answer(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    @property
    def stage(self) -> ConnectionStage:
        if self.lingered is not None:
            return ConnectionStage.IDLE
        if self.flow.write_paused:
            return ConnectionStage.UNREAD
        if self.in_body and not self.pipeline and (not self.passing or not self.waits_for_answer):
            return ConnectionStage.BODY
        if self.waits_for_answer or self.unsent:
            return ConnectionStage.BUSY
        return ConnectionStage.HEAD if self.quiet or self.unproved else ConnectionStage.IDLE

    def eof_received(self) -> None:
        self.settle()  # the transport closes now
        super().eof_received()

    def linger(self) -> None:
        self.closing = self.passing = True
        super().linger()

    # ── Requests ──────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header. Trailers are dropped. Raises ValueError, which refuses the request."""
        if self.in_body:
            return
        name = name.lower()
        if name in FRAMING_HEADERS:
            self.read_framing(name, value)
        self.headers.append((name, value))

    def read_framing(self, name: bytes, value: bytes) -> None:
        """Read a header that determines the end of the request. Raises ValueError."""
        if name == b"host":
            self.hosts += 1
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or self.parser.get_http_version() == "1.0":
                raise ValueError("the transfer coding of the body is not supported")
        elif value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        version = self.version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise ValueError("this HTTP version is not supported")
        if self.hosts != 1 and (self.hosts or version != "1.0"):
            raise ValueError("exactly one Host is required")
        if self.large and self.head_size() > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")
        if b"#" in self.url:  # httptools would drop the rest, although a gateway may have sent all of it
            raise ValueError("a request line cannot have a fragment")
        if not self.url.startswith(b"/"):
            self.take_authority()
        self.quiet = self.hosts = self.unwanted = 0
        self.in_body = True
        if self.spare and self.unproved and self.url not in PROBES:
            self.settle()
            self.last = True
            self.transport.write(busy_response(b"too many connections are open"))
            self.end()
        self.passing = self.last or self.closing
        self.upgrading = self.parser.should_upgrade()
        if self.upgrading or self.passing:
            return
        self.content = b""
        self.waiting = self.now is not None and not self.expect_100_continue and not self.waits_for_answer
        if not self.waiting:
            self.create_exchange({})

    def create_exchange(self, entries: dict[str, Any]) -> None:
        """Create uvicorn's scope and exchange for the request whose head has arrived. `entries` go into the scope."""
        self.settle()
        self.waiting = False
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the list belongs to the new scope
        self.scope.update(entries)  # type: ignore[typeddict-item]  # keys of our own
        self.starting = True
        super().on_headers_complete()
        self.starting = False
        if self.table.draining or self.spare:
            self.cycle.keep_alive = False
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            self.last, self.cycle.keep_alive = True, False
        if self.content:
            self.held += len(self.content)
            super().on_body(bytes(self.content))

    def head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in self.headers)

    def take_authority(self) -> None:
        """Use the host of a URL in absolute form instead of `Host` (RFC 9112, 3.2.2)."""
        found = ABSOLUTE.match(self.url)
        if found is not None:
            self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
            self.headers.append((b"host", found["authority"]))

    def on_body(self, body: bytes) -> None:
        self.quiet = 0
        if self.passing:
            return
        if self.waiting:
            self.collect(body)
            return
        if not self.cycle.response_complete:
            self.held += len(body)
            super().on_body(body)
            return
        self.unwanted += len(body)
        if self.unwanted > MAX_BODY_BYTES:
            self.end()

    def collect(self, body: bytes) -> None:
        """Add a piece of the body. Most bodies have one piece; a body of many pieces is not copied with each piece."""
        if not self.content:
            self.content = body
            return
        if isinstance(self.content, bytes):
            self.content = bytearray(self.content)
        self.content += body

    def on_message_complete(self) -> None:
        self.quiet = 0
        self.in_body = False
        if self.unproved:
            self.unproved = False
            self.table.prove(self)
        if self.upgrading or self.passing or (self.waiting and self.answer_now()):
            return
        super().on_message_complete()
        self.start_task()

    # ── Answers ───────────────────────────────────────────────────────────────────────────────

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start the exchange only after all received bytes are parsed, because they may contain the body; uvicorn calls
        this method after the head.
        """
        if self.starting:
            self.begun = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def start_task(self) -> None:
        if self.begun is None:
            return
        if self.held and not self.account():
            self.turn_away()
        else:
            super()._start_asgi_task(*self.begun)
        self.begun = None

    def turn_away(self) -> None:
        """Answer 503 to a request for which there is no memory, and close the connection."""
        self.settle()
        self.closing = self.passing = True
        self.held = 0
        if not self.wire.is_closing():
            self.table.count(CloseReason.MEMORY, self.address)
            self.wire.write(busy_response(NO_ROOM_DETAIL))
            self.wire.close()

    def answer_now(self) -> bool:
        """Answer a request without an exchange, now or at the end of this turn of the event loop, and return True. If
        that is impossible, create an exchange and return False.
        """
        if self.flow.write_paused:
            self.create_exchange({})
            return False
        assert self.now is not None
        method = self.parser.get_method().decode("ascii")
        answer = self.now(method, self.url, self.headers, bytes(self.content))
        if isinstance(answer, dict):
            self.create_exchange(answer)
            return False
        self.waiting = False
        keeps = self.version != "1.0" and self.parser.should_keep_alive() and not self.table.draining and not self.spare
        if not keeps:
            self.last = True
        if isinstance(answer, tuple):
            self.settle()
            self.send_answer(method, keeps, answer)
        else:
            self.unsent += 1
            answer.hold(self, method, keeps)
        return True

    def send_held(self, method: str, keeps: bool, answer: tuple[int, bytes, bytes]) -> None:
        """Send an answer at the end of the turn of the event loop, unless the connection was closed meanwhile."""
        self.unsent -= 1
        if not self.wire.is_closing():
            self.send_answer(method, keeps, answer)

    def fail_held(self) -> None:
        """Abort the connection, because an answer that it waits for failed."""
        self.wire.abort()

    def send_answer(self, method: str, keeps: bool, answer: tuple[int, bytes, bytes]) -> None:
        status, lines, content = answer
        end = b"\r\n" if keeps else b"connection: close\r\n\r\n"
        # As uvicorn does, but in one write: one system call instead of two.
        head = b"%b%b%b%b" % (STATUS_LINE[status], self.dated_lines(), lines, end)
        self.transport.write(head if method == "HEAD" else head + content)
        self.server_state.total_requests += 1
        if not keeps:
            self.transport.close()

    def settle(self) -> None:
        """Send now the answers that wait for the end of this turn of the event loop."""
        if self.unsent and self.flush is not None:
            self.flush()

    def dated_lines(self) -> bytes:
        """Return the header lines of every answer, which uvicorn replaces once a second."""
        headers = self.server_state.default_headers
        if headers is not self.dated[0] or not self.dated[1]:
            self.dated = headers, b"".join([b"%b: %b\r\n" % header for header in headers])
        return self.dated[1]

    def on_response_complete(self) -> None:
        """Finish as uvicorn does, but without setting a timer."""
        self.server_state.total_requests += 1
        if not self.pipeline:
            self.held = 0
            if self.counted:
                self.account()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.flow.resume_reading()

    # ── Upgrades ──────────────────────────────────────────────────────────────────────────────

    def go_on_without_upgrade(self, rest: bytes) -> None:
        """Continue with the h11 parser and without the `Upgrade` header, which some clients send with every request."""
        self.settle()
        if self.waits_for_answer:
            # This request would be answered before earlier requests, so only the earlier requests are answered, and
            # the connection closes.
            self.closing = True
            self.cycle.keep_alive = False
            return
        self.table.leave(self)
        protocol = H11Connection(
            self.table, config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop
        )
        protocol.connection_made(self.wire)
        self.wire.set_protocol(protocol)
        protocol.data_received(self.head_without_upgrade() + rest)

    def head_without_upgrade(self) -> bytes:
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
