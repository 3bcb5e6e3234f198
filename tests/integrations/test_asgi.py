"""The ASGI middleware and the FastAPI dependency, in front of real applications."""

from __future__ import annotations

import asyncio
import warnings
from datetime import timedelta
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from policyengine.engine import Engine
from policyengine.integrations.asgi import DECISION, PolicyMiddleware
from policyengine.integrations.body_needs import looks_into_bodies
from policyengine.integrations.enforcement_point import Duties
from policyengine.integrations.fastapi import Policies, PolicyDeniedError, problem_details
from policyengine.integrations.http_facts import (
    MAX_BODY_BYTES,
    build_http_question,
    request_facts,
    route_path,
    unread_body_facts,
)
from policyengine.runtime.decision import Decision
from policyengine.runtime.structure_checks import RequestError
from policyengine.runtime.values import Invalid
from tests.generate.impostors import Agreeable, Changing, impostor
from tests.integrations.conftest import Watched

POLICY = """
language 1
package shop
entity user { roles: set<string> }
entity invoice {}
facts on POST /orders { body.total: number   body.admin: bool? }
issuer acme { url "https://login.acme.example"   scopes none }
anyone { may GET /health }
user any {
  may GET /files/**, POST /orders, POST /notes, GET /admin/users, GET /burst, GET /slow, GET /broken, GET /socket
  may GET /masked, GET /named, ACTION view invoice
}
guard "large" on POST /orders {
  deny when body.total > 100
  deny when body.admin is present
  confirm by role finance within 5m when body.total > 50
}
guard "not secret" on GET /files/** { deny when request.path like "/files/secret*" }
guard "mine" on ACTION view invoice { require resource.id != "66" }
guard "named" on GET /named { require request.host == "api.example" }
guard "masks" on GET /masked { header "X-Masked" "yes" }
rate "burst" per user.id on GET /burst { 2/1m }
rate "one at a time" per user.id on GET /slow, GET /broken { at most 1 at once for 1h }
"""
ALICE = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}


@pytest.fixture
def watched(clock: Any) -> Watched:
    return Watched(Engine.from_text(POLICY, "shop.policy", clock=clock))


async def echo(request: Request) -> Response:
    body = (await request.body()).decode()
    return JSONResponse({"path": request.url.path, "body": body, "decided": DECISION in request.scope})


async def broken(request: Request) -> Response:
    raise RuntimeError("the application is broken")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def routes() -> Starlette:
    users = Starlette(routes=[Route("/users", echo), Route("/secrets", echo)])
    return Starlette(
        routes=[
            Mount("/admin", users),
            Route("/broken", broken),
            WebSocketRoute("/socket", socket),
            Route("/{rest:path}", echo, methods=["GET", "POST", "DELETE"]),
        ]
    )


def client_of(watched: Watched, who: Any = ALICE, app: Any = None, **options: Any) -> TestClient:
    options.setdefault("looks_into_body", looks_into_bodies(watched.engine))
    guarded = PolicyMiddleware(app or routes(), watched, identify=lambda scope: who, **options)
    return TestClient(guarded, raise_server_exceptions=False)


def test_an_allowed_request_reaches_the_application_with_its_decision(watched: Watched) -> None:
    answer = client_of(watched).get("/files/a?page=1")
    assert answer.json() == {"path": "/files/a", "body": "", "decided": True}
    assert watched.asked[0]["request"]["query"] == {"page": "1"}


