"""HTTP/1.1 with llhttp: faster than uvicorn's protocol, and without three of its gaps.

llhttp refuses every request whose end two servers could find at different places. It does not limit the size of a head
or a trailer; uvicorn treats trailers as headers; and httptools reads no body after `Upgrade`, so the body would become
the next request. It is faster because uvicorn creates a task for each request, whereas a simple question that has
arrived completely is answered here without one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from policyengine.server.connections.connection_table import CloseReason, ConnectionStage, ConnectionTable
from policyengine.server.connections.h11_protocol import H11Connection
from policyengine.server.connections.http_connection import NO_ROOM_DETAIL, HttpConnection, busy_response
from policyengine.server.content_negotiation import MAX_BODY_BYTES

MAX_HEAD_BYTES = 64 * 1024
FIELD_OVERHEAD_BYTES = 4  # bytes of a header line in addition to its name and value
VERSIONS = ("1.1", "1.0")
MAX_PIPELINED_REQUESTS = 128  # maximum number of requests that wait for earlier answers
PROBES = (b"/healthz", b"/readyz")  # paths that connections beyond the bound may ask for
OK = b"HTTP/1.1 200 OK\r\n"
ABSOLUTE = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*://(?P<authority>[^/?]*)")


class PipelineFlow(FlowControl):
    """Stops reading while pipelined requests wait for earlier answers, which bounds their number."""

    def __init__(self, transport: asyncio.Transport, pipeline: Any) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class Http1Protocol(HttpConnection, HttpToolsProtocol):
    """A connection parsed by llhttp. `quiet` counts the bytes since the last complete head, piece of a body, or
    message.

    `begun` is the exchange whose body has not arrived. `unwanted` counts the bytes of a body that arrived after its
    answer. `last`: no later request is handled; `passing`: this one is not handled; `closing`: nothing more is read.
    """

    app: Any
    quiet = 0
    large = False  # whether the received bytes may contain a head beyond the bound
    begun: tuple[RequestResponseCycle, Any] | None = None
    hosts = 0
    unwanted = 0
    in_body = False
    starting = False
    upgrading = False
    passing = False
    closing = False
    last = False

    def __init__(self, table: ConnectionTable, **given: Any) -> None:
        super().__init__(table, **given)
        self.now: Callable[[Scope, bytes], tuple[bytes, bytes] | None] | None = getattr(self.app, "now", None)

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
        self.start_task()
        if self.held:
            self.account()

    def refuse(self) -> None:
        """Refuse bytes that cannot be parsed, and everything after them."""
        self.closing = True
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
        if self.waits_for_answer:
            return ConnectionStage.BUSY
        return ConnectionStage.HEAD if self.quiet or self.cycle is None else ConnectionStage.IDLE

    def linger(self) -> None:
        self.closing = self.passing = True
        super().linger()

    # ── Requests ──────────────────────────────────────────────────────────────────────────────

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header. Trailers are dropped. Raises ValueError, which refuses the request."""
        if self.in_body:
            return
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or self.parser.get_http_version() == "1.0"):
            raise ValueError("the transfer coding of the body is not supported")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise ValueError("this HTTP version is not supported")
        if self.hosts != 1 and (self.hosts or version != "1.0"):
            raise ValueError("exactly one Host is required")
        if self.large and self.head_size() > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")
        if b"#" in self.url:  # httptools would drop the rest, although a gateway may have asked for all of it
            raise ValueError("a request line cannot have a fragment")
        if not self.url.startswith(b"/"):
            self.take_authority()
        self.quiet = self.hosts = self.unwanted = 0
        self.in_body = True
        if self.spare and self.unproved and self.url not in PROBES:
            self.last = True
            self.transport.write(busy_response(b"too many connections are open"))
            self.end()
        self.passing = self.last or self.closing
        self.upgrading = self.parser.should_upgrade()
        if not self.upgrading and not self.passing:
            self.starting = True
            super().on_headers_complete()
            self.starting = False
            if self.table.draining or self.spare:
                self.cycle.keep_alive = False
            if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
                self.last, self.cycle.keep_alive = True, False

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
        if not self.cycle.response_complete:
            self.held += len(body)
            super().on_body(body)
            return
        self.unwanted += len(body)
        if self.unwanted > MAX_BODY_BYTES:
            self.end()

    def on_message_complete(self) -> None:
        self.quiet = 0
        self.in_body = False
        if self.unproved:
            self.unproved = False
            self.table.prove(self)
        if not self.upgrading and not self.passing:
            super().on_message_complete()
            self.answer_now()
            self.start_task()

    # ── Answers ───────────────────────────────────────────────────────────────────────────────

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start the exchange only once its body has arrived or is late; uvicorn calls this method after the head."""
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
        """Refuse a request for which there is no memory."""
        self.closing = self.passing = True
        self.held = 0
        if not self.wire.is_closing():
            self.table.count(CloseReason.MEMORY, self.address)
            self.wire.write(busy_response(NO_ROOM_DETAIL))
            self.wire.close()

    def answer_now(self) -> None:
        """Answer the exchange without a task if it waits for nothing; otherwise leave it to a task."""
        cycle = self.cycle
        if self.begun is None or self.now is None or self.flow.write_paused or cycle.waiting_for_100_continue:
            return
        answer = self.now(cast(Scope, cycle.scope), bytes(cycle.body))
        if answer is None:
            return
        self.begun = None
        cycle.response_started = cycle.response_complete = True
        # As uvicorn does, but in one write: one system call instead of two.
        dated = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"%b%b%b%b%b" % (OK, dated, answer[0], end, answer[1]))
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

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
        if self.waits_for_answer:
            # This request would be answered before earlier ones. So only those are answered, and the connection closes.
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
