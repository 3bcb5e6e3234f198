"""A second floor of `doors`: a bare protocol on httptools that decodes the same body and sends as many bytes as our
server. It checks nothing: no bounds, no time limits, no pipelining.

ANSWER=… SHAPE=… python -m bench.serving.bare_http PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools

from bench.serving.floor import ANSWER, decode

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 28 Nov 2026 00:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"cache-control: no-store\r\nx-content-type-options: nosniff\r\ncontent-length: %d\r\n\r\n%b"
)


class BareProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's transport is not a subclass
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.body:
            decode(self.body)
        self.transport.write(HEAD % (len(ANSWER), ANSWER))
        self.body, self.headers = b"", []


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(BareProtocol, "127.0.0.1", port)
    await server.serve_forever()


def main(port: str) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(int(port)))
    else:
        uvloop.run(serve(int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
