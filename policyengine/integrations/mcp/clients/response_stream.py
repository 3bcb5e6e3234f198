"""The answer to one POST of an MCP client: one JSON message, or an event stream (SSE) if other messages come before."""

from __future__ import annotations

import logging
from typing import TypeAlias

import anyio
from starlette.types import Send

HeaderLines: TypeAlias = tuple[tuple[bytes, bytes], ...]
KEEP_ALIVE_SECONDS = 15.0  # of silence, after which an event stream sends a comment
JSON_TYPE = (b"content-type", b"application/json")
EVENT_STREAM: HeaderLines = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
# Some clients end lines of an event stream where Python's `splitlines` does. JSON has these characters in strings only.
LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
_LOG = logging.getLogger("policyengine")


class ResponseStream:
    """The answer to one POST. If a message is sent before the last one, the answer becomes an event stream with status
    200; until then, its status is not decided. `headers` are sent in both forms."""

    def __init__(self, send: Send, headers: HeaderLines = ()) -> None:
        self._send, self.headers = send, headers
        self._lock = anyio.Lock(fast_acquire=True)
        self._is_stream = False
        self.is_finished = False
        self._silent = 0  # ticks

    async def write(self, message: bytes) -> None:
        """Send a message before the last one."""
        await self._write(format_event(message))

    def tick(self) -> bool:
        """Count a tick of a clock. Return whether the answer was silent since the tick before, so that the client needs
        a comment: proxies and clients give up silent connections."""
        self._silent += 1
        return self._silent > 1 and not self.is_finished and not self._lock.locked()

    async def keep_alive(self) -> None:
        """Send a comment."""
        await self._write(b":\r\n\r\n")

    async def open(self) -> None:
        """Begin the event stream before there is a message."""
        await self._write(b"")

    async def _write(self, content: bytes) -> None:
        """Send a part of the event stream. If it cannot be sent, the answer has ended: the senders of messages work for
        other requests, too, and get no error."""
        async with self._lock:
            if self.is_finished:
                return
            self._silent = 0
            try:
                if not self._is_stream:
                    await self._start(200, (*EVENT_STREAM, *self.headers))
                    self._is_stream = True
                if content:
                    await self._send({"type": "http.response.body", "body": content, "more_body": True})
            except Exception as error:
                self.is_finished = True
                _LOG.debug("a message could not be sent to its client: %r", error)

    async def finish(self, message: bytes, status: int = 200) -> None:
        """Send the last message. `status` is sent only if this is the only message. As in `write`, no error is raised
        for a client that has left: the request was answered."""
        async with self._lock:
            if self.is_finished:
                return
            try:
                await self._send_last(message, status)
            except Exception as error:
                self.is_finished = True
                _LOG.debug("an answer could not be sent to its client: %r", error)

    async def _send_last(self, message: bytes, status: int) -> None:
        if self._is_stream:
            await self._send({"type": "http.response.body", "body": format_event(message)})
            self.is_finished = True
        else:
            await self._start(status, (JSON_TYPE, (b"content-length", b"%d" % len(message)), *self.headers))
            self.is_finished = True
            await self._send({"type": "http.response.body", "body": message})

    async def close(self) -> None:
        """End an event stream without a last message."""
        async with self._lock:
            if self._is_stream and not self.is_finished:
                self.is_finished = True
                await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: HeaderLines) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})


def format_event(message: bytes) -> bytes:
    for end, escaped in LINE_ENDS:
        if end in message:
            message = message.replace(end, escaped)
    return b"event: message\r\ndata: " + message + b"\r\n\r\n"
