"""Reads an event stream (SSE) of an upstream server, within a limit that comments count towards, too."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator


class EventStreamError(Exception):
    """The error for a stream that is too large. The message is for the client."""


async def read_event_data(parts: AsyncIterable[bytes], limit: int, *, is_endless: bool) -> AsyncIterator[bytes]:
    """Yield the data of each message event. `limit` is the number of bytes of the whole stream or, if it is endless, of
    what follows one event. Raises EventStreamError."""
    rest, size = b"", 0
    data: list[bytes] = []
    kind = b"message"
    async for part in parts:
        size += len(part)
        if size > limit:
            raise EventStreamError("the upstream server sends too much")
        lines = (rest + part).replace(b"\r\n", b"\n").split(b"\n")
        rest = lines.pop()
        for line in lines:
            if not line:
                if data and kind == b"message":
                    if is_endless:
                        size = 0
                    yield b"\n".join(data)
                data, kind = [], b"message"
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value or b"message"
