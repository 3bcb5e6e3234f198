"""Reads an event stream (SSE) of an upstream server, within a limit that comments count towards, too."""

from __future__ import annotations

from collections.abc import Iterator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_EVENT_ID_BYTES = 4096
MAX_RETRY_DIGITS = 9


class EventStreamError(Exception):
    """The error for a stream that is too large. The message is for the client."""


class EventParser:
    """Splits the parts of a stream into events. `limit` is the maximum number of bytes of the whole stream or, if it is
    endless, of the part between two events. `last_id` is the ID of the last event that has one, from which the stream
    can be resumed; `retry` is the number of seconds after which the server wants the stream to be resumed. `count` is
    the number of events."""

    def __init__(self, limit: int, *, is_endless: bool = False) -> None:
        self._limit, self._is_endless = limit, is_endless
        self._size = self.count = 0
        self.last_id = b""
        self.retry: float | None = None
        self.begin()

    def begin(self) -> None:
        """Begin with another connection, on which the server resumes the stream."""
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._kind, self._id = b"message", self.last_id
        self._is_first, self._is_after_return = True, False

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Yield the data of each message event that ends with this part. Raises EventStreamError."""
        self._size += len(part)
        if self._size > self._limit:
            raise EventStreamError("the upstream server sends too much")
        for line in self._split(part):
            if line:
                self._take(line)
                continue
            self.last_id = self._id
            self.count += 1
            data, kind = self._data, self._kind
            self._data, self._kind = [], b"message"
            if data and kind == b"message":
                if self._is_endless:
                    self._size = 0
                if content := b"\n".join(data):
                    yield content

    def _split(self, part: bytes) -> list[bytes]:
        """Return the lines that end with this part; lines end with CR, LF or both."""
        if self._is_after_return and part:
            part = part.removeprefix(b"\n")
            self._is_after_return = False
        if b"\r" in part:
            self._is_after_return = part.endswith(b"\r")
            part = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = part.split(b"\n")
        rest = lines.pop()
        if lines and self._rest:
            self._rest += lines[0]
            lines[0] = bytes(self._rest)
            self._rest = bytearray()
        self._rest += rest
        if lines and self._is_first:
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
            self._is_first = False
        return lines

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._kind = value or b"message"
            case b"id" if len(value) <= MAX_EVENT_ID_BYTES and b"\0" not in value:
                self._id = value
            case b"retry" if value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
                self.retry = int(value) / 1000
