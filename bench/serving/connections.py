"""Effects of connections on each other: endless heads, a stop under traffic, shares of workers, large bodies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from time import monotonic, perf_counter

from bench.child import Data
from bench.report import Section
from bench.serving.servers import free_port
from policyengine.server.shutdown import SILENT_SECONDS

POLICY = "language 1\npackage shop\nanyone { may GET /health }\n"
MAX_OPEN_FILES = 128  # of the server, for endless heads
HEADS = 400  # connections with endless heads, at most
CLIENTS = 50
SHARED = 64  # connections that workers share
LARGE = 1_000_000  # bytes of a body
PATIENCE = 40.0  # seconds; a client whose attempts to connect are dropped tries again after 1, 3, 7, 15 and 31 seconds
PROGRAM = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2);" \
    "sys.argv[1:2] = []; from policyengine.cli import main; main()"  # fmt: skip
HEAD = "POST /decide HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
QUESTION = b'{"request": {"method": "GET", "path": "/health"}}'
ASK = HEAD.format(len(QUESTION)).encode() + QUESTION
Say = Callable[[str], None]


def run(say: Say) -> Section:
    found: list[Data] = []
    with tempfile.TemporaryDirectory() as name:
        policy = Path(name) / "shop.policy"
        policy.write_text(POLICY)
        say("connections: heads that never end")
        found.append({"what": "heads", **measure_unfinished_heads(policy)})
        for workers in (1, 2):
            say(f"connections: SIGTERM with {workers} workers")
            found.append({"what": "stop", "workers": workers, **asyncio.run(measure_stop(policy, workers))})
        for workers in (2, 4):
            say(f"connections: sharing by {workers} workers")
            found.append({"what": "shares", "workers": workers, **measure_worker_shares(policy, workers)})
        say("connections: large bodies")
        found.append({"what": "large", **asyncio.run(measure_large_bodies(policy))})
    return section(found)


def section(found: Sequence[Data]) -> Section:
    return Section(
        name="connections",
        title="Connections: effects on each other",
        columns=("what", "seen"),
        rows=tuple(row(one) for one in found),
        data=tuple(found),
        notes=("A refused connection is not a loss, because no question was sent; a reset or a missing answer is.",),
    )


def row(one: Data) -> tuple[str, str]:
    match one:
        case {"what": "heads", "shut_out_at": None}:
            return f"heads that never end, {MAX_OPEN_FILES} files", f"{HEADS} shut no client out"
        case {"what": "heads", "shut_out_at": many}:
            return f"heads that never end, {MAX_OPEN_FILES} files", f"{many} shut others out"
        case {"what": "stop", "workers": workers, "lost": lost, "answers": answers, "refused": refused}:
            seen = f"{lost} of {CLIENTS} lost; {answers:,} answers, {refused} refused"
            return f"SIGTERM under traffic, {workers} workers", seen
        case {"what": "shares", "workers": workers, "each": each}:
            return f"{SHARED} connections at once, {workers} workers", " + ".join(map(str, each))
        case {"what": "large", "longest_ms": longest, "p99_ms": p99, "alone_ms": alone, "answered": answered}:
            seen = f"longest {longest:.0f} ms, p99 {p99:.0f} ms; {alone:.0f} ms without; {answered} such bodies"
            return "an answer while bodies of 1 MB are decided", seen
    raise AssertionError(one)


# ── A server ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RunningServer:
    process: Popen[str]
    port: int

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def start_server(policy: Path, *options: str, files: int = 4_096) -> Iterator[RunningServer]:
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, str(files), "serve", str(policy), "--port", str(port), *options]
    with Popen(command, stdout=PIPE, stderr=DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield RunningServer(process, port)
        finally:
            process.kill()


def is_answering(port: int, seconds: float = 2.0) -> bool:
    """Return whether a new client gets an answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as one:
            one.settimeout(seconds)
            one.sendall(ASK)
            return one.recv(12).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


# ── Heads that never end ──────────────────────────────────────────────────────────────────────


def measure_unfinished_heads(policy: Path) -> Data:
    with start_server(policy, files=MAX_OPEN_FILES) as server, ExitStack() as stack:
        for many in range(HEADS):
            if many % 10 == 0 and not is_answering(server.port):
                return {"shut_out_at": many}
            one = stack.enter_context(socket.socket())
            one.settimeout(2)
            with suppress(OSError):
                one.connect(("127.0.0.1", server.port))
                one.sendall(b"POST /decide HTTP/1.1\r\nhost: ")
        return {"shut_out_at": None}


# ── A stop under traffic ──────────────────────────────────────────────────────────────────────


