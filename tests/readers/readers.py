"""Real frameworks as processes: what each reads from a body or a query, in each usual way."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.processes import stop_session

ROOT = Path(__file__).parents[2]
SERVERS = Path(__file__).with_name("servers")
PATIENCE = 60.0  # seconds for a server to start on a loaded machine
MODULES = ROOT / ".npm-readers" / "node_modules"
PYTHON = ROOT / ".venv-readers" / "bin" / "python"
GO = ROOT / ".go-readers" / "reader"
REFUSED = object()


@dataclass(frozen=True)
class Framework:
    """`command` starts it on a free port, which it prints; if it cannot, `{port}` is one. `bodies` and `queries` are
    the ways in which it reads them."""

    name: str
    command: tuple[str, ...]
    bodies: tuple[str, ...]
    queries: tuple[str, ...]
    needs: str
    install: str = "make readers"

    @property
    def installed(self) -> bool:
        return Path(self.needs).exists() or shutil.which(self.needs) is not None


EXPRESS = ("usual", "simple", "json", "any-json", "any-form", "text", "merged"), ("query-extended", "query-simple")
FRAMEWORKS = (
    *(
        Framework(name, ("node", "express.mjs", str(MODULES), package), *EXPRESS, needs=str(MODULES / package))
        for name, package in (("express", "express"), ("express-4", "express4"))
    ),
    Framework(
        "fastapi",
        (sys.executable, "with_fastapi.py"),
        ("any-json", "any-json-of-text", "form", "model", "dict", "fields"),
        ("query", "parameters"),
        needs=sys.executable,
    ),
    Framework("django", (str(PYTHON), "with_django.py"), ("any-json", "form", "last"), ("query",), needs=str(PYTHON)),
    Framework("flask", (str(PYTHON), "with_flask.py"), ("json", "any-json", "form"), ("query",), needs=str(PYTHON)),
    Framework(
        "rack",
        ("puma", "-q", "-t", "1:1", "-b", "tcp://127.0.0.1:{port}", "rack.ru"),
        ("form", "params", "any-json"),
        ("query",),
        needs="puma",
        install="apt-get install puma ruby-rack",
    ),
    Framework(
        "php",
        ("php", "-d", "error_reporting=0", "-S", "127.0.0.1:{port}", "index.php"),
        ("form", "any-form", "any-json", "any-json-object"),
        ("query",),
        needs="php",
        install="apt-get install php-cli",
    ),
    Framework("go", (str(GO),), ("struct", "struct-whole", "map", "form", "form-value"), ("query",), needs=str(GO)),
)


@dataclass
class Running:
    """A running framework. `read` returns what it reads: members, or REFUSED."""

    framework: Framework
    port: int
    process: subprocess.Popen[str]
    connection: socket.socket | None = None

    def body(self, way: str, heads: tuple[tuple[str, str], ...], content: bytes) -> Any:
        lines = [f"{name}: {value}" for name, value in heads] + [f"Content-Length: {len(content)}"]
        return self.asked(f"POST /{way} HTTP/1.1", lines, content)

    def query(self, way: str, query: str) -> Any:
        return self.asked(f"GET /{way}?{query} HTTP/1.1", [], b"")

    def asked(self, line: str, lines: list[str], content: bytes) -> Any:
        head = "\r\n".join([line, f"Host: 127.0.0.1:{self.port}", *lines, "", ""]).encode("latin-1", "surrogateescape")
        try:
            return self.exchanged(head + content)
        except (OSError, HTTPException):  # the connection was closed
            self.close()
        try:
            return self.exchanged(head + content)
        except (ConnectionError, HTTPException):  # or the server does not answer
            self.close()
            assert self.process.poll() is None, f"{self.framework.name} ended"
            return REFUSED

    def exchanged(self, data: bytes) -> Any:
        if self.connection is None:
            self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.sendall(data)
        answer = HTTPResponse(self.connection)
        answer.begin()
        told = answer.read()
        if answer.will_close:
            self.close()
        return members_of(answer.status, told)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def members_of(status: int, told: bytes) -> Any:
    if status != 200:
        return REFUSED
    found = json.loads(told)["read"]
    return read(found) if isinstance(found, dict) and "o" in found else REFUSED


def read(tagged: Any) -> Any:
    """Return numbers as their text, in a tuple."""
    match tagged:
        case {"o": pairs}:
            return {bytes.fromhex(name).decode("utf-8", "surrogateescape"): read(one) for name, one in pairs}
        case {"s": text}:
            return bytes.fromhex(text).decode("utf-8", "surrogateescape")
        case {"n": number}:
            return (number,)
        case list():
            return [read(one) for one in tagged]
        case _:
            return tagged


@contextmanager
def running(framework: Framework) -> Iterator[Running]:
    port = free_port()
    command = [one.format(port=port) for one in framework.command]
    with subprocess.Popen(
        command, cwd=SERVERS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            if "{port}" not in "".join(framework.command):
                assert process.stdout is not None
                port = int(process.stdout.readline())
            one = Running(framework, port, process)
            wait_for(one)
            yield one
            one.close()
        finally:
            stop_session(process)


def wait_for(one: Running) -> None:
    latest = time.monotonic() + PATIENCE
    while time.monotonic() < latest:
        assert one.process.poll() is None, f"{one.framework.name} ended"
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", one.port), timeout=1).close()
        time.sleep(0.05)
    raise AssertionError(f"{one.framework.name} does not listen")
