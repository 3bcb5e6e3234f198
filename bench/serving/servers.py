"""Servers under test: each starts on the last core, listens on its own port, and is stopped in any case."""

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
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import policy
from bench.machine import cores
from bench.serving.load import pin_command
from bench.workload import Workload, WorkloadRequest

POLICYENGINE = (sys.executable, "-c", "from policyengine.cli import main; main()")
PATIENCE = 120.0  # seconds until a server must answer


@dataclass(frozen=True, slots=True)
class Server:
    """A server. `body` is the request it gets, `allowed` reads its answer; None where it does not decide."""

    name: str
    title: str
    pid: int
    port: int
    path: str
    body: Callable[[WorkloadRequest], bytes]
    allowed: Callable[[WorkloadRequest, Any], bool] | None


@contextmanager
def policyengine_server(
    work: Workload, folder: Path, workers: int = 1, arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """Start `policyengine serve`, as its users do, with more arguments."""
    name = "policyengine" if workers == 1 else f"policyengine-{workers}"
    file = folder / f"{name}.policy"
    file.write_text(policy.policy(work))
    port = free_port()
    command = [*POLICYENGINE, "serve", str(file), "--port", str(port), "--workers", str(workers), *arguments]
    with start_process(command, folder / f"{name}-{port}.log") as process:
        wait_for_http(port, "/healthz", process)
        yield Server(name, "policyengine serve", process.pid, port, "/decide", question, is_allowed)


def is_allowed(_: WorkloadRequest, answer: Any) -> bool:
    return bool(answer["allowed"])


@contextmanager
def floor_server(size: int, folder: Path) -> Iterator[Server]:
    """Start raw ASGI on uvicorn, with uvloop and httptools where they are installed; `size` is the length of the
    answer."""
    port = free_port()
    quick = ["--loop", "auto", "--http", "auto", "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    command = [sys.executable, "-m", "uvicorn", "bench.serving.floor:app", "--port", str(port), *quick]
    with start_process(command, folder / "floor.log", ANSWER=str(size)) as process:
        wait_for_socket(socket.AF_INET, ("127.0.0.1", port), process)
        yield Server("floor", "floor: raw ASGI", process.pid, port, "/", question, None)


def question(asked: WorkloadRequest) -> bytes:
    return json.dumps(policy.question(asked), separators=(",", ":")).encode()


# ── Processes and ports ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ServerProcess:
    pid: int
    log: Path
    over: Callable[[], bool]


@contextmanager
def start_process(
    command: Sequence[str], log: Path, *, core: int | None = None, **variables: str
) -> Iterator[ServerProcess]:
    """Start a process in its own group, by default on the last core, and stop it at the end."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [*pin_command(cores()[-1] if core is None else core), *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        yield ServerProcess(process.pid, log, lambda: process.poll() is not None)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
        try:
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            continue


class ServerStartError(Exception):
    """A server that exited, or did not answer in time; the message is the last line of its log."""


def wait_for_socket(family: int, address: object, process: ServerProcess) -> None:
    def connect() -> bool:
        with socket.socket(family) as one:
            one.connect(address)  # type: ignore[arg-type]
            return True

    _wait_until(connect, process)


def wait_for_http(port: int, path: str, process: ServerProcess) -> None:
    def answer() -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status == 200

    _wait_until(answer, process)


def _wait_until(ready: Callable[[], bool], process: ServerProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not process.over():
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.05)
    lines = [line.strip(" │╯╰─") for line in process.log.read_text().splitlines()]
    raise ServerStartError(next((line for line in reversed(lines) if line), f"no answer in {PATIENCE:.0f} s"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def cpu_seconds(group: int) -> float:
    """Return the processor time so far of all processes of a group and their terminated children. 0 without /proc."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process exited meanwhile
            continue
        if int(fields[2]) == group:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    """Return the processor time so far of all threads of one process, finer than in /proc where the system has a clock
    for it."""
    if sys.platform != "linux":
        return cpu_seconds(pid)
    return time.clock_gettime(~pid << 3 | 2)  # as `clock_getcpuclockid` makes it
