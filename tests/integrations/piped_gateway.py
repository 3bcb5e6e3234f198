"""The gateway between four pipes. The test holds the other ends: it is the client and the server behind the gateway."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from policyengine.engine import Engine
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.gateway import McpGateway
from policyengine.integrations.mcp.pinned_tools import ToolPins
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter, open_pipes
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream_protocols import UpstreamProtocol
from policyengine.reload.integration_engine import LiveEngine
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import Request
from tests.integrations.conftest import BOT
from tests.integrations.era_servers import HELLO, MODERN, envelope


@dataclass
class Held:
    current: Engine


class CountedEngine(LiveEngine):
    """An engine that counts how it is asked: `direct` where the line arrived, `asked` in a task."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(Held(engine))  # type: ignore[arg-type]
        self.direct = self.asked = 0
        self.reports: list[int | None] = []
        self.broken: Exception | None = None

    def decide_directly(self, question: Facts | Request, size: int) -> Decision | None:
        if self.broken is not None:
            raise self.broken
        decision = super().decide_directly(question, size)
        self.direct += decision is not None
        return decision

    async def decide_async(self, question: Facts) -> Decision:
        self.asked += 1
        return await super().decide_async(question)

    def report(self, decision: str, *, status: int | None = None, **more: Any) -> bool:
        self.reports.append(status)
        return super().report(decision, status=status, **more)


@dataclass
class PipeEnd:
    """One end of two pipes: whole lines, as they are."""

    stream: Any
    sink: Any
    rest: bytes = b""

    async def send(self, *lines: Any) -> None:
        self.sink.write(
            b"".join(
                (one if isinstance(one, bytes) else json.dumps(one, ensure_ascii=False).encode()) + b"\n"
                for one in lines
            )
        )
        await self.sink.drain()

    async def receive(self) -> Any:
        while b"\n" not in self.rest:
            chunk = await self.stream.read(1 << 16)
            assert chunk, "the pipe was closed"
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)


@asynccontextmanager
async def pipe_pair() -> AsyncIterator[tuple[tuple[Any, Any], PipeEnd]]:
    """Open two pipes, one in each direction: the end of the gateway, and that of the test."""
    (first_in, first_out), (second_in, second_out) = os.pipe(), os.pipe()
    async with AsyncExitStack() as stack:
        pairs = []
        for source, sink in ((first_in, second_out), (second_in, first_out)):
            files = os.fdopen(source, "rb", 0), os.fdopen(sink, "wb", 0)
            pairs.append(await stack.enter_async_context(open_pipes(*files)))
        yield pairs[0], PipeEnd(*pairs[1])


@dataclass
class PipedServer:
    """The server behind the gateway: `end` is the end of the test, once the gateway has connected."""

    limit: float = 20.0
    is_url: bool = False
    protocol: UpstreamProtocol = UpstreamProtocol.AUTO
    max_sessions: int = 100
    end: Any = None
    connected: anyio.Event = field(default_factory=anyio.Event)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[LineReader, LineWriter]]:
        async with pipe_pair() as ((stream, sink), self.end):
            self.connected.set()
            yield LineReader(stream, 1 << 20), LineWriter(sink)


@dataclass
class PipedSession:
    """The two ends that the test holds, in one era, after the first call."""

    client: PipeEnd
    server: PipeEnd
    engine: CountedEngine
    is_modern: bool
    tools: list[dict[str, Any]] = field(default_factory=list)
    listed: int = 0

    async def asked(self) -> Any:
        """Return the next message to the server; the lists that the gateway wants for itself are answered."""
        while True:
            asked = await self.server.receive()
            if asked.get("method") != "tools/list":
                return asked
            self.listed += 1
            await self.answer(asked, {"tools": self.tools})

    def call(self, id: Any, name: str = "add", arguments: Any = None, **params: Any) -> dict[str, Any]:
        """Return a call as clients of this era send it."""
        meta = {"_meta": envelope()} if self.is_modern else {}
        members = {"name": name, "arguments": {"a": 1} if arguments is None else arguments, **meta, **params}
        return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": members}

    async def answer(self, asked: Any, result: Any = None) -> None:
        found = {"content": [{"type": "text", "text": "done"}]} if result is None else result
        await self.server.send({"jsonrpc": "2.0", "id": asked["id"], "result": found})

    async def exchange(self, call: Any, result: Any = None) -> Any:
        """Make a call that the server answers; return what the client gets."""
        await self.client.send(call)
        await self.answer(await self.asked(), result)
        return await self.client.receive()

    async def settle(self) -> None:
        """Make a usual call, so that everything before it was handled, and count anew."""
        assert (await self.exchange(self.call("settle")))["id"] == "settle"
        self.engine.direct = self.engine.asked = 0
        self.engine.reports.clear()


@asynccontextmanager
async def piped_session(
    engine: Engine,
    era: str,
    limit: float = 20.0,
    wait: float = 0.0,
    pins: ToolPins | None = None,
    tools: Sequence[dict[str, Any]] = (),
) -> AsyncIterator[PipedSession]:
    """Begin a session of a client and a server of one era."""
    counted, behind = CountedEngine(engine), PipedServer(limit)
    confirms = ConfirmHandler(counted, ConfirmOptions(wait))
    gateway = McpGateway(counted, "billing", always(BOT), behind, confirms, pins=pins)  # type: ignore[arg-type]
    with anyio.fail_after(60):
        async with pipe_pair() as ((stream, sink), client), anyio.create_task_group() as group:
            ended = anyio.Event()

            async def serve() -> None:
                await gateway.session(LineReader(stream, 1 << 20, keeps_lines=True), LineWriter(sink))
                ended.set()

            group.start_soon(serve)
            is_modern = era == "modern"
            if not is_modern:
                await client.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
                await behind.connected.wait()
                session = PipedSession(client, behind.end, counted, is_modern, list(tools))
                hello = await session.server.receive()
                await session.answer(hello, {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}})
                await client.receive()
            else:
                first = {"jsonrpc": "2.0", "id": 0, "method": "server/discover", "params": {"_meta": envelope()}}
                await client.send(first)
                await behind.connected.wait()
                session = PipedSession(client, behind.end, counted, is_modern, list(tools))
                asked = await session.server.receive()
                await session.answer(asked, {"supportedVersions": [MODERN], "capabilities": {}})
                await client.receive()
            for number in range(2):
                await session.exchange(session.call(f"first {number}"))
            await session.settle()
            try:
                yield session
            finally:
                client.sink.close()
                await ended.wait()
                group.cancel_scope.cancel()
