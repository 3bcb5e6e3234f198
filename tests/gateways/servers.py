"""The surroundings of a gateway in these tests: a client that sends bytes unchanged, a server that records what reached
it, and the engine and the gateways as processes."""

from __future__ import annotations

import json
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import forking
from tests.ports import free_port
from tests.processes import stop

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
WHEELS = ROOT / ".venv-gateways"
PATIENCE = 30.0  # seconds for a gateway to start on a loaded machine
ENGINE, API, WEB, GRPC = 8080, 9000, 8000, 8081  # as the files in deploy/ have them
PORT = re.compile(r"(127\.0\.0\.1:|port_value: |//:)(8000|8080|8081|9000)(?!\d)")
TIMEOUT = re.compile(r"(timeout:? )[12]s\b")


# ── The client ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem; nginx sends it to clients of MCP as the data of an error."""
        found: dict[str, Any] = json.loads(self.body)
        if found.get("jsonrpc") == "2.0":
            assert self.headers["content-type"] == "application/json"
            return found["error"]["data"]  # type: ignore[no-any-return]
        assert self.headers["content-type"] == "application/problem+json"
        return found


@dataclass
class Client:
    """A client with one connection at a time, kept while the gateway keeps it."""

    port: int
    connection: socket.socket | None = None
    rest: bytes = b""
    tls: ssl.SSLContext | None = None

    def ask(
        self, target: str | bytes, *headers: str, method: str = "GET", body: bytes = b"", host: str | None = None
    ) -> Answer:
        line = target if isinstance(target, bytes) else target.encode("utf-8", "surrogateescape")
        lines = [method.encode() + b" " + line + b" HTTP/1.1", b"Host: " + (host or f"127.0.0.1:{self.port}").encode()]
        lines += [one.encode("utf-8") for one in headers]
        lines += [b"Content-Length: %d" % len(body)] if body or method in ("POST", "PUT", "DELETE") else []
        return self.send(b"\r\n".join([*lines, b"", body]), method)

    def send(self, data: bytes, method: str = "GET") -> Answer:
        try:
            return self.exchanged(data, method)
        except (ConnectionError, EOFError):  # the connection was closed
            self.close()
            return self.exchanged(data, method)

    def exchanged(self, data: bytes, method: str) -> Answer:
        if self.connection is None:
            plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            self.connection = plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="gateway")
            self.rest = b""
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read, and answered
            self.connection.sendall(data)
        answer = self.read(method)
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def read(self, method: str) -> Answer:
        head = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers: dict[str, str] = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value.strip()
        return Answer(status, headers, b"" if method == "HEAD" or status == 304 else self.body(headers))

    def body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(self.until(b"\r\n"), 16):
                found += self.exactly(size + 2)[:-2]
            self.until(b"\r\n")
            return found
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]))
        return b""

    def until(self, end: bytes) -> bytes:
        while end not in self.rest:
            self.more()
        found, _, self.rest = self.rest.partition(end)
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.rest) < size:
            self.more()
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def more(self) -> None:
        assert self.connection is not None
        data = self.connection.recv(65_536)
        if not data:
            raise EOFError
        self.rest += data

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


# ── The server behind ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Seen:
    """A request as it arrived behind the gateway."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of a header, under every spelling that some server treats as the same."""
        return [value for key, value in self.headers if key.lower().replace("_", "-") == name]


class Noting(socketserver.StreamRequestHandler):
    server: Upstream

    def handle(self) -> None:
        while line := self.rfile.readline():
            method, target, _ = line.decode("utf-8", "surrogateescape").rstrip("\r\n").split(" ", 2)
            headers = []
            while (one := self.rfile.readline().rstrip(b"\r\n")) != b"":
                name, _, value = one.decode("latin-1").partition(":")
                headers.append((name, value.strip()))
            lower = {name.lower(): value for name, value in headers}
            body = (
                self.chunks() if "transfer-encoding" in lower else self.rfile.read(int(lower.get("content-length", 0)))
            )
            self.server.seen.append(Seen(method, target, tuple(headers), body))
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if method == "HEAD" else b"ok"))

    def chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found


class Reused(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class Upstream(Reused):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Noting)
        self.seen: list[Seen] = []
        self.port: int = self.server_address[1]

    def taken(self) -> list[Seen]:
        """Return the requests that arrived since the last call."""
        found, self.seen = self.seen, []
        return found


@contextmanager
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


# ── The engine ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def engine(*arguments: str) -> Iterator[tuple[int, int]]:
    """`policyengine serve` on two free ports: for HTTP and for gRPC."""
    with engine_process(*arguments) as (_, ports):
        yield ports


