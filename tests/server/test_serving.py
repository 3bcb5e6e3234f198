"""The server as a process on a real port: it starts, answers, refuses to start with a reason, and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from policyengine.server import BearerTokenError, ServeError, serve
from policyengine.server.listeners import bind_listener, resolve_address
from tests.server.conftest import OPEN, SHUT, TOKEN, Watched
from tests.server.processes import started

SERVE = """
import sys
from policyengine.server import serve
from tests.server.conftest import small
host, token = sys.argv[1], sys.argv[2] or None
try:
    serve(small(), host, 0, token, listening=lambda url: print(url, flush=True))
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


def running(host: str = "127.0.0.1", token: str = "") -> AbstractContextManager[tuple[str, subprocess.Popen[str]]]:
    return started(SERVE, host, token)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as (url, _):
        yield url


def raw(url: str, message: bytes) -> bytes:
    """What comes back for these bytes until the server closes or waits for more."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


# ── Running ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("question", "outcome"), [(OPEN, "allow"), (SHUT, "deny")])
def test_a_running_server_decides(url: str, question: dict[str, Any], outcome: str) -> None:
    assert httpx.post(f"{url}/decide", json=question).json()["outcome"] == outcome


def test_a_running_server_sends_no_server_header(url: str) -> None:
    assert "server" not in httpx.get(f"{url}/healthz").headers


def test_a_too_large_body_is_413_on_the_wire(url: str) -> None:
    """The client gets to read the answer, although it has more to send."""
    answer = httpx.post(f"{url}/decide", content=b" " * (3 * 1024 * 1024), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_too_large_chunked_body_is_413_on_the_wire(url: str) -> None:
    answer = httpx.post(
        f"{url}/decide", content=iter([b" " * 65_536] * 48), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_a_question_after_a_refused_one_is_answered_on_the_same_connection(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        assert client.post("/decide", content=b"{" * 100_000, headers={"content-type": "text/plain"}).status_code == 415
        assert client.post("/decide", json=OPEN).json()["outcome"] == "allow"


def test_bytes_that_are_not_http_are_400_and_the_server_goes_on(url: str) -> None:
    assert raw(url, b"\x16\x03\x01 what is this\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_server_with_a_token_requires_it_on_the_wire() -> None:
    with running(token=TOKEN) as (url, _):
        assert httpx.post(f"{url}/decide", json=OPEN).status_code == 401
        answer = httpx.post(f"{url}/decide", json=OPEN, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.json()["outcome"] == "allow"


def test_a_server_with_a_token_may_listen_on_every_address() -> None:
    with running(host="0.0.0.0", token=TOKEN) as (url, _):
        assert url.startswith("http://0.0.0.0:")


# ── Stopping ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_exit_code_0(sent: signal.Signals) -> None:
    with running() as (url, process):
        assert httpx.get(f"{url}/healthz").status_code == 200
        process.send_signal(sent)
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == 0


# ── Not starting ──────────────────────────────────────────────────────────────────────────────


def refusal(engine: Watched, host: str, port: int = 0, token: str | None = None) -> ServeError:
    with pytest.raises(ServeError) as error:
        serve(engine, host, port, token, listening=lambda url: pytest.fail(f"listens on {url}"))
    return error.value


def test_the_error_names_a_port_in_use(engine: Watched) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = refusal(engine, "127.0.0.1", port)
    assert refused.message == f"port {port} on `127.0.0.1` is in use"
    assert "--port" in str(refused.hint)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_serve_refuses_a_public_address_without_a_token(engine: Watched, host: str) -> None:
    refused = refusal(engine, host)
    assert refused.message.startswith(f"`{host}` can be reached from other machines and no token is set")
    assert "--token-file" in str(refused.hint)


@pytest.mark.parametrize("host", ["", "no-such-host.invalid", "127.0.0.1:8080", "x" * 300, "300.1.1.1"])
def test_an_invalid_host_is_rejected(engine: Watched, host: str) -> None:
    assert refusal(engine, host).message == f"`{host}` is not a known host"


def test_serve_rejects_an_address_of_another_machine(engine: Watched) -> None:
    assert refusal(engine, "192.0.2.1", token=TOKEN).message == "`192.0.2.1` is not an address of this machine"


@pytest.mark.parametrize("port", [-1, 65_536])
def test_serve_rejects_an_invalid_port(engine: Watched, port: int) -> None:
    assert refusal(engine, "127.0.0.1", port).message == f"`{port}` is not a port"


def test_the_error_names_a_port_that_is_not_permitted(engine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    class Shy(socket.socket):
        pass

    monkeypatch.setattr(Shy, "bind", bind, raising=False)
    monkeypatch.setattr("policyengine.server.listeners.socket.socket", Shy)
    assert refusal(engine, "127.0.0.1", 80).message == "port 80 on `127.0.0.1` is not permitted"


def test_serve_rejects_a_token_that_is_too_short(engine: Watched) -> None:
    with pytest.raises(BearerTokenError):
        serve(engine, "127.0.0.1", 0, "short")


def test_the_listener_is_declared_as_tcp_so_that_answers_are_not_delayed() -> None:
    """asyncio turns Nagle's algorithm off, 40 ms per answer, only for sockets whose protocol is said to be TCP."""
    with bind_listener(("127.0.0.1", 0), "127.0.0.1") as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_localhost_resolves_to_a_loopback_address() -> None:
    assert resolve_address("localhost", 80)[0] in ("127.0.0.1", "::1")