ABSENCE = """
user any { may GET /cookie, GET /role, GET /key, ANY /size, POST /note }
guard "cookie" on GET /cookie { deny when request.headers["cookie"] is present }
guard "role" on GET /role { deny when request.headers["x-role"] is present }
guard "key" on GET /key { deny when (request.headers["x-api-key"] else "") == "" }
guard "size" on /size { deny when (request.size else 0) > 5 }
facts on POST /note { body.note: string? }
guard "note" on POST /note { deny when (body.note else "") == "urgent" }
issuer acme { scopes none }
"""


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/cookie", {}, 200),
        ("GET", "/cookie", {"headers": {"cookie": "a=b"}}, 403),
        ("GET", "/role", {"headers": {"cookie": "a=b"}}, 200),
        ("GET", "/role", {"headers": {"x-role": ""}}, 403),
        ("GET", "/role", {"headers": {"x_role": "admin"}}, 403),
        ("GET", "/role", {"headers": {"x.role": "admin"}}, 403),
        ("GET", "/key", {"headers": {"x.api.key": "s"}}, 403),
        ("GET", "/key", {"headers": {"x-api-key": "s"}}, 403),
        ("GET", "/size", {}, 200),
        ("POST", "/size", {"content": b"12345"}, 200),
        ("POST", "/size", {"content": b"123456"}, 403),
        ("POST", "/size", {"content": iter([b"1"])}, 403),
        ("POST", "/note", {}, 200),
        ("POST", "/note", {"json": {}}, 200),
        ("POST", "/note", {"json": {"note": "urgent"}}, 403),
        ("POST", "/note", {"json": ["urgent"]}, 403),
        ("POST", "/note", {"content": b"note=urgent"}, 403),
    ],
)
def test_a_withheld_or_unread_fact_is_unknown_and_not_absent(
    clock: Any, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    watched = Watched(Engine.from_text(ABSENCE, clock=clock))
    assert client_of(watched).request(method, path, **options).status_code == status


def test_a_body_no_rule_uses_is_not_read_and_pending(watched: Watched) -> None:
    client = client_of(watched)
    client.post("/notes", content=b"x", headers={"authorization": "Bearer s"})
    client.post("/notes")
    client.get("/files/a")
    pending = [question.get("pending") for question in watched.asked]
    assert pending == [["body", 'request.headers["authorization"]'], None, None]
    assert all("body" not in question for question in watched.asked)
    assert [question["request"]["size"] for question in watched.asked] == [1, 0, 0]


def test_the_request_size_is_the_length_of_the_read_body(watched: Watched) -> None:
    client_of(watched).post("/orders", content=iter([b'{"total"', b": 7}"]))
    assert watched.asked[0]["request"]["size"] == 12


@pytest.mark.parametrize(
    ("version", "headers", "size"),
    [
        ("1.1", [], 0),
        ("1.0", [], 0),
        ("2", [], None),
        ("2", [(b"content-length", b"3")], 3),
        ("1.1", [(b"transfer-encoding", b"chunked")], None),
        ("1.1", [(b"content-length", b"0"), (b"transfer-encoding", b"chunked")], None),
        ("1.1", [(b"transfer-encoding", b"chunked"), (b"content-length", b"3")], None),
        ("1.1", [(b"content-length", b"3"), (b"content-length", b"4")], None),
        ("1.1", [(b"content-length", b"-1")], None),
        ("1.1", [(b"content-length", b"9" * 16)], None),
    ],
)
def test_an_http_1_request_without_body_headers_has_no_body(
    version: str, headers: list[tuple[bytes, bytes]], size: int | None
) -> None:
    scope = {"type": "http", "http_version": version, "method": "POST", "path": "/x", "headers": headers}
    asked = build_http_question(scope, {}, unread_body_facts(scope))
    assert asked["request"].get("size") == size  # type: ignore[attr-defined]
    assert ("body" in asked.get("pending", ())) is (size != 0)  # type: ignore[operator]


def test_request_facts_given_by_the_application_are_not_pending() -> None:
    scope = {"type": "http", "http_version": "1.1", "path": "/x", "headers": [(b"cookie", b"a=b"), (b"host", b"h")]}
    assert build_http_question(scope, {}, {})["pending"] == ['request.headers["cookie"]', "request.ip"]
    told = {"request": {"headers": {"cookie": "a=b"}, "ip": "10.0.0.1"}}
    assert "pending" not in build_http_question(scope, told, {})


def test_a_denial_is_a_problem_response_with_the_reason(watched: Watched) -> None:
    answer = client_of(watched).delete("/files/a")
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["outcome"] == "deny"
    assert answer.json()["detail"].startswith("denied: no block grants this")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "status"),
    [("api.example", 200), ("API.Example.:8443", 200), ("api.example:", 200), ("evil.api.example", 403), ("a@b", 403),
     ("api.example,evil.example", 403), ("", 403)],
)  # fmt: skip
def test_a_host_is_compared_without_port_final_dot_and_case(watched: Watched, host: str, status: int) -> None:
    assert client_of(watched).get("/named", headers={"host": host}).status_code == status


def test_a_request_with_two_host_headers_is_denied(watched: Watched) -> None:
    answer = client_of(watched).get("/named", headers=[("host", "api.example"), ("host", "api.example")])
    assert answer.status_code == 403