@contextmanager
def engine_process(*arguments: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], tuple[int, int]]]:
    """The process of `engine`, and its ports for HTTP and for gRPC."""
    grpc = free_port()
    command = [*forking.command(), "serve"]
    options = ["--port", str(port), "--envoy-grpc", str(grpc), "--format", "json"]
    with subprocess.Popen([*command, *arguments, *options], cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, (int(json.loads(process.stdout.readline())["listening"].rsplit(":", 1)[1]), grpc)
        finally:
            stop(process)


@contextmanager
def talking(ports: Iterable[int], nonsense: bytes) -> Iterator[None]:
    """A server in place of the engine that sends `nonsense` to every request and closes the connection."""

    class Talking(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(nonsense)

    with ExitStack() as stack:
        for port in ports:
            server = stack.enter_context(Reused(("127.0.0.1", port), Talking))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
        yield


# ── The gateways ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kind:
    """One gateway: its file in deploy/, how it is started, and where its program is. `others` are files that the first
    one names."""

    name: str
    file: str
    program: str
    arguments: tuple[str, ...]
    install: str
    others: tuple[str, ...] = ()
    says_undecided: int = 503
    sees_body: bool = False
    sees_headers: bool = False  # all of the client's

    def found(self) -> str | None:
        return self.program if Path(self.program).is_file() else shutil.which(self.program)


def wheel(package: str, name: str) -> str:
    """Return a program of a package in `.venv-gateways`."""
    inside = next(iter(WHEELS.glob(f"lib/python3*/site-packages/{package}")), None)
    return str(inside or WHEELS / "bin" / name)


KINDS = [
    Kind(
        "nginx",
        "nginx/nginx.conf",
        "nginx",
        ("-p", "{folder}", "-c", "{file}"),
        "apt-get install nginx",
    ),
    Kind(
        "caddy",
        "caddy/Caddyfile",
        wheel("-", "caddy"),
        ("run", "--config", "{file}", "--adapter", "caddyfile"),
        "make tools",
        says_undecided=502,
        sees_headers=True,
    ),
    Kind(
        "caddy-2.6",
        "caddy/Caddyfile",
        "/usr/bin/caddy",
        ("run", "--config", "{file}", "--adapter", "caddyfile"),
        "apt-get install caddy",
        says_undecided=502,
        sees_headers=True,
    ),
    Kind(
        "traefik",
        "traefik/traefik.yml",
        wheel("-", "traefik"),
        ("--configFile={file}",),
        "make tools",
        others=("traefik/routes.yml",),
        says_undecided=500,
        sees_headers=True,
    ),
    Kind(
        "envoy-http",
        "envoy/http.yaml",
        wheel("envoy/_bin/envoy", "envoy"),
        ("-c", "{file}", "--concurrency", "1", "--disable-hot-restart"),
        "make tools",
        sees_body=True,
    ),
    Kind(
        "envoy-grpc",
        "envoy/grpc.yaml",
        wheel("envoy/_bin/envoy", "envoy"),
        ("-c", "{file}", "--concurrency", "1", "--disable-hot-restart"),
        "make tools",
        sees_body=True,
        sees_headers=True,
    ),
]


@dataclass
class Gateway:
    """A gateway that runs with its file from deploy/, unchanged except for ports, folder and timeouts."""

    kind: Kind
    client: Client
    api: Upstream
    log: Path | None
    output: Path
    ports: tuple[int, int]

    def decided(self) -> dict[str, dict[str, Any]]:
        """Return the logged decisions by ID."""
        assert self.log is not None
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return {one["decision"]["id"]: one for one in map(json.loads, lines) if "decision" in one}


def as_is(text: str) -> str:
    return text


def with_long_timeouts(text: str) -> str:
    return TIMEOUT.sub(r"\g<1>30s", text)


def put(kind: Kind, folder: Path, ports: dict[int, int], change: Callable[[str], str] = as_is) -> Path:
    """Write the files of deploy/ with other ports, timeouts for a busy machine, and the given changes."""
    for name in (kind.file, *kind.others):
        text = change((DEPLOY / name).read_text(encoding="utf-8"))
        text = PORT.sub(lambda found: f"{found[1]}{ports[int(found[2])]}", text)
        text = with_long_timeouts(text)
        for other in kind.others:
            text = text.replace(f"deploy/{other}", str(folder / Path(other).name))
        (folder / Path(name).name).write_text(text, encoding="utf-8")
    return folder / Path(kind.file).name


@contextmanager
def gateway(
    kind: Kind,
    folder: Path,
    api: Upstream,
    ports: tuple[int, int],
    log: Path | None,
    change: Callable[[str], str] = as_is,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Gateway]:
    program, port = kind.found(), free_port()
    assert program is not None
    client = Client(port, tls=tls)
    file = put(kind, folder, {WEB: port, ENGINE: ports[0], API: api.port, GRPC: ports[1]}, change)
    folder.chmod(0o755)
    arguments = [one.format(folder=folder, file=file) for one in kind.arguments]
    output = folder / "output"
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    with (
        output.open("w") as to,
        subprocess.Popen([program, *arguments], cwd=folder, env=environment, stdout=to, stderr=to) as process,
    ):
        try:
            wait_for(client, process, output)
            yield Gateway(kind, client, api, log, output, ports)
        finally:
            client.close()
            stop(process)


def wait_for(client: Client, process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until the gateway listens and has its routes, which may be at different times."""
    latest = time.monotonic() + PATIENCE
    while time.monotonic() < latest:
        assert process.poll() is None, output.read_text()
        with suppress(OSError):
            if client.ask("/v1").status != 404:
                return
        client.close()
        time.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not listen: {output.read_text()}")
