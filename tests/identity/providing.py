"""Issuers to query: a real OpenID provider, and a test server that fails in a given way."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, TypeAlias

import pytest

from policyengine.kernel import Issuer
from policyengine.source import Source, Span

HERE = Path(__file__).parent
PACKAGES = HERE.parent.parent / ".npm-identity"
INSTALL = "make tools"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PATIENCE = 30


def issuer(url: str | None, name: str = "acme", keys: str | None = None, audience: str | None = None) -> Issuer:
    """Return the issuer as declared in a policy."""
    plain: dict[str, Any] = {"records_chains": False, "scopes_none": False, "claims": ()}
    return Issuer(span=Span(Source("a.policy", ""), 0, 0), name=name, url=url, audience=audience, keys=keys, **plain)


# ── A real provider ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class OpenIdProvider:
    url: str

    def token(self, resource: str, client: str = "svc", secret: str = "secret of svc") -> str:
        form = {"grant_type": "client_credentials", "scope": "read", "resource": resource}
        basic = b64encode(f"{urllib.parse.quote_plus(client)}:{urllib.parse.quote_plus(secret)}".encode()).decode()
        return str(json.loads(self._post("/token", form, {"Authorization": f"Basic {basic}"}))["access_token"])

    def rotate(self) -> str:
        """Rotate the keys, and return the ID of the new key."""
        return self._post("/rotate", {}, {}).decode()

    def _post(self, path: str, form: dict[str, str], headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(self.url + path, urllib.parse.urlencode(form).encode(), headers)
        with DIRECT.open(request, timeout=PATIENCE) as answer:
            return bytes(answer.read())


@contextmanager
def openid_provider(
    clients: list[dict[str, Any]], *, people: bool = False, registration: bool = False, scopes: tuple[str, ...] = ()
) -> Iterator[OpenIdProvider]:
    node = shutil.which("node")
    if node is None or not (PACKAGES / "node_modules" / "oidc-provider").is_dir():
        pytest.skip(f"oidc-provider is missing: {INSTALL}" if node else "node is missing: apt install nodejs")
    settings = {
        "clients": clients,
        "people": people,
        "registration": registration,
        **({"scopes": scopes} if scopes else {}),
    }
    command = [node, str(HERE / "op.mjs"), str(PACKAGES), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), "the provider did not start"
            yield OpenIdProvider(url)
        finally:
            process.kill()


# ── A proxy ──


@contextmanager
def proxy(port: int) -> Iterator[tuple[str, list[str]]]:
    """A proxy that sends every request to `port` of this machine, and records the first lines of the requests."""
    asked: list[str] = []

    class Through(StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().strip())
            while self.rfile.readline().strip():
                pass
            with socket.create_connection(("127.0.0.1", port)) as there:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=relay, args=(there, self.connection))
                back.start()
                relay(self.connection, there)
                back.join()

    with running(ThreadingTCPServer(("127.0.0.1", 0), Through)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked


def relay(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65_536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.002})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ── One that goes wrong ───────────────────────────────────────────────────────────────────────

Page: TypeAlias = "bytes | dict[str, Any] | Callable[[Handling], None]"


class Handling(BaseHTTPRequestHandler):
    """One request, and the operations that a page may use."""

    server: Faulty

    def do_GET(self) -> None:
        self.form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with self.server.lock:
            self.server.asked.append(self.path)
        page = self.server.pages.get(self.path)
        if callable(page):
            page(self)
        elif page is None:
            self.answer(b"no such page", status=404)
        else:
            self.answer(page if isinstance(page, bytes) else json.dumps(page).encode())

    do_POST = do_GET

    def answer(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Faulty(ThreadingHTTPServer):
    """`pages` by path; `asked` counts requests. Hanging pages hang until `ends`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handling)
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.ends = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def metadata(self, **changed: Any) -> None:
        told = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **changed}
        self.pages["/.well-known/openid-configuration"] = {k: v for k, v in told.items() if v is not None}

    def handle_error(self, *_: object) -> None:
        """Ignore errors: a client may disconnect at any time."""


@contextmanager
def faulty() -> Iterator[Faulty]:
    with running(Faulty()) as server:
        try:
            yield server
        finally:
            server.ends.set()


def hangs(request: Handling) -> None:
    request.server.ends.wait(PATIENCE)


def drips_headers(request: Handling) -> None:
    drip(request, b"HTTP/1.1 200 OK\r\nX-Long: ")


def drips_body(request: Handling) -> None:
    drip(request, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def drip(request: Handling, first: bytes) -> None:
    """Send byte after byte while the client reads them."""
    request.wfile.write(first)
    while not request.server.ends.wait(0.01):
        request.wfile.write(b" ")


def ends_early(request: Handling) -> None:
    request.answer(b'{"keys":[', length=4_000)
    request.close_connection = True


def garbage(request: Handling) -> None:
    request.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n" * 10)
    request.close_connection = True


def oversized(request: Handling) -> None:
    request.answer(b'{"keys":[]' + b" " * 1_000_000 + b"}")


def endless(request: Handling) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not request.server.ends.is_set():
        request.wfile.write(b" " * 65_536)


def compressed(request: Handling) -> None:
    request.answer(b"\x1f\x8b\x08", Content_Encoding="gzip")


def redirects_to(url: str) -> Page:
    return lambda request: request.answer(b"", status=302, Location=url)


def answers(status: int, body: bytes = b"{}") -> Page:
    return lambda request: request.answer(body, status=status)


def kept_for(page: dict[str, Any], cache_control: str) -> Page:
    return lambda request: request.answer(json.dumps(page).encode(), Cache_Control=cache_control)


@dataclass
class Gate:
    """A page that answers after it is opened."""

    page: dict[str, Any]
    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Handling) -> None:
        self.reached.set()
        self.opened.wait(PATIENCE)
        request.answer(json.dumps(self.page).encode())