def test_a_confirm_is_a_problem_response_with_its_binding(watched: Watched) -> None:
    answer = client_of(watched).post("/orders", json={"total": 60})
    assert answer.status_code == 403
    assert answer.json()["remedies"][0]["by"] == "role finance"
    assert answer.json()["remedies"][0]["binding"].startswith("sha256:")


def test_a_throttled_request_gets_429_with_retry_after(watched: Watched) -> None:
    client = client_of(watched)
    assert [client.get("/burst").status_code for _ in range(3)] == [200, 200, 429]
    answer = client.get("/burst")
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["ratelimit"].startswith('"burst";r=0')


def test_an_unidentified_request_gets_401_and_an_anonymous_one_only_public_endpoints(watched: Watched) -> None:
    assert client_of(watched, None).get("/health").status_code == 401
    assert client_of(watched, {}).get("/health").status_code == 200
    answer = client_of(watched, {}).get("/files/a")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="agents"'


@pytest.mark.parametrize("who", [{}, {"request": {"ip": "203.0.113.7"}}, {"context": {}}])
def test_an_anonymous_caller_denied_by_a_guard_gets_403_and_not_401(who: Any, clock: Any) -> None:
    rules = 'anyone { may GET /f, GET /files/** }\nguard "closed" on GET /f { deny message "closed" }'
    engine = Engine.from_text(rules, "f.policy", clock=clock)
    answer = client_of(Watched(engine), who).get("/f")
    assert (answer.status_code, answer.headers.get("www-authenticate")) == (403, None)
    assert answer.json()["gate"] == "guard"
    assert client_of(Watched(engine), who).get("/other").status_code == 401
    depends = FastAPI()
    depends.add_exception_handler(PolicyDeniedError, problem_details)
    policy = Policies(engine, identify=lambda request: who)
    depends.add_api_route("/f", lambda: {}, dependencies=[Depends(policy())])
    assert TestClient(depends).get("/f").status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/files/../admin/secrets", "/files//a", "/files/%2e%2e/x", "/files/a%2fb", "/files/a%252fb", "/files/a;b",
     "/files/a%00", "/FILES/a", "/files/%ff"],
)  # fmt: skip
def test_an_ambiguous_path_is_denied(watched: Watched, path: str) -> None:
    status = asyncio.run(raw_get(client_of(watched).app, path))
    assert status == 403


async def raw_get(app: Any, wire: str, root: str = "", **more: Any) -> int:
    """As a server hands it over: the path decoded once, and as it came."""
    from urllib.parse import unquote

    statuses: list[int] = []
    scope = {
        "type": "http", "method": "GET", "path": root + unquote(wire), "raw_path": (root + wire).encode(),
        "root_path": root, "query_string": b"", "headers": [], "client": ("10.0.0.1", 1), **more,
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]


def test_a_percent_encoded_letter_is_decoded_before_the_decision(watched: Watched) -> None:
    assert asyncio.run(raw_get(client_of(watched).app, "/files/%61")) == 200
    assert asyncio.run(raw_get(client_of(watched).app, "/files/%73ecret")) == 403


def test_a_path_that_differs_from_the_raw_path_is_denied(watched: Watched) -> None:
    assert asyncio.run(raw_get(client_of(watched).app, "/files/a", path="/files/secret")) == 403
    assert asyncio.run(raw_get(client_of(watched).app, "/files/secret", path="/files/a")) == 403


@pytest.mark.parametrize(
    ("path", "root", "routed"),
    [
        ("/files/a", "", "/files/a"),
        ("/files/a", "/api", "/files/a"),
        ("/", "/api", "/"),
        ("/files/a", "/api/v1", "/files/a"),
        ("/files/a%20b", "/api", "/files/a%20b"),
    ],
)
def test_the_decided_path_is_the_routed_path(path: str, root: str, routed: str) -> None:
    from urllib.parse import unquote

    scope = {"path": root + unquote(path), "raw_path": (root + path).encode(), "root_path": root}
    assert route_path(scope) == routed
    assert route_path({**scope, "raw_path": None}) == routed


def test_a_mounted_application_is_decided_by_the_whole_path(watched: Watched) -> None:
    client = client_of(watched)
    assert client.get("/admin/users").status_code == 200
    assert client.get("/admin/secrets").status_code == 403


