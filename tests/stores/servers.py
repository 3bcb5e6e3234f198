"""Real servers on free ports of this machine: started in their own folders, and stopped after the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from policyengine.stores.url import StoreUrlError, open_store
from tests.ports import free_port
from tests.processes import wait_until

PACKAGES = {"redis-server": "redis-server", "valkey-server": "valkey-server"}


@dataclass
class Server:
    """A server that answers at `port` until it is paused or killed; then it may be started again, empty."""

    program: str
    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> Server:
        listening = () if "--port" in self.options else ("--port", str(self.port))
        kept = () if "--sentinel" in self.options else ("--save", "", "--appendonly", "no")
        common = ("--bind", "127.0.0.1", "--dir", str(self.folder), *kept)
        file, *options = self.options if "--sentinel" in self.options else ("", *self.options)
        command = [self.program, *filter(None, [file]), *listening, *common, *options]
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: reachable(self.port))
        return self

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def program(name: str) -> str:
    pytest.importorskip("redis", reason="missing: pip install redis")
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: apt install {PACKAGES[name]}")
    return found


@contextmanager
def running(name: str, folder: Path, *options: str, port: int | None = None) -> Iterator[Server]:
    server = Server(program(name), folder, options, port or free_port())
    try:
        yield server.start()
    finally:
        server.kill()


def open_patiently(url: str) -> Any:
    """Open a store as soon as it answers within the timeout of its URL."""
    opened: list[Any] = []

    def is_open() -> bool:
        with suppress(StoreUrlError):
            opened.append(open_store(url))
        return bool(opened)

    wait_until(is_open)
    return opened[0]


@contextmanager
def cluster(folder: Path) -> Iterator[list[Server]]:
    """Three primaries that share all slots."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            name = ("--cluster-enabled", "yes", "--cluster-config-file", f"{number}.conf")
            bus = ("--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
            servers.append(stack.enter_context(running("redis-server", folder, *name, *bus)))
        joined(servers)
        yield servers


def joined(servers: list[Server]) -> None:
    import redis

    clients = [redis.Redis(port=one.port, protocol=2) for one in servers]
    first = servers[0]
    bus = int(first.options[first.options.index("--cluster-port") + 1])
    share = 16_384 // len(clients) + 1
    for number, client in enumerate(clients):
        slots = range(number * share, min((number + 1) * share, 16_384))
        client.execute_command("CLUSTER ADDSLOTSRANGE", slots[0], slots[-1])
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        if number:
            client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, bus)
    for client in clients:
        wait_until(lambda one=client: whole(one.execute_command("CLUSTER INFO")))
        client.close()


def whole(told: Any) -> bool:
    return bool(told["cluster_state"] == "ok" and told["cluster_known_nodes"] == "3")
