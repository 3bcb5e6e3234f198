"""Servers under test: each starts on the last core, answers on its own port, and is stopped whatever happens."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import policy
from bench.http.load import pinned
from bench.machine import cores
from bench.workload import Request, Workload

PATIENCE = 120.0  # seconds until a server must answer


@dataclass(frozen=True, slots=True)
class Server:
    """`body` is what it is asked, `allowed` reads its answer; None where it does not decide."""

    name: str
    title: str
    pid: int
    url: str
    body: Callable[[Request], bytes]
    allowed: Callable[[Request, Any], bool] | None


@contextmanager
def ours(work: Workload, folder: Path) -> Iterator[Server]:
    """`policyengine serve`, as its users start it."""
    file = folder / "gateway.policy"
    file.write_text(policy.policy(work))
    port = free_port()
    main = "from policyengine.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", str(file), "--port", str(port)]
    with started(command, folder / "ours.log") as pid:
        answering(port, "/healthz", folder / "ours.log")
        url = f"http://127.0.0.1:{port}/decide"
        yield Server(
            "policyengine", "policyengine serve", pid, url, question, lambda _, answer: bool(answer["allowed"])
        )


@contextmanager
def floor(size: int, folder: Path) -> Iterator[Server]:
    """Raw ASGI on uvicorn, with uvloop and httptools where they are installed; `size` is the length of the answer."""
    port = free_port()
    quick = ["--loop", "auto", "--http", "auto", "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    command = [sys.executable, "-m", "uvicorn", "bench.http.floor:app", "--port", str(port), *quick]
    with started(command, folder / "floor.log", ANSWER=str(size)) as pid:
        listening(port, folder / "floor.log")
        yield Server("floor", "floor: raw ASGI", pid, f"http://127.0.0.1:{port}/", question, None)


def question(asked: Request) -> bytes:
    return json.dumps(policy.question(asked), separators=(",", ":")).encode()


# ── Processes and ports ───────────────────────────────────────────────────────────────────────


@contextmanager
def started(command: Sequence[str], log: Path, **variables: str) -> Iterator[int]:
    """A process on the last core, in a group of its own; yields its pid."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [*pinned(cores()[-1]), *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


class NotStarted(Exception):
    """A server that did not answer in time; the message ends with the last line of its log."""


def listening(port: int, log: Path) -> None:
    def connect() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True

    _patiently(connect, log)


def answering(port: int, path: str, log: Path) -> None:
    def answer() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200

    _patiently(answer, log)


def _patiently(ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.05)
    lines = log.read_text().strip().splitlines()
    raise NotStarted(f"no answer in {PATIENCE:.0f} s: {lines[-1] if lines else 'its log is empty'}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far; children that ended are in it. 0 without /proc."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
