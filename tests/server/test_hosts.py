"""Without a token a server answers to its own names only, at every door and port: over real HTTP, both ways."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from policyengine.engine import Engine
from policyengine.http.host_check import AllowedHostError, AllowedHosts
from policyengine.server import create_app, serve
from policyengine.server.app import status_app
from policyengine.server.host_guard import LOG_INTERVAL_SECONDS, HostCheck
from policyengine.server.telemetry.shared_counters import ServerCounters
from tests.ports import free_port
from tests.server.conftest import BY_ENVOY, OPEN, TOKEN, Watched
from tests.server.processes import started
from tests.server.test_http1 import LENGTH, post, statuses
from tests.server.test_log import SERVE
from tests.server.test_serving import raw

POLICY = "anyone { may GET /health }"
EVIL = b"host: rebound.example"
FORWARDED = {"x-forwarded-method": "GET", "x-forwarded-uri": "/health"}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, int]]:
    """Its URL, its port for metrics and the one for gRPC."""
    policy, metrics, grpc = tmp_path_factory.mktemp("policy") / "p.policy", free_port(), free_port()
    policy.write_text(POLICY)
    ports = ["--port", "0", "--metrics-port", str(metrics), "--envoy-grpc", str(grpc), "--allowed-host", "pdp.example"]
    with started(SERVE, "serve", str(policy), "--format", "json", *ports) as (line, _):
        yield json.loads(line)["listening"], metrics, grpc


@pytest.fixture
def url(serving: tuple[str, int, int]) -> str:
    return serving[0]


def get(path: str, host: bytes = b"localhost", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = (b"GET %b HTTP/%b" % (path.encode(), version), *([b"host: " + host] if host else []), b"connection: close")
    return b"\r\n".join((*lines, *headers, b"", b""))


# ── Whatever is asked ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("more", [(), (b"accept: application/*",), (b"connection: upgrade", b"upgrade: h2c")])
def test_a_question_for_a_foreign_host_is_refused_on_every_http_path(url: str, more: tuple[bytes, ...]) -> None:
    answer = raw(url, post(LENGTH, *more, host=EVIL))
    assert statuses(answer) == [403]
    assert b'"outcome"' not in answer
    assert statuses(raw(url, post(LENGTH, *more))) == [200]


def test_the_foreign_host_problem_has_a_hint(url: str) -> None:
    found = httpx.get(f"{url}/nowhere", headers={"host": "rebound.example"})
    assert (found.status_code, found.headers["content-type"]) == (403, "application/problem+json")
    assert found.json() == {
        "type": "about:blank", "title": "Forbidden", "status": 403,
        "detail": "the Host `rebound.example` is not a name of this server", "code": "foreign_host",
        "hint": "use `127.0.0.1` or `localhost`; if this server, or a site behind its gateway, has that name, start "
                "the server with `--allowed-host NAME` (without a port), or with `--token-file`, which accepts every "
                "name",
    }  # fmt: skip


def test_an_allowed_host_name_is_accepted(url: str) -> None:
    assert statuses(raw(url, post(LENGTH, host=b"host: PDP.example:8080"))) == [200]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (get("/healthz"), 200),
        (get("/healthz", b""), 400),
        (get("/healthz", b"", version=b"1.0"), 403),
        (get("/healthz", b"localhost", version=b"1.0"), 200),
        (get("/healthz", b"localhost", b"host: rebound.example"), 400),
        (get("http://rebound.example/healthz"), 403),
        (get("http://localhost/healthz", b"rebound.example"), 200),
        (get("HTTP://x@localhost/healthz"), 403),
        (get("http:///healthz"), 400),
    ],
)
def test_an_absolute_request_target_overrides_the_host_header(url: str, message: bytes, status: int) -> None:
    assert statuses(raw(url, message)) == [status]


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_a_cross_site_browser_request_is_refused(url: str, headers: dict[str, str]) -> None:
    found = httpx.post(f"{url}/decide", json=OPEN, headers=headers)
    assert (found.status_code, found.json()["code"]) == (403, f"foreign_{next(iter(headers)).replace('-', '_')}")
    assert httpx.post(f"{url}/decide", json=OPEN, headers={"origin": url}).json()["outcome"] == "allow"


def test_gateway_adapters_accept_a_foreign_origin_but_no_foreign_host(url: str) -> None:
    page = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert httpx.get(f"{url}/forward-auth", headers={**page, **FORWARDED}).status_code == 200
    assert httpx.get(f"{url}/forward-auth/nginx", headers={**page, **FORWARDED}).status_code == 200
    assert httpx.get(f"{url}/envoy/health", headers={**page, **BY_ENVOY}).status_code == 200
    for door in ("/forward-auth", "/forward-auth/nginx", "/envoy/health"):
        evil = {**FORWARDED, "host": "rebound.example"}
        assert httpx.get(f"{url}{door}", headers=evil).status_code == 403


def test_gateway_adapters_refuse_requests_without_gateway_headers(url: str) -> None:
    found = httpx.get(f"{url}/envoy/health")
    assert (found.status_code, found.json()["code"]) == (403, "foreign_gateway")
    assert httpx.get(f"{url}/forward-auth").status_code == 400
    for path in ("/envoyx/health", "/forward-auth/other", "/forward-auth/"):
        assert httpx.get(f"{url}{path}", headers={"origin": "null", **BY_ENVOY}).status_code == 403


# ── Other ports ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_the_metrics_port_checks_the_host(serving: tuple[str, int, int], path: str) -> None:
    status = f"http://127.0.0.1:{serving[1]}"
    assert statuses(raw(status, get(path, b"rebound.example"))) == [403]
    assert statuses(raw(status, get(path, b"pdp.example"))) == [200]
    assert statuses(raw(status, get(path))) == [200]


def test_the_envoy_grpc_port_does_not_speak_http_1(serving: tuple[str, int, int]) -> None:
    """HTTP/2 without TLS begins with words that no browser says."""
    assert b"HTTP/1" not in raw(f"http://127.0.0.1:{serving[2]}", get("/", b"rebound.example"))


def test_refused_foreign_requests_are_counted(url: str) -> None:
    httpx.get(f"{url}/healthz", headers={"host": "rebound.example"})
    text = httpx.get(f"{url}/metrics").text
    assert float(re.findall(r'^policyengine_foreign_requests_total\{header="host"\} (\S+)', text, re.MULTILINE)[0]) >= 1


# ── With a token, and in an application of one's own ──────────────────────────────────────────


def test_a_server_with_a_token_accepts_every_host_and_origin(call: Any) -> None:
    """Also what needs no token: it tells nothing that anybody would have to hide."""
    evil = {"host": "rebound.example", "origin": "https://evil.example"}
    assert call("POST", "/decide", json=OPEN, token=TOKEN, headers=evil).status_code == 401
    with_token = {**evil, "authorization": f"Bearer {TOKEN}"}
    assert call("POST", "/decide", json=OPEN, token=TOKEN, headers=with_token).status_code == 200


def test_the_metrics_port_checks_the_host_even_if_the_server_has_a_token() -> None:
    app = create_app(Engine.from_text(POLICY), token=TOKEN)
    status = status_app(app.api)  # type: ignore[attr-defined]
    found = {
        host: asyncio.run(got(status, "/readyz", host, ("10.1.2.3", 9090)))
        for host in ("10.1.2.3:9090", "127.0.0.1:9090", "10.1.2.4:9090", "rebound.example:9090")
    }
    assert list(found.values()) == [200, 200, 403, 403]


async def got(app: ASGIApp, path: str, host: str, server: tuple[str, int]) -> int:
    """The status of an answer on a connection that arrived at that address, as a pod has one of its own."""
    sent: list[Message] = []
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": [(b"host", host.encode())], "server": server, "scheme": "http"}  # fmt: skip

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    await app(scope, receive, send)
    return int(sent[0]["status"])


def test_an_embedded_application_accepts_only_its_configured_hosts(call: Any) -> None:
    named = {"host": "pdp.example"}
    assert call("POST", "/decide", json=OPEN, headers=named).status_code == 403
    for options in ({"allowed_hosts": ["*.example"]}, {"public_url": "https://pdp.example/api"}):
        app = create_app(Engine.from_text(POLICY), **options)  # type: ignore[arg-type]
        assert asking(app, "http://pdp.example").status_code == 200
    assert asking(create_app(Engine.from_text(POLICY)), "http://pdp.example").status_code == 403


def asking(app: Any, base: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.post("/decide", json=OPEN)

    return asyncio.run(run())


def test_an_invalid_allowed_host_fails_before_the_server_listens(engine: Watched) -> None:
    with pytest.raises(AllowedHostError):
        serve(engine, port=0, allowed_hosts=["http://a"], listening=lambda url: pytest.fail(f"listens on {url}"))  # type: ignore[arg-type]


def test_the_log_reports_refused_requests_once_a_minute_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    check = HostCheck(AllowedHosts(), ServerCounters(), lambda: now)
    scope = {
        "method": "GET",
        "path": "/healthz",
        "headers": [(b"host", b"rebound.example")],
        "server": ("127.0.0.1", 1),
    }
    with caplog.at_level(logging.WARNING):
        assert all(check.problem(scope) is not None for _ in range(3))
        now = LOG_INTERVAL_SECONDS
        check.problem(scope)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("a request was refused: the Host `rebound.example`")
    assert second.startswith("3 requests were refused; the latest because the Host `rebound.example`")