@dataclass
class SteadyClient:
    """A client that sends requests as long as the server accepts them. `lost` describes a request without an answer. A
    stopping server closes connections that are silent for a second. So a client that was itself stopped for so long,
    on a busy machine, connects again if its connection is closed without an answer.
    """

    port: int
    keeps: bool
    answers: int = 0
    lost: str | None = None
    refused: bool = False
    acted: float = 0.0  # when it connected or last sent a request
    was_silent: bool = False  # before its latest request

    async def run(self) -> None:
        while not self.refused and self.lost is None:
            try:
                self.acted = monotonic()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                self.refused = True
                return
            except OSError as error:
                self.lost = f"connecting: {error}"
                return
            try:
                await self.ask(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as error:
                has_begun = isinstance(error, asyncio.IncompleteReadError) and error.partial
                if has_begun or not self.was_silent:
                    self.lost = type(error).__name__
            finally:
                writer.close()

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = False
        while not ends:
            now = monotonic()
            self.was_silent, self.acted = now - self.acted >= SILENT_SECONDS / 2, now
            writer.write(ASK)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                self.lost = head[:12].decode()
                return
            self.answers += 1
            ends = not self.keeps or b"connection: close" in head


async def measure_stop(
    policy: Path, workers: int, seconds: float = 4.0, before: Callable[[RunningServer], object] = bool
) -> Data:
    """Measure a stop under traffic; `before` acts on the server while its clients send requests, before the SIGTERM."""
    with start_server(policy, "--workers", str(workers), "--drain-seconds", str(seconds)) as server:
        clients = [SteadyClient(server.port, keeps=number % 2 == 0) for number in range(CLIENTS)]
        tasks = [asyncio.create_task(one.run()) for one in clients]
        await wait_for_answers(clients, 20)
        before(server)
        await wait_for_answers(clients, 40)
        server.process.send_signal(signal.SIGTERM)
        began = monotonic()
        await asyncio.wait(tasks, timeout=PATIENCE)
        return {
            "status": await asyncio.to_thread(server.process.wait, PATIENCE),
            "lost": sum(one.lost is not None for one in clients),
            "why": dict(Counter(one.lost for one in clients if one.lost is not None)),
            "refused": sum(one.refused for one in clients),
            "answers": sum(one.answers for one in clients),
            "seconds": round(monotonic() - began, 1),
        }


async def wait_for_answers(clients: Sequence[SteadyClient], answers: int) -> None:
    """Wait until each client has that many answers or has lost one."""
    while any(one.answers < answers and one.lost is None for one in clients):
        await asyncio.sleep(0.01)


# ── Sharing ───────────────────────────────────────────────────────────────────────────────────


def count_sockets(pid: int) -> int:
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += os.readlink(file).startswith("socket:")
    return found


def measure_worker_shares(policy: Path, workers: int) -> Data:
    """Return the number of connections per worker."""
    with start_server(policy, "--workers", str(workers)) as server, ExitStack() as stack:
        is_answering(server.port)
        before = {pid: count_sockets(pid) for pid in server.workers()}
        for _ in range(SHARED):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            one.sendall(ASK)
            one.recv(65_536)
        return {"each": sorted((count_sockets(pid) - many for pid, many in before.items()), reverse=True)}


# ── Large bodies ──────────────────────────────────────────────────────────────────────────────


@dataclass
class LatencyWatch:
    """Records how long answers take, in seconds."""

    took: list[float] = field(default_factory=list)

    async def run(self, port: int) -> None:
        async with open_connection(port) as (reader, writer):
            while True:
                began = perf_counter()
                await exchange(reader, writer, ASK)
                self.took.append(perf_counter() - began)
                await asyncio.sleep(0.002)

    def worst(self, share: float = 1.0) -> float:
        return sorted(self.took)[min(int(len(self.took) * share), len(self.took) - 1)] * 1_000


@asynccontextmanager
async def open_connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2 * LARGE)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def large_bodies() -> list[bytes]:
    """Return bodies of 1 MB each: one long text, many short texts, many numbers, many objects, and the same with an
    option that takes the slow path."""
    question = {"request": {"method": "POST", "path": "/orders"}}
    shapes: list[object] = [
        "x" * LARGE,
        ["x"] * (LARGE // 4),
        [1.5] * (LARGE // 4),
        [{"a": 1, "b": "c"}] * (LARGE // 19),
        {f"member {number}": number for number in range(LARGE // 24)},
    ]
    found = []
    for shape in shapes:
        for options in ({}, {"options": {"explain": True}}):
            body = json.dumps({**question, "body": {"a": shape}, **options}, separators=(",", ":")).encode()
            found.append(HEAD.format(len(body)).encode() + body)
    return found


async def measure_large_bodies(policy: Path, seconds: float = 6.0, senders: int = 4) -> Data:
    with start_server(policy) as server:
        alone, watch, sent = LatencyWatch(), LatencyWatch(), 0
        await watch_for(alone, server.port, 2.0)

        async def send() -> None:
            nonlocal sent
            async with open_connection(server.port) as (reader, writer):
                while True:
                    for body in messages:
                        await exchange(reader, writer, body)
                        sent += 1

        messages = large_bodies()
        tasks = [asyncio.create_task(send()) for _ in range(senders)]
        await watch_for(watch, server.port, seconds)
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        longest = {"longest_ms": watch.worst(), "p99_ms": watch.worst(0.99), "alone_ms": alone.worst()}
        return {**longest, "answered": sent, "watched": len(watch.took)}


async def watch_for(watch: LatencyWatch, port: int, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(watch.run(port), seconds)
