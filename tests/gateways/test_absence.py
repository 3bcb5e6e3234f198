"""Through real gateways: what did not arrive opens no door and keeps no guard from acting, unless it is known not to be
there; whatever reaches the server behind was decided as that server reads it."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from policyengine.audit import read_records, replay_decision
from policyengine.cli.settings.file import load_settings
from policyengine.engine import Engine
from policyengine.runtime.paths import OVERRIDE_HEADERS
from tests.gateways.conftest import ABSENCE, SITE
from tests.gateways.servers import DEPLOY, KINDS, Gateway, Kind, Upstream, gateway

HOST = "api.acme.example"  # which the engine has to know, as Envoy over HTTP asks with it
JSON = "Content-Type: application/json"
ADMIN = b'{"to": "mallory", "role": "admin"}'
PLACES = ("else", "present", "absent")


class Shape(NamedTuple):
    """A body as it is sent."""

    headers: tuple[str, ...]
    body: bytes
    chunked: bool = False

    def sent(self, path: str, method: str = "POST") -> bytes:
        framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {len(self.body)}"
        head = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {HOST}", *self.headers, framing, "", ""])
        size = b"%x\r\n" % len(self.body)
        return head.encode() + (size + self.body + b"\r\n0\r\n\r\n" if self.chunked else self.body)


UNREADABLE = {
    "text": Shape(("Content-Type: text/plain",), ADMIN),
    "another type": Shape(("Content-Type: application/vnd.acme",), ADMIN),
    "no type": Shape((), ADMIN),
    "two types": Shape(("Content-Type: text/plain", JSON), ADMIN),
    "a type that is dropped on the way": Shape((JSON, "Connection: content-type"), ADMIN),
    "a list": Shape((JSON,), b"[" + ADMIN + b"]"),
    "a mark": Shape((JSON,), b"\xef\xbb\xbf" + ADMIN),
    "UTF-16": Shape((JSON,), ADMIN.decode().encode("utf-16")),
    "identity": Shape((JSON, "Content-Encoding: identity"), ADMIN),
    "gzip": Shape((JSON, "Content-Encoding: gzip"), gzip.compress(ADMIN, mtime=0)),
    "33 levels": Shape((JSON,), b'{"a": ' * 33 + b"1" + b"}" * 33),
    "garbage behind": Shape((JSON,), ADMIN + b" x"),
    "cut off": Shape((JSON,), ADMIN[:-1]),
    "a form as text": Shape(("Content-Type: text/plain",), b"to=mallory&role=admin"),
    "white space": Shape((JSON,), b" "),
    "no text": Shape((JSON,), b"\xff\xfe\xfd"),
    "in chunks": Shape(("Content-Type: text/plain",), ADMIN, chunked=True),
    "in parts": Shape(
        ("Content-Type: multipart/form-data; boundary=x",), b'--x\r\nContent-Disposition: form-data; name="to"'
    ),
    "larger than is handed on": Shape((JSON,), b'{"role": "admin", "to": "mallory", "a": "' + b"x" * 70_000 + b'"}'),
}


def passed(web: Gateway, shape: Shape, path: str, method: str = "POST") -> bool:
    """Whether the server behind got it, and if so whole."""
    web.api.taken()
    status = web.client.send(shape.sent(path, method), method).status
    seen = web.api.taken()
    assert (status == 200) is (len(seen) == 1)
    assert [one.body for one in seen] in ([], [shape.body])
    return status == 200


def opened(web: Gateway, shape: Shape) -> list[str]:
    return [place for place in PLACES if passed(web, shape, f"/absence/body/{place}")]


def test_a_body_that_is_not_one_readable_object_is_unknown(web: Gateway) -> None:
    sent = UNREADABLE if web.kind.sees_body else {name: UNREADABLE[name] for name in ("text", "a list", "in chunks")}
    assert {name: found for name, shape in sent.items() if (found := opened(web, shape))} == {}


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ({}, ["else", "present", "absent"]),
        ({"to": "alice"}, ["else", "present"]),
        ({"to": "mallory"}, ["present"]),
        ({"role": "admin"}, ["else", "absent"]),
        ({"to": None, "role": None}, ["else", "present", "absent"]),
        ({"to": 7, "role": 7}, []),
    ],
)
def test_a_completely_read_body_has_no_unknown_members(
    web: Gateway, body: dict[str, object], passes: list[str]
) -> None:
    shape = Shape((JSON,), json.dumps(body).encode())
    assert opened(web, shape) == (passes if web.kind.sees_body else [])


def test_a_confirm_needs_a_readable_body(web: Gateway) -> None:
    for body, asked in ((b'{"to": "alice"}', web.kind.sees_body), (b"[1]", False)):
        answer = web.client.send(Shape((JSON,), body).sent("/absence/body/confirm"), "POST")
        assert (answer.status, answer.problem["outcome"]) == (403, "confirm" if asked else "deny")
        assert [one["kind"] for one in answer.problem["remedies"]] == ["approval" if asked else "facts"]


# By which gateways it is shown that there is no body: no header says a word of one, its length is 0, or
# the only chunk is the last one.
EMPTY = {
    "nothing": ("nginx", "envoy-http", "envoy-grpc"),
    "length 0": ("nginx", "caddy", "caddy-2.6", "envoy-http", "envoy-grpc"),
    "no chunk": ("envoy-http", "envoy-grpc"),
}


@pytest.mark.parametrize("how", EMPTY)
def test_body_members_are_absent_when_the_gateway_shows_an_empty_body(web: Gateway, how: str) -> None:
    framing = {"nothing": "", "length 0": "Content-Length: 0\r\n", "no chunk": "Transfer-Encoding: chunked\r\n"}[how]
    found = []
    for place in PLACES:
        head = f"POST /absence/body/{place} HTTP/1.1\r\nHost: {HOST}\r\n{JSON}\r\n{framing}\r\n"
        answer = web.client.send(head.encode() + (b"0\r\n\r\n" if how == "no chunk" else b""))
        found += [place] if answer.status == 200 else []
    assert found == (list(PLACES) if web.kind.name in EMPTY[how] else [])


def test_a_length_header_dropped_by_connection_does_not_make_the_body_empty(web: Gateway) -> None:
    shape = Shape((JSON, "Connection: close, Content-Length, Transfer-Encoding"), ADMIN)
    assert opened(web, shape) == []


def test_the_size_is_known_when_the_gateway_sends_it_or_the_whole_body(web: Gateway) -> None:
    small, large = Shape((JSON,), b"{}"), Shape((JSON,), b'{"a": "' + b"x" * 100 + b'"}')
    chunked = [one._replace(chunked=True) for one in (small, large)]
    found = [passed(web, one, "/absence/size") for one in (small, large, *chunked)]
    assert found == [web.kind.name != "traefik", False, web.kind.sees_body, False]


def test_a_client_cannot_forge_the_body_size(web: Gateway) -> None:
    for spelled in ("X-Agent-Size", "x-agent-size", "X_Agent_Size", "X-Envoy-Auth-Partial-Body"):
        forged = Shape(("Content-Type: text/plain", f"{spelled}: 0", f"{spelled}: false"), ADMIN)
        assert opened(web, forged) == []


def test_a_missing_length_in_http_2_does_not_mean_an_empty_body(
    api: Upstream, engine_ports: tuple[int, int], tmp_path: Path
) -> None:
    """There a body may follow without a word of it; a length that is said is that of the body."""
    kind, curl = KINDS[0], shutil.which("curl")
    if kind.found() is None or curl is None:
        pytest.skip("nginx or curl is missing: apt install nginx curl")

    def status(*options: str) -> str:
        url = f"http://127.0.0.1:{web.client.port}/absence/body/absent"
        asked = [curl, "-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--http2-prior-knowledge"]
        asked += ["-H", f"Host: {HOST}", "-X", "POST", *options, url]
        return subprocess.run(asked, input=ADMIN, capture_output=True, check=True, timeout=30).stdout.decode()

    with gateway(
        kind, tmp_path, api, engine_ports, None, lambda text: text.replace(":8000;", ":8000; http2 on;")
    ) as web:
        assert status() == "2 401"
        assert status("-T", "-") == "2 401"
        assert status("--data-binary", "@-") == "2 401"


# ── Headers ───────────────────────────────────────────────────────────────────────────────────


def allowed(web: Gateway, path: str, *headers: str) -> bool:
    return web.client.ask(path, *headers).status == 200


def test_a_missing_header_is_absent_only_when_the_gateway_forwards_all_headers(web: Gateway) -> None:
    for place in PLACES:
        assert allowed(web, f"/absence/role/{place}") is web.kind.sees_headers
        assert not allowed(web, f"/absence/role/{place}", "X-Role: admin")
    assert allowed(web, "/absence/role/else", "X-Role: guest") is web.kind.sees_headers


def test_a_repeated_header_is_unknown_and_an_empty_header_is_present(web: Gateway) -> None:
    for values in (("guest", "admin"), ("admin", "guest"), ("admin", "admin"), ("admin", "")):
        assert not allowed(web, "/absence/role/else", *(f"X-Role: {value}" for value in values))
    for place, passes in zip(PLACES, (web.kind.sees_headers, False, False), strict=True):
        assert allowed(web, f"/absence/role/{place}", "X-Role:") is passes


def test_a_header_dropped_by_connection_does_not_reach_the_server(web: Gateway) -> None:
    """A client may name headers in `Connection`, for proxies to drop: the server must not see what we did not."""
    for named in ("X-Role, close", "close, x-role"):
        web.api.taken()
        for place in PLACES:
            allowed(web, f"/absence/role/{place}", "X-Role: admin", f"Connection: {named}")
        assert [seen.values("x-role") for seen in web.api.taken()] in ([], [[]] * 3)


def test_withheld_secret_headers_are_unknown(web: Gateway) -> None:
    assert not allowed(web, "/absence/cookie", "Cookie: a=b")
    assert allowed(web, "/absence/cookie") is web.kind.sees_headers
    for headers in ((), ("Authorization: Bearer x",)):
        assert not allowed(web, "/absence/authorization", *headers)


def test_a_hop_by_hop_header_is_unknown(web: Gateway) -> None:
    assert not allowed(web, "/absence/upgrade")


def test_the_gateway_sends_the_query_with_the_path(web: Gateway) -> None:
    assert allowed(web, "/absence/query")
    assert allowed(web, "/absence/query?as=guest")
    assert not allowed(web, "/absence/query?as=admin")
    assert not allowed(web, "/absence/query?as=guest&as=admin")


def test_replaying_a_logged_decision_gives_the_same_decision(web: Gateway) -> None:
    assert web.log is not None
    before = len(list(read_records(web.log)))
    for place in PLACES:
        allowed(web, f"/absence/role/{place}", "Cookie: a=b")
        passed(web, Shape((JSON,), b'{"to": "alice"}'), f"/absence/body/{place}")
    made = list(read_records(web.log))[before:]
    kernel = Engine.load(SITE, ABSENCE).kernel
    assert len(made) == 6
    assert all(replay_decision(record, kernel).same for record in made)
    assert all("request.headers.*" in one.question.pending or web.kind.sees_headers for one in made)


# ── One header more ───────────────────────────────────────────────────────────────────────────

NAMING = [one for one in KINDS if not one.sees_headers]


@pytest.fixture(scope="module", params=NAMING, ids=lambda one: one.name)
def naming(
    request: pytest.FixtureRequest,
    api: Upstream,
    engine_ports: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway that hands on no header but those that its file names, with the one that is commented out."""
    found: Kind = request.param
    if found.found() is None:
        pytest.skip(f"{found.name} is missing: {found.install}")
    folder = tmp_path_factory.mktemp(f"{found.name}-tenant")
    with gateway(found, folder, api, engine_ports, None, lambda text: text.replace("#tenant ", "")) as one:
        yield one


