"""`faults`: what `/readyz` and `/metrics` report about a failing store, compared with the outcome of decisions.

It starts `policyengine serve` and Redis on free ports of this machine, and stops them. A sample is a decision that must
write, `/readyz`, and a second decision. The sample is wrong if both decisions succeed and `/readyz` returns 503, or
both fail (or their writes may be lost) and it returns 200.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bench.report import Section, Target
from bench.stores import start_redis

Say = Callable[[str], None]
Do = Callable[[], object]
SAMPLES, MAX_FAULT_SECONDS = 40, 30.0  # of a fault, in seconds
SAMPLE_INTERVAL_SECONDS = 0.05  # seconds
MAX_RECOVERY_SECONDS = 5.0  # seconds within which the server must be ready again
FULL_DISK_BYTES = 1_048_576  # bytes of the file system that the test fills
GAUGE = "policyengine_store_failing"
RECOVERY = "answers again", "accepts writes again"
POLICY = """
language 1
package shop
anyone { may GET /report/{id}, GET /look/{id} }
rate "reports" per request.path on GET /report/{id} { 2/1d }
budget "a day" per request.path on GET /report/{id} { count <= 1_000 within 24h }
rate "looks" per request.path on GET /look/{id} { 2/1d }
"""


@dataclass
class ServerUnderTest:
    """A server that decides, with background traffic during the samples."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    numbers: Iterator[int] = field(default_factory=count)
    ended: Event = field(default_factory=Event)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        asked = Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urlopen(asked, timeout=20) as answer:
                text = answer.read().decode()
                return answer.status, json.loads(text) if text.startswith("{") else text
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"{}")

    def decides(self, path: str = "/report/") -> bool:
        """Return whether a decision that must write succeeds."""
        asked = {"request": {"method": "GET", "path": f"{path}{next(self.numbers)}"}}
        return bool(self.ask("/decide", asked)[1].get("gate") != "failure")

    def looks(self) -> None:
        """Send requests that only read, which say nothing about writes, and requests that exceed the rate."""
        for path in ("/look/1", "/report/x"):
            self.ask("/evaluate", {"request": {"method": "GET", "path": path}})
        self.ask("/decide", {"request": {"method": "GET", "path": "/look/1"}})

    def gauge(self) -> float:
        lines = str(self.ask("/metrics")[1]).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(GAUGE))

    def traffic(self) -> None:
        while not self.ended.is_set():
            with suppress(OSError, ValueError):
                self.looks()
            self.ended.wait(SAMPLE_INTERVAL_SECONDS / 5)


@contextmanager
def start_server(store: str, folder: Path, *, as_nobody: bool = False) -> Iterator[ServerUnderTest]:
    (folder / "shop.policy").write_text(POLICY)
    log = folder / "stderr"
    code = "from policyengine.cli import main; main()"
    words = [sys.executable, "-c", code, "serve", str(folder / "shop.policy"), "--port", "0"]
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if as_nobody else []
    command = [*nobody, *words, "--format", "json", "--store", store]
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(log.read_text())
            found = ServerUnderTest(json.loads(line)["listening"], process, log)
            thread = Thread(target=found.traffic)
            thread.start()
            try:
                yield found
            finally:
                found.ended.set()
                thread.join()
        finally:
            process.send_signal(signal.SIGKILL)


@dataclass
class FaultResult:
    """The samples of one fault; `recovered` is in seconds after its end, None where the store is not expected to
    recover."""

    fault: str
    samples: int = 0
    failed: int = 0  # samples whose decisions failed
    wrong: int = 0
    unseen: int = 0  # samples in which the gauge was zero although it should not be
    said: int = 0  # times that the log reported the fault as over while it lasted
    recovered: float | None = None


def sample_fault(
    fault: str, server: ServerUnderTest, begin: Callable[[], None], end: Callable[[], None] | None, loses: bool
) -> FaultResult:
    """Sample one fault. With `loses`, decisions succeed but their writes may be lost."""
    found = FaultResult(fault)
    wait_until_ready(server)
    before = server.log.read_text()
    begin()
    if not loses:
        wait_until_failing(server)
    until = monotonic() + MAX_FAULT_SECONDS
    while found.samples < SAMPLES and monotonic() < until:
        take_sample(found, server, loses)
        sleep(SAMPLE_INTERVAL_SECONDS)
    log = server.log.read_text()[len(before) :]
    found.said = sum(log.count(words) for words in RECOVERY)
    if end is not None:
        end()
        began = monotonic()
        wait_until_ready(server)
        found.recovered = monotonic() - began
    return found


def wait_until_failing(server: ServerUnderTest) -> None:
    """Wait until decisions begin to fail: a disk does not fill up immediately."""
    until = monotonic() + MAX_FAULT_SECONDS
    while server.decides() and monotonic() < until:
        sleep(SAMPLE_INTERVAL_SECONDS / 5)


def wait_until_ready(server: ServerUnderTest) -> None:
    until = monotonic() + MAX_RECOVERY_SECONDS + MAX_FAULT_SECONDS
    while server.ask("/readyz")[0] != 200 or not server.decides():
        if monotonic() > until:
            raise RuntimeError("it does not become ready: " + server.log.read_text())
        sleep(SAMPLE_INTERVAL_SECONDS / 5)


