"""HTTP/1.1 on llhttp: quicker than uvicorn has it, and with what is left open there shut.

llhttp refuses every request whose end two servers could see at different places. What it does not bound is how long a
head or a trailer may become; uvicorn takes trailers for headers; and httptools reads no body after `Upgrade`, so that
the body would be the next request. Quicker: uvicorn makes a task for each request, and an ordinary question that has
arrived as a whole is answered before one would have begun.
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
FIELD_OVERHEAD_BYTES = 4  # bytes around a name and its value
VERSIONS = ("1.1", "1.0")
MAX_PIPELINED_REQUESTS = 128  # requests that wait for the answer before theirs
PROBES = (b"/healthz", b"/readyz")  # what connections beyond the bound may ask
OK = b"HTTP/1.1 200 OK\r\n"
ABSOLUTE = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*://(?P<authority>[^/?]*)")


class PipelineFlow(FlowControl):
    """Nothing more is read while requests wait for the answer before theirs: what waits is bounded."""

    def __init__(self, transport: asyncio.Transport, pipeline: Any) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class Http1Protocol(HttpConnection, HttpToolsProtocol):
    """One connection. `quiet` counts the bytes since a head, a piece of a body or a message was complete.

    `begun` is the exchange whose body is still to come. `unwanted` counts what came of a body after its answer. `last`
    says that no request behind this one is begun, `passing` that this one is not, `closing` that nothing more is read.
    """

    app: Any
    quiet = 0
    large = False  # whether what was read may hold a head beyond the bound
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
        """What cannot be read, and whatever comes behind it."""
        self.closing = True
        self.logger.warning("Invalid HTTP request received.")
        if not self.in_body and self.waits_for_answer:
            self.cycle.keep_alive = False  # it would be told so in the place of an answer to what came before
            return
        self.in_body = True
        self.send_400_response("Invalid HTTP request received.")

    # ── As the table sees it ──────────────────────────────────────────────────────────────────

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

    # ── A request ─────────────────────────────────────────────────────────────────────────────

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises ValueError, which refuses the request. A trailer means nothing here, and is not kept."""
        if self.in_body:
            return
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or self.parser.get_http_version() == "1.0"):
            raise ValueError("the body is coded in a way that nobody decodes here, or none of HTTP/1.0 is")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise ValueError("this is another version of HTTP")
        if self.hosts != 1 and (self.hosts or version != "1.0"):
            raise ValueError("one Host is needed")
        if self.large and self.head_size() > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")
        if b"#" in self.url:  # httptools would drop the rest, and a gateway may have asked for all of it
            raise ValueError("no request line has a fragment")
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
        """Who asks in absolute form names the host there, and what `Host` says means nothing (RFC 9112, 3.2.2)."""
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
        """Called by uvicorn when the head of a request is there: begun is not before its body is, or is late."""
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
        """What has come holds more bytes than there is room for, and is not begun."""
        self.closing = self.passing = True
        self.held = 0
        if not self.wire.is_closing():
            self.table.count(CloseReason.MEMORY, self.address)
            self.wire.write(busy_response(NO_ROOM_DETAIL))
            self.wire.close()

    def answer_now(self) -> None:
        """Answer what was begun if that needs nobody else, and leave it begun if it does."""
        cycle = self.cycle
        if self.begun is None or self.now is None or self.flow.write_paused or cycle.waiting_for_100_continue:
            return
        answer = self.now(cast(Scope, cycle.scope), bytes(cycle.body))
        if answer is None:
            return
        self.begun = None
        cycle.response_started = cycle.response_complete = True
        # As uvicorn writes it, but in one piece: one call into the system instead of two.
        dated = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"%b%b%b%b%b" % (OK, dated, answer[0], end, answer[1]))
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def on_response_complete(self) -> None:
        """As uvicorn does, but that no timer is set."""
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
        """Some clients offer another protocol with every request. The other parser reads on, with no offer in sight."""
        if self.waits_for_answer:
            # It would be answered before what came first: that is answered, and the connection ends.
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
