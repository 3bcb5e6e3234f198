"""A server over HTTP that answers byte by byte as a test says, in the event loop of the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

STREAM, PLAIN = "text/event-stream", "application/json"


@dataclass(eq=False)
class HeardRequest:
    """A request to the server, and the way to answer it. `connection` is the number of its connection."""

    connection: int
    method: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def id(self) -> Any:
        return self.message.get("id")

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int = 200, body: bytes = b"", kind: str = PLAIN, **headers: str) -> None:
        named = {"content-type": kind, "content-length": str(len(body)), **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        await self.write(
            "\r\n".join([f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *lines, "", ""]).encode() + body
        )

    async def answer_json(self, message: dict[str, Any], status: int = 200, **headers: str) -> None:
        await self.answer(status, json.dumps({"jsonrpc": "2.0", **message}).encode(), **headers)

    async def result(self, result: Any, **headers: str) -> None:
        await self.answer_json({"id": self.id, "result": result}, **headers)

    async def begin_stream(self, **headers: str) -> None:
        named = {"content-type": STREAM, "transfer-encoding": "chunked", **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
        await self.write("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode())

    async def event(self, message: dict[str, Any] | None = None, id: str = "", retry: int | None = None) -> None:
        text = "" if message is None else json.dumps({"jsonrpc": "2.0", **message})
        more = ([f"id: {id}"] if id else []) + ([f"retry: {retry}"] if retry is not None else [])
        await self.chunk("\n".join([*more, f"data: {text}", "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.write(b"0\r\n\r\n")

    async def hang_up(self) -> None:
        self.writer.close()

    async def is_left(self) -> None:
        """Wait until the client has closed the connection."""
        while not self.writer.transport.is_closing():
            await asyncio.sleep(0.001)


Script = Callable[[HeardRequest], Awaitable[None]]


@dataclass(eq=False)
class ScriptedHttp:
    """The server. `script` answers each request in a task of its own; `heard` are all requests."""

    script: Script
    heard: list[HeardRequest] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _open: dict[asyncio.StreamWriter, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def of(self, method: str) -> list[HeardRequest]:
        """Return the requests with an HTTP method, or those that carry a method of MCP."""
        if method.isupper():
            return [one for one in self.heard if one.method == method]
        return [one for one in self.of("POST") if one.message.get("method") == method]

    async def until(self, method: str, count: int = 1) -> HeardRequest:
        """Wait until so many requests have arrived, and return the last."""
        while len(found := self.of(method)) < count:
            await asyncio.sleep(0.001)
        return found[count - 1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._open[writer] = asyncio.current_task()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = [line.partition(": ") for line in head[1:] if line]
                headers = {name.lower(): value for name, _, value in pairs}
                assert len(headers) == len(pairs), "a header is repeated"
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = HeardRequest(number, head[0].split(" ")[0], headers, body, writer)
                self.heard.append(request)
                task = asyncio.ensure_future(self.script(request))
                self._tasks.add(task)
        writer.close()

    async def finish(self) -> None:
        """End the scripts, and raise what went wrong in them."""
        for task in self._tasks:
            if not task.done():
                task.cancel()
        for found in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(found, Exception) and not isinstance(found, ConnectionError):
                raise found
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._open.values(), return_exceptions=True)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedHttp]:
    behind = ScriptedHttp(script)
    server = await asyncio.start_server(behind.serve, "127.0.0.1", 0, limit=8 * 1024 * 1024)
    behind.port = server.sockets[0].getsockname()[1]
    try:
        yield behind
    finally:
        server.close()
        await behind.finish()