def take_sample(found: FaultResult, server: ServerUnderTest, loses: bool) -> None:
    first, status, gauge, last = server.decides(), server.ask("/readyz")[0], server.gauge(), server.decides()
    found.samples += 1
    fails = loses or not (first or last)
    found.failed += fails
    if fails or (first and last):
        found.wrong += (status != 503) if fails else (status != 200)
    found.unseen += fails and gauge == 0


# ── Faults ────────────────────────────────────────────────────────────────────────────────────


def redis_faults(folder: Path, say: Say) -> Iterator[FaultResult]:
    with start_redis("redis-server", folder) as port:
        client = import_module("redis").Redis(port=port, protocol=2)

        def configured(most: str, policy: str = "noeviction") -> None:
            client.config_set("maxmemory", most)
            client.config_set("maxmemory-policy", policy)

        url, free = f"redis://127.0.0.1:{port}", partial(configured, "0")
        say("faults: Redis is full")
        with server_of(url, folder / "full") as server:
            yield sample_fault("Redis full, noeviction", server, partial(configured, "1"), free, False)
        say("faults: Redis evicts")
        with server_of(url, folder / "evicting") as server:
            evicts = partial(configured, "100mb", "allkeys-lru")
            yield sample_fault("Redis may evict, allkeys-lru", server, evicts, free, True)
        say("faults: Redis is a replica")
        with server_of(url, folder / "replica") as server:
            replica, primary = partial(client.replicaof, "127.0.0.1", "1"), partial(client.replicaof, "NO", "ONE")
            yield sample_fault("Redis a read-only replica", server, replica, primary, False)
        client.close()


def server_of(store: str, folder: Path, *, as_nobody: bool = False) -> Any:
    folder.mkdir(exist_ok=True)
    return start_server(store, folder, as_nobody=as_nobody)


def sqlite_faults(folder: Path, say: Say) -> Iterator[FaultResult]:
    def place(name: str) -> tuple[Path, str]:
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
        file = folder / name / "store.db"
        return file, f"sqlite:///{file}"

    say("faults: SQLite is locked")
    file, url = place("locked")
    with server_of(url, file.parent) as server, closing(sqlite3.connect(file, isolation_level=None)) as other:
        begin, end = partial(other.execute, "BEGIN EXCLUSIVE"), partial(other.execute, "COMMIT")
        yield sample_fault("SQLite locked", server, begin, end, False)
    say("faults: SQLite is removed")
    file, url = place("removed")
    with server_of(url, file.parent) as server:
        yield sample_fault("SQLite file removed", server, file.unlink, None, True)
    say("faults: SQLite is replaced")
    file, url = place("replaced")
    with server_of(url, file.parent) as server:
        other_file = file.with_name("other.db")
        with closing(sqlite3.connect(other_file)):
            yield sample_fault("SQLite file replaced", server, partial(other_file.replace, file), None, True)
    if os.geteuid() == 0 and shutil.which("setpriv") is not None:
        say("faults: SQLite is read-only")
        file, url = place("readonly")
        with server_of(url, file.parent, as_nobody=True) as server:
            yield sample_fault(
                "SQLite file read-only", server, partial(file.chmod, 0o444), partial(file.chmod, 0o600), True
            )


def full_disk(folder: Path, say: Say) -> Iterator[FaultResult]:
    """Sample a full disk, on a separate file system if one can be mounted."""
    place = folder / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK_BYTES}", "none", place], check=False).returncode:
        return
    try:
        say("faults: the disk of SQLite is full")
        ballast = place / "ballast"

        def fill() -> None:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4_096))

        with server_of(f"sqlite:///{place}/store.db", folder / "full-disk") as server:
            yield sample_fault("SQLite disk full", server, fill, ballast.unlink, False)
    finally:
        subprocess.run(["umount", place], check=False)


# ── The section ───────────────────────────────────────────────────────────────────────────────


def run(say: Say) -> Section:
    found: list[FaultResult] = []
    with TemporaryDirectory() as folder, ExitStack():
        Path(folder).chmod(0o755)
        if shutil.which("redis-server") is not None:
            found += redis_faults(Path(folder), say)
        found += sqlite_faults(Path(folder), say)
        found += full_disk(Path(folder), say)
    wrong, unseen = float(sum(one.wrong for one in found)), float(sum(one.unseen for one in found))
    return Section(
        name="faults",
        title="Reports about a store that fails during decisions",
        columns=(
            "fault",
            "samples",
            "decisions failed",
            "/readyz wrong",
            "gauge zero",
            "“again” in the log",
            "ready after",
        ),
        rows=tuple(map(row_of, found)),
        data=tuple(map(asdict, found)),
        targets=(
            Target("/readyz wrong", len(found), wrong, "samples"),
            Target("missed by the gauge", len(found), unseen, "samples"),
        ),
        notes=(
            f"{SAMPLES} samples of a fault, or {MAX_FAULT_SECONDS:.0f} s: "
            "a decision, `/readyz`, `/metrics` and a decision each.",
            "Where decisions do not touch a fault, the first samples may precede the next health check.",
        ),
    )


def row_of(one: FaultResult) -> tuple[str, ...]:
    numbers = (one.samples, one.failed, one.wrong, one.unseen, one.said)
    return one.fault, *map(str, numbers), "" if one.recovered is None else f"{one.recovered:.1f} s"
