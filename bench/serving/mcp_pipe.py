"""MCP over stdio: a server that answers the same result for every tool call, and a relay that forwards lines.

python -m bench.serving.mcp_pipe answer
python -m bench.serving.mcp_pipe relay COMMAND …
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

from bench.serving.mcp_upstream import answer

LIMIT = 1 << 20


def answer_lines() -> None:
    for line in sys.stdin.buffer:
        _, content = answer("POST", line)
        if content:
            sys.stdout.buffer.write(content + b"\n")
            sys.stdout.buffer.flush()


async def relay_lines(command: list[str]) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    # A session of its own, as behind the gateway: on a busy machine, Linux schedules sessions and not processes.
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=LIMIT, start_new_session=True)
    assert child.stdin is not None
    assert child.stdout is not None
    back = asyncio.create_task(forward(child.stdout, writer))
    await forward(reader, child.stdin)
    child.stdin.close()
    await back
    await child.wait()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        answer_lines()
    else:
        asyncio.run(relay_lines(sys.argv[2:]))