def test_a_configured_header_is_absent_when_it_does_not_arrive(naming: Gateway) -> None:
    for place in ("else", "present"):
        assert allowed(naming, f"/absence/tenant/{place}")
        assert not allowed(naming, f"/absence/tenant/{place}", "X-Tenant: evil")
        assert not allowed(naming, f"/absence/role/{place}")
    assert allowed(naming, "/absence/tenant/else", "X-Tenant: acme")


def test_a_repeated_configured_header_is_unknown(naming: Gateway) -> None:
    for values in (("acme", "evil"), ("evil", "acme"), ("evil", "evil"), ("acme, evil",)):
        assert not allowed(naming, "/absence/tenant/else", *(f"X-Tenant: {value}" for value in values))


def test_an_empty_configured_header_reaches_the_server_as_it_was_decided(naming: Gateway) -> None:
    """nginx hands on none that is empty: then the server gets none either."""
    naming.api.taken()
    status = naming.client.ask("/absence/tenant/present", "X-Tenant:").status
    assert [seen.values("x-tenant") for seen in naming.api.taken()] == ([[]] if status == 200 else [])


# ── The files ─────────────────────────────────────────────────────────────────────────────────


def lines_of(name: str) -> list[str]:
    """Those that say something."""
    lines = map(str.strip, (DEPLOY / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_the_settings_list_the_headers_the_gateway_files_forward() -> None:
    names = load_settings([DEPLOY]).gateway
    told = "\n".join(lines_of("nginx/nginx.conf")).partition("/_policyengine {")[2].partition("}")[0]
    by_nginx = {name.lower() for name in re.findall(r"proxy_set_header (\S+) \$", told)}
    by_envoy = {line.removeprefix("- exact: ") for line in lines_of("envoy/http.yaml") if line.startswith("- exact: ")}
    assert set(names.hands_on_nginx) <= by_nginx
    assert set(names.hands_on_envoy) <= by_envoy
    assert set(names.hands_on_nginx) & set(names.hands_on_envoy) >= OVERRIDE_HEADERS
    assert (names.hands_on_forward_auth, names.hands_on_envoy_grpc) == (("all",), ("all",))


def test_the_gateway_files_that_forward_everything_leave_nothing_out() -> None:
    assert not [line for line in lines_of("envoy/grpc.yaml") if "allowed_headers" in line]
    assert not [line for line in lines_of("traefik/routes.yml") if "authRequestHeaders" in line]
    taken = [line for line in lines_of("caddy/Caddyfile") if line.startswith("header_up -")]
    assert taken == ["header_up -Authorization"]
    for name in load_settings([DEPLOY]).gateway.bodies:
        lines = lines_of({"envoy": "envoy/http.yaml", "envoy_grpc": "envoy/grpc.yaml"}[name])
        assert [line for line in lines if "with_request_body" in line and "allow_partial_message: false" in line]