def test_middleware_inside_a_mount_decides_by_the_path_below_it(watched: Watched) -> None:
    inner = PolicyMiddleware(routes(), watched, identify=lambda scope: ALICE)
    client = TestClient(Starlette(routes=[Mount("/outer", inner)]))
    assert client.get("/outer/files/a").status_code == 200
    assert client.get("/outer/files/secret").status_code == 403


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X_HTTP_Method_Override", "X.HTTP.Method.Override", "x-http.method"]
)
def test_a_header_that_changes_the_method_is_denied(watched: Watched, name: str) -> None:
    assert client_of(watched).get("/files/a", headers={name: "DELETE"}).status_code == 403


@pytest.mark.parametrize("names", [["x_role"], ["x-role", "x_role"], ["x_role", "x-role"]])
def test_a_wsgi_application_cannot_read_an_undecided_header_spelling(names: list[str]) -> None:
    """It knows `x_role` as `HTTP_X_ROLE`, as it does `x-role`."""

    def application(environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [])
        return [environ.get("HTTP_X_ROLE", "none").encode()]

    policy = f"""{ABSENCE}
        user any {{ may GET /wsgi }}
        guard "admin" on GET /wsgi {{ deny when (request.headers["x-role"] else "") == "admin" }}"""
    headers = [(name, "admin" if "_" in name else "guest") for name in names]
    with warnings.catch_warnings(action="ignore"):
        from starlette.middleware.wsgi import WSGIMiddleware
    inner = WSGIMiddleware(application)
    assert "admin" in TestClient(inner).get("/wsgi", headers=headers).text
    app = PolicyMiddleware(inner, Engine.from_text(policy, "wsgi.policy"), identify=lambda scope: ALICE)
    assert TestClient(app).get("/wsgi").text == "none"
    assert TestClient(app).get("/wsgi", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("a=1", 200, ""), ("a=1&tag=x", 403, ""), ("Tag=1", 403, "absent, but present in another letter case"),
        ("tag[]=1", 403, "a field whose name servers read differently"),
        ("a=1;tag=2", 403, "a field that contains `;`"),
        ("a=1%23", 200, ""),
        ("&" * 1_000, 403, "more than 1,000 parameters"),
        ("_method=DELETE", 403, "denied: the query names another method (`_method`)"),
        ("a;_method=DELETE", 403, "denied: the query names another method (`_method`)"),
        (".method=DELETE", 403, "denied: the query names another method (`_method`)"),
    ],
)  # fmt: skip
def test_ambiguous_query_parameters_are_unknown(query: str, status: int, words: str) -> None:
    policy = f"{ABSENCE}\nuser any {{ may GET /list }}\n"
    policy += 'guard "tags" on GET /list { deny when request.query["tag"] is present }'
    answer = client_of(Watched(Engine.from_text(policy, "list.policy"))).get(f"/list?{query}")
    assert (answer.status_code, words in answer.text) == (status, True)


def test_a_query_with_a_hash_raises_a_request_error() -> None:
    scope = {"type": "http", "http_version": "1.1", "path": "/files/a", "query_string": b"x=1#&tag=a", "headers": []}
    assert isinstance(request_facts(scope)["query"], Invalid)
    with pytest.raises(RequestError, match="a `#`"):  # which the middleware denies
        Engine.from_text(ABSENCE).decide(build_http_question(scope, {}, {}))


def test_secret_headers_are_not_facts_and_repeated_values_are_not_strings(watched: Watched) -> None:
    headers = [("authorization", "Bearer x"), ("cookie", "s=1"), ("x-a", "1"), ("x-a", "2")]
    client_of(watched).get("/files/a?b=1&b=2", headers=headers)
    facts = watched.asked[0]["request"]
    assert not {"authorization", "cookie"} & set(facts["headers"])
    assert facts["headers"]["x-a"] == ["1", "2"]
    assert isinstance(facts["query"]["b"], Invalid)


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────


