"""Real gateways with the files of deploy/: what is allowed passes, and nothing else does, whatever the client sends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyengine.runtime.paths import CanonicalPath, canonical_path
from tests.gateways.servers import (
    DEPLOY,
    KINDS,
    Gateway,
    Kind,
    Seen,
    Upstream,
    gateway,
    put,
    talking,
    with_long_timeouts,
)  # fmt: skip
from tests.security.paths import MALFORMED, READ, readings

WRITER, READER = "Authorization: Bearer demo-writer", "Authorization: Bearer demo-reader"
OPEN, SHUT = "/public", "/public/admin"
FACTS = [
    "id", "issuer", "instance", "groups", "user", "credential", "credential-issuer", "scopes", "issued-at",
    "expires-at", "lifetime", "bound", "size",
]  # fmt: skip
UNDER_NO_NAME = [f"x-agent-{name}" for name in FACTS]


def under(path: str, place: str) -> bool:
    return path == place or path.startswith(place + "/")


def only(seen: list[Seen]) -> Seen:
    assert len(seen) == 1
    return seen[0]


# ── Outcomes ──────────────────────────────────────────────────────────────────────────────────


def test_an_allowed_request_passes_with_the_names_of_its_caller(web: Gateway) -> None:
    answer = web.client.ask("/v1/things/7?a=%2F&b", WRITER)
    assert (answer.status, answer.body) == (200, b"ok")
    seen = only(web.api.taken())
    assert (seen.method, seen.target) == ("GET", "/v1/things/7?a=%2F&b")
    assert seen.values("x-auth-subject") == ["invoice-bot"]
    assert seen.values("x-auth-user") == ["alice"]
    assert len(seen.values("x-decision-id")) == 1
    # As the table in docs/gateways.md says it.
    told = [answer.headers["x-decision-id"]] if "x-decision-id" in answer.headers else []
    assert told == (seen.values("x-decision-id") if web.kind.name in ("nginx", "envoy-http", "envoy-grpc") else [])


def test_an_anonymous_request_passes_without_caller_names(web: Gateway) -> None:
    assert web.client.ask("/public/x").status == 200
    seen = only(web.api.taken())
    assert "".join(seen.values("x-auth-subject") + seen.values("x-auth-user")) == ""


def test_an_allowed_body_passes_unchanged(web: Gateway) -> None:
    answer = web.client.ask("/v1/things", WRITER, "Content-Type: text/plain", method="POST", body=b"x" * 12_000)
    assert answer.status == 200
    assert only(web.api.taken()).body == b"x" * 12_000


def test_a_denied_request_gets_a_problem_body_and_does_not_reach_the_server(web: Gateway) -> None:
    answer = web.client.ask("/v1/shut", WRITER)
    assert answer.status == 403
    assert answer.problem["detail"] == "shut für everybody"
    assert answer.problem["outcome"] == "deny"
    assert answer.problem["decision"] == answer.headers["x-decision-id"]
    assert web.api.taken() == []


MCP = ("Mcp-Protocol-Version: 2026-07-28",)  # of a client of MCP, to which nginx sends errors of JSON-RPC


@pytest.mark.parametrize("more", [(), MCP], ids=["http", "mcp"])
def test_a_request_without_credentials_gets_401(web: Gateway, more: tuple[str, ...]) -> None:
    answer = web.client.ask("/v1/things/7", *more)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="agents"'
    assert answer.problem["status"] == 401
    assert web.api.taken() == []


def test_a_missing_scope_is_denied(web: Gateway) -> None:
    assert web.client.ask("/v1/things/7", READER).status == 200
    assert web.client.ask("/v1/things", READER, method="POST").status == 403
    assert len(web.api.taken()) == 1


@pytest.mark.parametrize("more", [(), MCP], ids=["http", "mcp"])
def test_a_confirm_is_denied_with_the_approval_binding(web: Gateway, more: tuple[str, ...]) -> None:
    answer = web.client.ask("/v1/ask", WRITER, *more, method="POST")
    assert (answer.status, answer.problem["outcome"]) == (403, "confirm")
    remedy = answer.problem["remedies"][0]
    assert (remedy["kind"], remedy["by"], remedy["within"]) == ("approval", "role finance", "15m")
    assert remedy["binding"].startswith("sha256:")
    assert web.api.taken() == []


@pytest.mark.parametrize("more", [(), MCP], ids=["http", "mcp"])
def test_a_throttled_request_gets_429_with_retry_after(web: Gateway, more: tuple[str, ...]) -> None:
    answers = [web.client.ask("/v1/seldom", WRITER, *more) for _ in range(2)]
    assert answers[1].status == 429
    assert 0 < int(answers[1].headers["retry-after"]) <= 3_600  # all gateways share the rate of the user
    assert answers[1].headers["ratelimit-policy"] == '"now and then";q=1;w=3600'
    assert answers[1].problem["outcome"] == "throttle"
    assert len(web.api.taken()) <= 1


def test_an_obligation_the_gateway_cannot_meet_is_denied(web: Gateway) -> None:
    assert web.client.ask("/v1/hidden", WRITER).status == 403
    assert web.api.taken() == []


@pytest.mark.parametrize("path", ["/public/x", "/v1/things/7", "/public/admin"])
def test_without_an_engine_the_gateway_passes_nothing(alone: Gateway, path: str) -> None:
    alone.api.taken()
    answer = alone.client.ask(path, WRITER)
    assert answer.status == alone.kind.says_undecided
    assert alone.api.taken() == []


@pytest.mark.parametrize("kind", [one for one in KINDS if one.name == "nginx"], indirect=True, ids=["nginx"])
def test_without_an_engine_a_client_of_mcp_gets_an_error_of_json_rpc_from_nginx(alone: Gateway) -> None:
    alone.api.taken()
    answer = alone.client.ask("/v1/ask", WRITER, *MCP, method="POST")
    error = {"code": -32603, "message": "the request was not decided: no answer of the engine"}
    assert (answer.status, answer.headers["content-type"]) == (503, "application/json")
    assert json.loads(answer.body) == {"jsonrpc": "2.0", "id": None, "error": error}
    assert alone.api.taken() == []


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Elsewhere\r\nLocation: /public/x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200",
    ],
)
def test_a_malformed_engine_answer_passes_nothing(alone: Gateway, nonsense: bytes) -> None:
    alone.api.taken()
    with talking(alone.ports, nonsense):
        assert alone.client.ask("/public/x", WRITER).status >= 300
    assert alone.api.taken() == []


# ── What is said of the request ───────────────────────────────────────────────────────────────


def test_the_policy_sees_the_real_client_address_despite_forged_headers(web: Gateway) -> None:
    forged = ("X-Real-IP: 9.9.9.9", "X-Forwarded-For: 9.9.9.9", "Forwarded: for=9.9.9.9")
    assert web.client.ask("/v1/here", WRITER, *forged).status == 200


def test_the_policy_and_the_server_see_the_same_host_and_query(web: Gateway) -> None:
    asked = web.client.ask("/v1/host", WRITER, "X-Forwarded-Host: evil.example", host="api.acme.example")
    assert asked.status == 200
    assert only(web.api.taken()).values("host") == ["api.acme.example"]
    assert web.client.ask("/v1/host", WRITER, "X-Forwarded-Host: api.acme.example", host="evil.example").status == 403
    assert web.client.ask("/v1/query?page=7", WRITER).status == 200
    assert web.client.ask("/v1/query?page=7&page=8", WRITER).status == 403


@pytest.mark.parametrize("query", ["x=1#&page=7", "page=7#", "page=7#&page=8", "#page=7"])
def test_no_query_with_a_hash_reaches_the_server(web: Gateway, query: str) -> None:
    """Some gateways take the rest away before they ask, and then it reaches nobody."""
    web.client.ask(f"/v1/query?{query}", WRITER)
    assert [seen.target for seen in web.api.taken() if "#" in seen.target] == []


def test_a_cross_site_request_of_a_client_is_decided_normally(web: Gateway) -> None:
    """What a client says of the page that it shows is for the API and its policy, and nothing of who asks us."""
    page = ("Origin: https://app.example", "Sec-Fetch-Site: cross-site", "Referer: https://app.example/")
    assert web.client.ask("/public/a", *page).status == 200
    assert only(web.api.taken()).values("origin") == ["https://app.example"]


def test_a_client_may_use_any_host_name_unless_envoy_asks_with_it(web: Gateway) -> None:
    """Envoy alone asks with the name that its client used, so only there the engine has to know it."""
    found = web.client.ask("/public/a", host="www.acme.example:8000")
    assert found.status == (403 if web.kind.name == "envoy-http" else 200)
    if found.status == 403:
        assert "`--allowed-host NAME`" in found.problem["hint"]
        assert web.api.taken() == []
    assert web.client.ask("/public/a", host="api.acme.example:8000").status == 200


@pytest.mark.parametrize("host", ["API.Acme.Example", "api.acme.example:8443", "api.acme.example."])
def test_a_host_is_compared_without_port_final_dot_and_case(web: Gateway, host: str) -> None:
    assert web.client.ask("/v1/host", WRITER, host=host).status == 200
    assert web.client.ask("/v1/host", WRITER, host=f"evil.{host}").status == 403


@pytest.mark.parametrize(
    ("target", "host"), [("api.acme.example", "evil.example"), ("evil.example", "api.acme.example")]
)
def test_a_host_in_the_request_line_is_decided_as_the_server_sees_it(web: Gateway, target: str, host: str) -> None:
    answer = web.client.ask(f"http://{target}/v1/host", WRITER, host=host)
    seen = [one.values("host") for one in web.api.taken()]
    assert (answer.status == 200) == (seen == [["api.acme.example"]])


JSON = "Content-Type: application/json"


def test_the_policy_sees_the_body_when_the_gateway_sends_it_and_else_denies(web: Gateway) -> None:
    answer = web.client.ask("/v1/pay", WRITER, JSON, method="POST", body=b'{"amount": 10}')
    assert answer.status == (200 if web.kind.sees_body else 403)
    assert [one.body for one in web.api.taken()] == ([b'{"amount": 10}'] if web.kind.sees_body else [])


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount": 11}',
        b'{"amount": 11, "amount": 10}',
        b'{"amount": "10"}',
        b"[]",
        b"",
        b'{"amount": 10',
        b"\xff",
        b'{"amount": 10, "Amount": 11}',
        b'{"amount": 10, "x": "\xff"}',
        b'{"amount": 10} {"amount": 11}',
        b'{"amount": 10, "x": "&amount=11&"}',
        b'{"amount": 10, "__proto__": {}}',
        b'\xef\xbb\xbf{"amount": 10}',
        b'{"amount": 9007199254740993}',
        b'{"Amount": 10}',
    ],
)
def test_an_invalid_body_is_denied(web: Gateway, body: bytes) -> None:
    assert web.client.ask("/v1/pay", WRITER, JSON, method="POST", body=body).status == 403
    assert web.api.taken() == []


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Type: text/plain",),
        (JSON, "Content-Encoding: gzip"),
        (),
        (JSON, JSON),
        (JSON, "Content-Type: text/plain"),
        (f"{JSON}; charset=utf-7",),
        (f"{JSON}, text/plain",),
        (f"{JSON}; charset=utf-8; charset=utf-7",),
        (JSON, "Content-Encoding: identity"),
    ],
)
def test_an_ambiguous_body_does_not_reach_the_server(web: Gateway, headers: tuple[str, ...]) -> None:
    web.client.ask("/v1/pay", WRITER, *headers, method="POST", body=b'{"amount": 10}')
    assert web.api.taken() == []


@pytest.mark.parametrize("partial", ["true", "false"])
def test_a_forged_partial_body_header_changes_nothing(web: Gateway, partial: str) -> None:
    headers = (JSON, f"X-Envoy-Auth-Partial-Body: {partial}")
    answer = web.client.ask("/v1/pay", WRITER, *headers, method="POST", body=b'{"amount": 10}')
    bodies = [seen.body for seen in web.api.taken()]
    assert (answer.status, bodies) == ((200, [b'{"amount": 10}']) if web.kind.sees_body else (403, []))


def test_a_body_too_large_for_the_engine_does_not_pass(web: Gateway) -> None:
    body = b'{"amount": 10' + b" " * 70_000 + b"}"
    assert web.client.ask("/v1/pay", WRITER, JSON, method="POST", body=body).status in (403, 413)
    assert web.api.taken() == []


FORM, PARTS = "Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (FORM, b"a=1&_method=DELETE"),
        (FORM, b".method=DELETE"),
        (JSON, b'{"_method": "DELETE"}'),
        (PARTS, b'--x\r\nContent-Disposition: form-data; name="_method"\r\n\r\nDELETE\r\n--x--\r\n'),
        ("X-Nothing: 1", b"_method=DELETE"),
    ],
)
def test_a_method_override_in_a_visible_body_does_not_pass(web: Gateway, head: str, body: bytes) -> None:
    """Where it sees none, whoever serves behind the gateway must not take one from there (docs/gateways.md)."""
    answer = web.client.ask("/v1/things", WRITER, head, method="POST", body=body)
    assert (answer.status, len(web.api.taken())) == ((403, 0) if web.kind.sees_body else (200, 1))
    assert web.client.ask("/v1/things", WRITER, head, method="POST", body=body.replace(b"method", b"m")).status == 200
    web.api.taken()


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"])
def test_the_server_gets_the_decided_method(web: Gateway, method: str) -> None:
    answer = web.client.ask("/v1/things/7", WRITER, method=method)
    seen = web.api.taken()
    assert (answer.status == 200) is (method in ("HEAD", "POST", "DELETE"))
    assert [one.method for one in seen] == ([method] if answer.status == 200 else [])


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_method_override_does_not_pass(web: Gateway, name: str) -> None:
    assert web.client.ask("/public/x", f"{name}: DELETE").status == 403
    assert web.client.ask("/public/x?_method=DELETE").status == 403
    assert web.api.taken() == []


# ── Forged ────────────────────────────────────────────────────────────────────────────────────


def spellings(name: str) -> list[str]:
    return [name, name.upper(), name.replace("-", "_"), name.replace("-", "_", 1), "_".join(name.rsplit("-", 1))]


@pytest.mark.parametrize("name", ["x-auth-subject", "x-auth-user"])
@pytest.mark.parametrize("path", ["/public/x", "/v1/things/7"])
def test_a_forged_caller_name_never_reaches_the_server(web: Gateway, name: str, path: str) -> None:
    for spelled in spellings(name):
        web.client.ask(path, WRITER, f"{spelled}: root", f"{spelled}: root")
    arrived = web.api.taken()
    assert arrived
    assert [value for seen in arrived for value in seen.values(name) if "root" in value] == []


@pytest.mark.parametrize("name", UNDER_NO_NAME)
def test_a_forged_fact_header_is_neither_used_nor_forwarded(web: Gateway, name: str) -> None:
    for spelled in spellings(name):
        assert web.client.ask("/v1/things/7", f"{spelled}: forged").status in (400, 401)
        web.client.ask("/v1/things/7", WRITER, f"{spelled}: forged")
    arrived = web.api.taken()
    assert arrived
    assert [seen.values(name) for seen in arrived] == [[]] * len(arrived)


def test_a_complete_set_of_forged_fact_headers_is_rejected(web: Gateway) -> None:
    forged = {
        "id": "invoice-bot", "issuer": "acme", "user": "alice", "credential": "jwt", "lifetime": "10m", "bound": "true",
        "scopes": "write:invoices",
    }  # fmt: skip
    for spell in (str, str.upper, lambda name: name.replace("-", "_")):
        lines = [f"{spell('x-agent-' + name)}: {value}" for name, value in forged.items()]
        assert web.client.ask("/v1/things/7", *lines).status in (400, 401)
        assert web.client.ask("/v1/things", READER, *lines, method="POST").status in (400, 403)
    assert web.api.taken() == []


def test_the_server_gets_the_caller_of_the_decided_credential(web: Gateway) -> None:
    """Of several, Traefik hands on the one that it decides by; the others refuse the request."""
    answer = web.client.ask("/v1/things", READER, "Authorization: Bearer nonsense", WRITER, method="POST")
    callers = [seen.values("x-auth-subject") for seen in web.api.taken()]
    if web.kind.name == "traefik":
        assert (answer.status, callers) == (200, [["invoice-bot"]])
    else:
        assert (answer.status in (400, 401), callers) == (True, [])


TARGETS = [
    "X-Original-URL", "X-Rewrite-URL", "X-Original-URI", "X-Original-Method", "X-Forwarded-Uri", "X-Forwarded-Method",
    "X-Forwarded-Host", "X-Forwarded-Path",
]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_header_that_names_another_target_has_no_effect(web: Gateway, name: str) -> None:
    """Neither way: what is shut stays shut, and no server learns of another target than the one that was decided."""
    for spelled in (name, name.replace("-", "_")):
        assert web.client.ask("/public/admin/x", f"{spelled}: /public/x").status in (400, 403)
        web.client.ask("/public/x", f"{spelled}: /public/admin")
    arrived = web.api.taken()
    assert arrived
    for seen in arrived:
        assert seen.target == "/public/x"
        if name not in ("X-Forwarded-Path",):
            assert "/public/admin" not in "".join(seen.values(name.lower()))


def test_the_gateway_does_not_upgrade_a_connection(web: Gateway) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    assert web.client.ask("/public/x", *upgrade).status == 200
    assert only(web.api.taken()).values("upgrade") == []


def test_the_gateway_sets_its_headers_even_when_connection_names_them(web: Gateway) -> None:
    """What `Connection` names is dropped on the way: it must not be what the gateway or the engine said."""
    names = ", ".join(
        ["close", "X-Auth-Subject", "X-Auth-User", *UNDER_NO_NAME, "X-Forwarded-Uri", "X-Forwarded-Method"]
    )
    answer = web.client.ask("/v1/things/7", WRITER, f"Connection: {names}")
    if web.kind.name.startswith("envoy"):  # which refuse a `Connection` with such names
        assert (answer.status, web.api.taken()) == (400, [])
    else:
        seen = only(web.api.taken())
        assert (answer.status, seen.values("x-auth-subject"), seen.values("x-auth-user")) == (
            200, ["invoice-bot"], ["alice"],
        )  # fmt: skip
    assert web.client.ask("/v1/shut", WRITER, f"Connection: {names}").status in (400, 401, 403)


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────


def test_the_server_sees_only_paths_that_were_decided(web: Gateway) -> None:
    """Whatever the gateway makes of a path: what arrives is what was decided, and no reading of it is shut."""
    arrived: list[tuple[str, Seen]] = []
    for path in [*READ, *MALFORMED]:
        if len(path) < 20_000 and not set(path) & set(" \0\r\n\t"):
            web.client.ask(path.encode("utf-8", "surrogatepass"))
            arrived += [(path, seen) for seen in web.api.taken()]
    decided = web.decided()
    for path, seen in arrived:
        target = seen.target.partition("?")[0]
        found = canonical_path(target)
        assert isinstance(found, CanonicalPath), (path, seen)
        record = decided[seen.values("x-decision-id")[0]]
        assert record["decision"]["outcome"] == "allow"
        assert json.dumps(record["request"]["request"]["path"]) == json.dumps(found.path), (path, seen)
        for reading in readings(target):
            assert under(reading.rstrip("/"), OPEN), (path, seen, reading)
            assert not under(reading, SHUT), (path, seen, reading)
    plain = {
        path for path, canonical_path in READ.items() if under(canonical_path, OPEN) and not under(canonical_path, SHUT)
    }
    assert {path for path, _ in arrived} >= {path for path in plain if path.isascii() and "%" not in path}


@pytest.mark.parametrize(
    "target", ["http://evil.example/public/admin", "http://127.0.0.1/public/../public/admin/x", "//public/admin", "*"]
)
def test_no_other_request_target_form_reaches_a_denied_path(web: Gateway, target: str) -> None:
    assert web.client.ask(target).status >= 300
    assert web.api.taken() == []


# ── The files ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_tested_gateway_files_differ_from_the_shipped_ones_only_in_ports_folders_and_timeouts(
    kind: Kind, tmp_path: Path
) -> None:
    put(kind, tmp_path, {8000: 1, 8080: 2, 8081: 3, 9000: 4})
    for name in (kind.file, *kind.others):
        used = (tmp_path / Path(name).name).read_text(encoding="utf-8").replace(str(tmp_path), "deploy/traefik")
        back = re.sub(r"(127\.0\.0\.1:|port_value: |//:)(\d)(?!\d)", as_shipped, used)
        assert back == with_long_timeouts((DEPLOY / name).read_text(encoding="utf-8"))


def as_shipped(found: re.Match[str]) -> str:
    return f"{found[1]}{ {'1': 8000, '2': 8080, '3': 8081, '4': 9000}[found[2]] }"


PAGE = (DEPLOY.parent / "docs" / "gateways.md").read_text(encoding="utf-8")
TRIED = re.findall(r"^curl -i http://127\.0\.0\.1:8000(\S+)(.*?) +# (\d+)", PAGE, re.MULTILINE)


def test_the_curl_examples_on_the_page_return_the_stated_status(
    kind: Kind, payments: tuple[int, int], api: Upstream, tmp_path: Path
) -> None:
    assert len(TRIED) == 5
    with gateway(kind, tmp_path, api, payments, None) as started:
        for path, options, status in TRIED:
            headers = re.findall(r"-H '(.*?)'", options)
            method = "POST" if "-X POST" in options else "GET"
            assert started.client.ask(path, *headers, method=method).status == int(status), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_page_contains_the_start_command_of_each_gateway_file(kind: Kind) -> None:
    starts = re.findall(r"^#   (.+)$", (DEPLOY / kind.file).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(starts) == 1
    assert starts[0] in PAGE


def test_the_lines_for_nginx_on_the_page_about_approvals_are_in_its_file() -> None:
    page = (DEPLOY.parent / "docs" / "approvals.md").read_text(encoding="utf-8")
    file = {line.strip() for line in (DEPLOY / "nginx" / "nginx.conf").read_text(encoding="utf-8").splitlines()}
    shown = "".join(re.findall(r"^ *```nginx\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)).splitlines()
    assert len(shown) >= 8
    assert [line for line in shown if line.strip() not in file] == []


@pytest.fixture
def packing_no_bytes(
    api: Upstream, engine_ports: tuple[int, int], decisions: Path, tmp_path: Path
) -> Iterator[Gateway]:
    """Envoy over gRPC, as it is by default."""
    kind = next(one for one in KINDS if one.name == "envoy-grpc")
    if kind.found() is None:
        pytest.skip(f"{kind.name} is missing: {kind.install}")

    def change(text: str) -> str:
        assert "pack_as_bytes: true" in text
        return text.replace("pack_as_bytes: true", "pack_as_bytes: false")

    with gateway(kind, tmp_path, api, engine_ports, decisions, change) as one:
        yield one


def test_a_body_that_envoy_sends_as_text_is_unknown(packing_no_bytes: Gateway) -> None:
    web = packing_no_bytes
    web.api.taken()
    for content in (b'{"amount": 10}', b'{"amount": 10, "x": "\xff"}'):
        answer = web.client.ask("/v1/pay", WRITER, JSON, method="POST", body=content)
        assert "the body was sent as text, not as bytes (set `pack_as_bytes`)" in answer.problem["detail"]
    assert web.client.ask("/v1/things", WRITER, JSON, method="POST", body=b'{"_method": "DELETE"}').status == 403
    assert web.api.taken() == []
