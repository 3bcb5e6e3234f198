"""The floor of `socket`: frames on a Unix socket, decoded into types and answered with as many bytes as our server
sends.

python -m bench.serving.socket_floor PATH ONE MANY      where ONE and MANY are files with the answers to send
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from struct import Struct as Layout
from typing import cast

import msgspec

from bench.serving.shape import QuestionShape

HEADER = Layout(">I")
decode = msgspec.msgpack.Decoder(tuple[int, str, QuestionShape | list[QuestionShape]]).decode
encode = msgspec.msgpack.Encoder().encode


class FloorProtocol(asyncio.Protocol):
    """The floor as a protocol; `one` and `many` are the encoded answers."""

    def __init__(self, one: bytes, many: bytes) -> None:
        self.one, self.many = msgspec.Raw(one), msgspec.Raw(many)
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        at, answers = 0, []
        while len(data) >= at + HEADER.size:
            start = at + HEADER.size
            end = start + HEADER.unpack_from(data, at)[0]
            if len(data) < end:
                break
            number, _, asked = decode(data[start:end])
            answer = encode((number, 200, self.many if isinstance(asked, list) else self.one))
            answers.append(HEADER.pack(len(answer)) + answer)
            at = end
        self.rest = data[at:]
        if answers:
            self.transport.write(b"".join(answers))


async def serve(path: str, one: bytes, many: bytes) -> None:
    server = await asyncio.get_running_loop().create_unix_server(lambda: FloorProtocol(one, many), path)
    await server.serve_forever()


def main(path: str, one: str, many: str) -> None:
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    run(serve(path, Path(one).read_bytes(), Path(many).read_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