def test_a_body_the_policy_uses_is_decided_and_passed_on_unchanged(watched: Watched) -> None:
    content = b'{"total": 5, "note": "\xc3\xa9"}'
    answer = client_of(watched).post("/orders", content=iter([content[:9], content[9:]]), headers=JSON)
    assert answer.json()["body"] == content.decode()
    assert client_of(watched).post("/orders", json={"total": 500}).status_code == 403


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b'{"total": "5"}', "application/json"),
        (b'{"total": 5, "total": 500}', "application/json"),
        (b'{"total": 5, "admin": true}', "text/plain"),
        (b'{"total": 5, "admin": true', "application/json"),
        (b'[{"total": 5}]', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"", "application/json"),
        (b"total=500", "application/x-www-form-urlencoded"),
    ],
)
def test_a_malformed_or_wrongly_typed_body_is_denied(watched: Watched, content: bytes, media: str) -> None:
    assert client_of(watched).post("/orders", content=content, headers={"content-type": media}).status_code == 403


def test_a_body_is_read_only_where_the_policy_uses_it(watched: Watched) -> None:
    looks = looks_into_bodies(watched.engine)
    assert looks("POST", "/orders")
    assert not looks("POST", "/notes")
    assert not looks("GET", "/files/a")
    large = b"x" * (MAX_BODY_BYTES + 1)
    assert len(client_of(watched).post("/notes", content=large).json()["body"]) == len(large)
    assert client_of(watched).post("/orders", content=large, headers=JSON).status_code == 413


def test_a_body_used_by_a_guard_is_read_for_any_letter_case_of_its_path() -> None:
    policy = "entity thing { }\nfacts on POST /things { body.id: string }\nanyone { may POST /** }\n"
    policy += "scope things { POST /things with resource = thing(body.id) }\n"
    policy += 'guard "g" on things { require resource == thing "7" }\n'
    looks = looks_into_bodies(Engine.from_text(policy))
    assert [looks("POST", path) for path in ("/things", "/THINGS", "/other")] == [True, True, False]


def test_a_body_shown_in_a_message_is_read() -> None:
    policy = """
    language 1
    package p
    facts on POST /pay { body.amount: number }
    anyone { may POST /pay, POST /other }
    guard "asks" on POST /pay { confirm by user within 5m message "pay {body.amount}" }
    """
    looks = looks_into_bodies(Engine.from_text(policy))
    assert looks("POST", "/pay")
    assert not looks("POST", "/other")


@pytest.mark.parametrize(
    ("clause", "looked_into"),
    [
        ("", True),
        ("bound to (body except body.trace)", True),
        ("bound to (body.amount)", True),
        ("bound to (resource)", False),
        ("bound to (request.query)", False),
    ],
)
def test_a_body_bound_by_an_approval_is_read(clause: str, looked_into: bool) -> None:
    policy = f"""
    language 1
    package p
    facts on POST /pay {{ body.amount: number }}
    anyone {{ may POST /pay, POST /other }}
    guard "asks" on POST /pay {{ confirm by user within 5m {clause} }}
    """
    looks = looks_into_bodies(Engine.from_text(policy))
    assert looks("POST", "/pay") is looked_into
    assert not looks("POST", "/other")


# ── What comes of it ──────────────────────────────────────────────────────────────────────────


def test_the_outcome_is_reported_and_frees_the_concurrency_slot(watched: Watched) -> None:
    client = client_of(watched)
    assert [client.get("/slow").status_code for _ in range(3)] == [200, 200, 200]
    assert [client.get("/broken").status_code for _ in range(3)] == [500, 500, 500]
    assert [one["status"] for one in watched.reports] == [200, 200, 200, 500, 500, 500]
    assert all(one["latency_ms"] >= 0 for one in watched.reports)


def test_a_request_with_an_unsupported_obligation_is_denied(watched: Watched) -> None:
    assert client_of(watched).get("/masked").status_code == 403
    met: list[Decision] = []
    assert client_of(watched, duties=Duties(["header"], met.append)).get("/masked").status_code == 200
    assert met[0].obligations[0].arguments == ("X-Masked", "yes")


@pytest.mark.parametrize("failing", ["engine", "identify"])
def test_a_failing_engine_or_identify_callback_denies_the_request(watched: Watched, failing: str) -> None:
    def identify(scope: object) -> Any:
        raise RuntimeError("the session store is down")

    if failing == "engine":
        watched.broken = RuntimeError("boom")
        assert client_of(watched).get("/files/a").status_code == 403
    else:
        app = PolicyMiddleware(routes(), watched, identify=identify)
        assert TestClient(app).get("/files/a").status_code == 401


