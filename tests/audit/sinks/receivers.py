"""Receivers of sinks: a strict HTTP server, certificates for it, and rsyslog."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.ports import free_port
from tests.processes import wait_until


@dataclass(frozen=True)
class Received:
    """A request: its path with the query, its headers in lower case, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What an HTTP server received. `statuses` are its next answers, before 202; `headers` and `body` are part of each
    answer. It answers only once `may_answer` is set."""

    port: int = 0
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    may_answer: Event = field(default_factory=Event)


@contextmanager
def http_receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver, with TLS if there is a context."""
    receiver = Receiver()
    receiver.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            receiver.connections += 1
            super().setup()

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            assert len(headers) == len(self.headers.items()), "a header occurs twice"
            assert "transfer-encoding" not in headers
            body = self.rfile.read(int(headers["content-length"]))
            receiver.may_answer.wait()
            status = receiver.statuses.pop(0) if receiver.statuses else 202
            if 200 <= status < 300:
                receiver.requests.append(Received(self.path, headers, body))
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.may_answer.set()
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a certificate for 127.0.0.1, which no system trusts, and the TLS context of its server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    issued = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, both = folder / "ca.pem", folder / "both.pem"
    path.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    both.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + path.read_bytes()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return path, context


# ── Syslog ────────────────────────────────────────────────────────────────────────────────────

CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="256k")
module(load="imtcp")
module(load="imudp")
module(load="imuxsock" SysSock.Use="off")
template(name="whole" type="list") {{ property(name="jsonmesg") constant(value="\\n") }}
ruleset(name="kept") {{ action(type="omfile" file="{folder}/received" template="whole" asyncWriting="off") }}
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="kept")
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="kept")
input(type="imuxsock" socket="{folder}/socket" ruleset="kept" useSpecialParser="off" parseHostname="on")
"""


@dataclass
class Rsyslog:
    """A running rsyslogd."""

    folder: Path
    tcp: int = field(default_factory=free_port)
    udp: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        conf = self.folder / "rsyslog.conf"
        conf.write_text(CONFIGURATION.format(folder=self.folder, tcp=self.tcp, udp=self.udp))
        with (self.folder / "rsyslog.log").open("ab") as log:
            self.process = subprocess.Popen(["rsyslogd", "-n", "-iNONE", "-f", str(conf)], stdout=log, stderr=log)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.tcp), 1).close()
        except OSError:
            return False
        return (self.folder / "socket").exists()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def messages(self) -> list[dict[str, str]]:
        """Return what rsyslog parsed, in its own words."""
        path = self.folder / "received"
        content = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in content.rpartition(b"\n")[0].splitlines()]  # the last may be incomplete

    def wait(self, messages: int) -> list[dict[str, str]]:
        wait_until(lambda: len(self.messages()) >= messages)
        return self.messages()


@contextmanager
def rsyslog(folder: Path) -> Iterator[Rsyslog]:
    if shutil.which("rsyslogd") is None:
        pytest.skip("rsyslog is missing: apt install rsyslog")
    server = Rsyslog(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
