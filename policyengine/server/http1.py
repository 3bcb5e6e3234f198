"""HTTP/1.1 on llhttp: quicker than uvicorn has it, and with what is left open there shut.

llhttp refuses every request whose end two servers could see at different places. What it does not bound is how long a
head or a trailer may become; uvicorn takes trailers for headers; and httptools reads no body after `Upgrade`, so that
the body would be the next request. Quicker: uvicorn makes a task for each request, and an ordinary question that has
arrived as a whole is answered before one would have begun.
"""

from __future__ import annotations

import re
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from policyengine.server.app import DecisionApp

LARGEST_HEAD = 64 * 1024
OK = b"HTTP/1.1 200 OK\r\n"
ABSOLUTE = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*://(?P<authority>[^/?]*)")


class Http1Protocol(HttpToolsProtocol):
    """One connection. `quiet` counts the bytes since a head, a piece of a body or a message was complete.

    `begun` is the exchange whose body is still to come.
    """

    app: DecisionApp
    quiet = 0
    begun: tuple[RequestResponseCycle, Any] | None = None
    hosts = 0
    in_body = False
    starting = False
    upgrading = False
    closing = False
    heard = False  # since somebody looked

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self._unset_keepalive_if_required()
        self.heard = True
        self.quiet += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self.go_on_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self.refuse()
        else:
            if self.quiet > LARGEST_HEAD:
                self.refuse()
        self.start_task()

    def refuse(self) -> None:
        self.closing = True
        self.logger.warning("Invalid HTTP request received.")
        self.send_400_response("Invalid HTTP request received.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises ValueError, which refuses the request. A trailer means nothing here, and is not kept."""
        if self.in_body:
            return
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise ValueError("the body is coded in a way that nobody decodes here")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.hosts != 1 and (self.hosts or self.parser.get_http_version() != "1.0"):
            raise ValueError("one Host is needed")
        if b"#" in self.url:  # httptools would drop the rest, and a gateway may have asked for all of it
            raise ValueError("no request line has a fragment")
        if not self.url.startswith(b"/"):
            self.take_authority()
        self.quiet = self.hosts = 0
        self.in_body = True
        self.upgrading = self.parser.should_upgrade()
        if not self.upgrading:
            self.starting = True
            super().on_headers_complete()
            self.starting = False
            if self.app.drain.begun is not None:
                self.cycle.keep_alive = False

    def take_authority(self) -> None:
        """Who asks in absolute form names the host there, and what `Host` says means nothing (RFC 9112, 3.2.2)."""
        found = ABSOLUTE.match(self.url)
        if found is not None:
            self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
            self.headers.append((b"host", found["authority"]))

    def on_body(self, body: bytes) -> None:
        self.quiet = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.quiet = 0
        self.in_body = False
        if not self.upgrading:
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
        if self.begun is not None:
            super()._start_asgi_task(*self.begun)
            self.begun = None

    def answer_now(self) -> None:
        """Answer what was begun if that needs nobody else, and leave it begun if it does."""
        cycle = self.cycle
        if self.begun is None or self.flow.write_paused or cycle.waiting_for_100_continue:
            return
        answer = self.app.now(cast(Scope, cycle.scope), bytes(cycle.body))
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

    # ── Upgrades ──────────────────────────────────────────────────────────────────────────────

    def go_on_without_upgrade(self, rest: bytes) -> None:
        """Some clients offer another protocol with every request. The other parser reads on, with no offer in sight."""
        if bool(self.cycle) and not self.cycle.response_complete:
            # It would be answered before what came first: that is answered, and the connection ends.
            self.closing = True
            self.cycle.keep_alive = False
            return
        self.connections.discard(self)
        protocol = H11Protocol(self.config, self.server_state, self.app_state, _loop=self.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(self.head_without_upgrade() + rest)

    def head_without_upgrade(self) -> bytes:
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