@pytest.mark.parametrize(
    "who",
    [
        {**ALICE, "user": {"id": Agreeable("")}},
        {**ALICE, impostor("tool", "context"): {"name": "any"}},
        {**ALICE, "request": {impostor("path", "ip"): "/files/a"}},
        Changing(ALICE, {**ALICE, "tool": {"name": "any"}}),
        {**ALICE, "request": {"headers": {impostor("x-http-method-override", "x-id"): "GET"}}},
    ],
    ids=["who", "root", "endpoint", "changing", "header"],
)
def test_caller_facts_with_deceptive_types_cannot_change_the_request(watched: Watched, who: Any) -> None:
    answer = client_of(watched, who).get("/files/secret")
    assert answer.status_code in (401, 403)
    assert all("tool" not in asked and asked["request"]["path"] == "/files/secret" for asked in watched.asked)


def test_a_websocket_is_closed_unless_it_is_decided_and_allowed(watched: Watched) -> None:
    with pytest.raises(WebSocketDisconnect), client_of(watched).websocket_connect("/socket"):
        pass
    with client_of(watched, websockets=True).websocket_connect("/socket") as open_one:
        assert open_one.receive_text() == "hello"
    with pytest.raises(WebSocketDisconnect), client_of(watched, websockets=True).websocket_connect("/other"):
        pass
    assert watched.reports[0]["status"] == 101


# ── FastAPI ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def api(watched: Watched) -> TestClient:
    policy = Policies(watched, identify=lambda request: ALICE if "x-alice" in request.headers else {})
    app = FastAPI()
    app.add_exception_handler(PolicyDeniedError, problem_details)

    @app.post("/orders")
    async def order(body: dict[str, Any], decision: Decision = Depends(policy())) -> dict[str, Any]:  # noqa: B008
        return {"total": body["total"], "outcome": decision.outcome}

    @app.get("/invoices/{number}", dependencies=[Depends(policy("ACTION view invoice", id="number"))])
    def invoice(number: str) -> str:
        return number

    @app.get("/slow", dependencies=[Depends(policy())])
    def slow() -> Response:
        return PlainTextResponse("done")

    return TestClient(app, headers={"x-alice": "1"})


def test_a_fastapi_dependency_decides_and_returns_the_decision(api: TestClient) -> None:
    assert api.post("/orders", json={"total": 5}).json() == {"total": 5, "outcome": "allow"}
    refused = api.post("/orders", json={"total": 500})
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    assert refused.json()["detail"].startswith("denied: ")
    assert api.post("/orders", json={"total": 5}, headers={"x-alice": ""}).status_code == 200


def test_a_fastapi_dependency_returns_401_for_an_unidentified_caller(watched: Watched) -> None:
    app = FastAPI(dependencies=[Depends(Policies(watched, identify=lambda request: None)())])
    app.get("/health")(lambda: "ok")
    answer = TestClient(app).get("/health")
    assert answer.status_code == 401
    assert answer.json()["detail"]["title"] == "Unauthorized"  # as nobody installed `problem_details`


def test_an_action_is_decided_on_the_resource_named_by_the_path(api: TestClient, watched: Watched) -> None:
    assert api.get("/invoices/42").status_code == 200
    assert api.get("/invoices/66").status_code == 403
    assert watched.asked[0]["resource"] == {"type": "invoice", "id": "42"}


def test_a_fastapi_dependency_reports_the_response_status(api: TestClient, watched: Watched) -> None:
    assert [api.get("/slow").status_code for _ in range(3)] == [200, 200, 200]
    assert [one["status"] for one in watched.reports] == [200, 200, 200]


@pytest.mark.parametrize("endpoint", ["invoices.read", "ACTION view", "GET /x", ""])
def test_an_invalid_endpoint_raises_when_the_dependency_is_created(watched: Watched, endpoint: str) -> None:
    with pytest.raises(ValueError, match="is not an action"):
        Policies(watched, identify=lambda request: None)(endpoint)
    with pytest.raises(ValueError, match="requires `id`, the path parameter"):
        Policies(watched, identify=lambda request: None)("ACTION view invoice")


def test_a_halted_request_never_reaches_the_application(watched: Watched) -> None:
    assert client_of(watched).get("/files/a").status_code == 200
    watched.engine.halt(reason="an incident", end=timedelta(hours=1), user="alice")
    answer = client_of(watched).get("/files/a")
    assert answer.status_code == 403
    assert "halted until 2027-01-01T01:00:00Z: an incident" in answer.text
