"""Load on a server: by `wrk` where it is installed, by a small loop of our own where it is not."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from bench.child import in_child
from bench.machine import cores
from bench.measure import percentile

SCRIPT = """
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local requests, place = {}, 0
init = function()
  for number, body in ipairs(bodies) do
    requests[number] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
end
request = function() place = place % #requests + 1 return requests[place] end
done = function(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('{"rps": %.1f, "p50_us": %.1f, "p99_us": %.1f, "requests": %d, "failed": %d}',
    summary.requests / summary.duration * 1e6, latency:percentile(50), latency:percentile(99), summary.requests,
    failed + summary.errors.status), "\\n")
end
"""


def generator() -> str:
    """Which one it is, for the note below the table."""
    return "wrk" if shutil.which("wrk") else "our own loop in Python, which can itself be the limit: install wrk"


def run(url: str, bodies: Path, connections: int, seconds: float) -> dict[str, Any]:
    """`bodies` holds one JSON body a line. Requests per second, percentiles in µs, how many, how many failed."""
    if shutil.which("wrk"):
        return _wrk(url, bodies, connections, seconds)
    arguments = {"url": url, "bodies": str(bodies), "connections": connections, "seconds": seconds}
    return in_child("bench.serving.load:loop", seconds + 30, arguments, core=cores()[0])


def _wrk(url: str, bodies: Path, connections: int, seconds: float) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script.name, url]
        done = subprocess.run(
            [*pin_command(cores()[0]), *command],
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            env={**os.environ, "BODIES": str(bodies)},
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def pin_command(core: int) -> list[str]:
    """What to put before a command to keep it on a core, where the system has that."""
    return ["taskset", "-c", str(core)] if shutil.which("taskset") else []


# ── Our own: one thread, as many connections as asked, each sends when it has its answer ──────


def loop(url: str, bodies: str, connections: int, seconds: float) -> dict[str, Any]:
    """In a child: HTTP/1.1 by hand, because a library would be slower than the server."""
    host, port, path = _split_url(url)
    requests = [_request(host, path, body) for body in Path(bodies).read_bytes().splitlines()]
    if not hasattr(select, "epoll"):
        return {"error": "our own load generator needs epoll: install wrk"}
    state = _LoadState(requests)
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sockets = {}
        for _ in range(connections):
            one = stack.enter_context(socket.create_connection((host, port)))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[one.fileno()] = one
            poll.register(one, select.EPOLLIN)
        start = perf_counter_ns()
        end = start + int(seconds * 1e9)
        for one in sockets.values():
            state.send(one)
        while perf_counter_ns() < end:
            for number, _ in poll.poll(1):
                state.answer(sockets[number])
        took = (perf_counter_ns() - start) / 1e9
    state.times.sort()
    return {
        "rps": round(len(state.times) / took, 1),
        "p50_us": round(percentile(state.times, 0.5) / 1e3, 1),
        "p99_us": round(percentile(state.times, 0.99) / 1e3, 1),
        "requests": len(state.times),
        "failed": state.failed,
    }


@dataclass(slots=True)
class _LoadState:
    requests: Sequence[bytes]
    place: int = 0
    failed: int = 0
    times: list[int] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    partly: dict[int, bytes] = field(default_factory=dict)

    def send(self, one: socket.socket) -> None:
        self.place = (self.place + 1) % len(self.requests)
        self.sent[one.fileno()] = perf_counter_ns()
        one.sendall(self.requests[self.place])

    def answer(self, one: socket.socket) -> None:
        number = one.fileno()
        data = self.partly.pop(number, b"") + one.recv(65_536)
        if not _is_complete(data):
            self.partly[number] = data
            return
        self.times.append(perf_counter_ns() - self.sent[number])
        self.failed += not data.startswith(b"HTTP/1.1 200")
        self.send(one)


def _is_complete(data: bytes) -> bool:
    """Whether head and body of one answer are there; only answers with a content-length are understood."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = data[:head].lower().find(b"content-length:")
    length = int(data[at + 15 : data.find(b"\r\n", at)])
    return len(data) >= head + 4 + length


def _split_url(url: str) -> tuple[str, int, str]:
    host, _, rest = url.removeprefix("http://").partition(":")
    port, _, path = rest.partition("/")
    return host, int(port), f"/{path}"


def _request(host: str, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
