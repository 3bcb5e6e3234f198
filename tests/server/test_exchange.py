"""One question over HTTP: what is read, what is answered, and what is refused with which words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgpack
import pytest

from tests.server.conftest import OPEN, SHUT, TOKEN, Watched

Call = Callable[..., httpx.Response]
JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
MIB = 1024 * 1024


def asking(question: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {**question, "options": options}


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("question", "outcome"), [(OPEN, "allow"), (SHUT, "deny")])
@pytest.mark.parametrize("path", ["/decide", "/evaluate"])
def test_every_decision_is_a_200(call: Call, path: str, question: dict[str, Any], outcome: str) -> None:
    answer = call("POST", path, json=question)
    assert answer.status_code == 200
    assert answer.json()["outcome"] == outcome
    assert answer.json()["allowed"] is (outcome == "allow")


def test_a_decision_names_its_policy(call: Call, engine: Watched) -> None:
    answer = call("POST", "/decide", json=OPEN).json()
    assert (answer["revision"], answer["package"]) == (engine.revision, engine.package)


@pytest.mark.parametrize(
    ("path", "question", "asked"),
    [
        ("/decide", OPEN, ["decide"]),
        ("/decide", asking(OPEN, consume=True), ["decide"]),
        ("/decide", asking(OPEN, consume=False), ["evaluate"]),
        ("/evaluate", OPEN, ["evaluate"]),
        ("/evaluate", asking(OPEN, consume=True), ["evaluate"]),
        ("/explain", OPEN, ["explain"]),
        ("/decide", asking(OPEN, explain=True), ["explain", "decide"]),
        ("/evaluate", asking(OPEN, explain=True), ["explain", "evaluate"]),
    ],
)
def test_only_decide_spends_unless_the_question_sets_consume_false(
    call: Call, engine: Watched, path: str, question: dict[str, Any], asked: list[str]
) -> None:
    call("POST", path, json=question)
    assert engine.asked == asked


def test_a_decision_includes_the_explanation_if_requested(call: Call) -> None:
    walk = call("POST", "/explain", json=SHUT).json()["walk"]
    answer = call("POST", "/decide", json=asking(SHUT, explain=True)).json()
    assert answer["explanation"] == walk
    assert answer["outcome"] == "deny"


def test_a_decision_includes_no_explanation_unless_requested(call: Call) -> None:
    assert "explanation" not in call("POST", "/decide", json=SHUT).json()


def test_explain_returns_the_decision_and_the_walk(call: Call) -> None:
    answer = call("POST", "/explain", json=SHUT).json()
    assert set(answer) == {"decision", "walk"}
    assert answer["decision"]["outcome"] == "deny"


# ── Forms ─────────────────────────────────────────────────────────────────────────────────────


def without_id(decision: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decision.items() if name != "id"}


@pytest.mark.parametrize("question", [OPEN, SHUT, asking(SHUT, explain=True)])
def test_a_messagepack_question_returns_the_same_decision_as_json(call: Call, question: dict[str, Any]) -> None:
    packed = call("POST", "/decide", content=msgpack.packb(question), headers=MSGPACK)
    assert packed.headers["content-type"] == "application/msgpack"
    plain = call("POST", "/decide", json=question)
    assert without_id(msgpack.unpackb(packed.content)) == without_id(plain.json())


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", 'APPLICATION/JSON;charset="UTF-8"', "application/json ;"],
)
def test_every_spelling_of_the_json_content_type_is_accepted(call: Call, content_type: str) -> None:
    answer = call("POST", "/decide", content=json.dumps(OPEN), headers={"content-type": content_type})
    assert answer.status_code == 200


def test_the_content_type_x_msgpack_is_accepted(call: Call) -> None:
    answer = call("POST", "/decide", content=msgpack.packb(OPEN), headers={"content-type": "application/x-msgpack"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/jsonp"},
        {**JSON, "content-encoding": "gzip"},
        [("content-type", "application/json"), ("content-type", "application/msgpack")],
    ],
)
def test_an_unsupported_media_type_is_415(call: Call, engine: Watched, headers: Any) -> None:
    answer = call("POST", "/decide", content=json.dumps(OPEN), headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.headers["accept"]
    assert engine.asked == []


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/msgpack", "application/msgpack"),
        ("application/x-msgpack", "application/msgpack"),
        ("text/html, application/msgpack;q=0.5", "application/msgpack"),
        ("application/json;q=0.5, application/msgpack;q=0.9", "application/msgpack"),
        ("application/json, application/msgpack;q=0.9", "application/json"),
        ("application/msgpack;q=0", "application/json"),
        ("application/msgpack;q=much", "application/json"),
        (";;,,q=", "application/json"),
    ],
)
def test_the_accept_header_selects_the_media_type_of_the_answer(call: Call, accept: str, form: str) -> None:
    assert call("POST", "/decide", json=OPEN, headers={"accept": accept}).headers["content-type"] == form


def test_a_problem_with_a_messagepack_question_is_returned_as_messagepack(call: Call) -> None:
    answer = call("POST", "/decide", content=msgpack.packb({"agnet": {}}), headers=MSGPACK)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(answer.content)["member"] == "agnet"


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "member", "detail"),
    [
        (b"", None, "not valid JSON at line 1, column 1: the text ends too early"),
        (b"{", None, "not valid JSON at line 1, column 2: the text ends too early"),
        (b"\xff", None, "not valid UTF-8"),
        (b"[]", None, "a request must be an object, got list"),
        (b"{}", None, "no endpoint"),
        (b'{"agnet": {}}', "agnet", "unknown member `agnet`"),
        (b'{"agent": 5}', "agent", "`agent` must be an object, got int"),
        (b'{"user": {"roles": ["admin"]}}', "user.roles", "unknown member `user.roles`"),
        (
            b'{"options": {"consume": "no"}, "tool": {"name": "x"}}',
            "options.consume",
            "`options.consume` must be true or",
        ),
        (b"[" * 100_000, None, "nested more than 32 levels deep"),
    ],
)
def test_the_problem_for_a_malformed_question_names_the_member(
    call: Call, engine: Watched, body: bytes, member: str | None, detail: str
) -> None:
    answer = call("POST", "/decide", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Bad Request", 400)
    assert problem.get("member") == member
    assert problem["detail"].startswith(detail)
    assert engine.asked == []


def test_a_problem_carries_the_hint(call: Call) -> None:
    assert call("POST", "/decide", json={"agnet": {}}).json()["hint"] == "did you mean `agent`?"


def test_a_fact_of_the_wrong_type_leads_to_a_decision_instead_of_a_problem(call: Call) -> None:
    assert call("POST", "/decide", json={**SHUT, "body": {"amount": "900"}}).json()["outcome"] == "deny"


@pytest.mark.parametrize("path", ["/nowhere", "/decide/", "/redoc", "/docs/oauth2-redirect"])
def test_an_unknown_path_is_404(call: Call, path: str) -> None:
    answer = call("GET", path)
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"nothing is served at `{path}`"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/decide", "POST"),
        ("PUT", "/evaluate", "POST"),
        ("DELETE", "/decide/batch", "POST"),
        ("OPTIONS", "/explain", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_an_unsupported_method_is_405_with_the_allowed_methods(call: Call, method: str, path: str, allow: str) -> None:
    answer = call(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.json()["detail"] == f"`{path}` accepts {allow}, not {method}"


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────


def of_size(size: int) -> bytes:
    return json.dumps(OPEN).encode().ljust(size)


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


@pytest.mark.parametrize(("size", "status"), [(MIB, 200), (MIB + 1, 413)])
@pytest.mark.parametrize("wrap", [lambda body: body, chunked], ids=["declared", "chunked"])
def test_a_body_is_limited_to_one_mebibyte(call: Call, size: int, status: int, wrap: Callable[[bytes], Any]) -> None:
    assert call("POST", "/decide", content=wrap(of_size(size)), headers=JSON).status_code == status


@pytest.mark.parametrize("length", [str(MIB + 1), "9" * 30, "9" * 5_000])
def test_a_body_declared_too_large_is_rejected_before_it_arrives(call: Call, length: str) -> None:
    answer = call("POST", "/decide", content=endless(), headers={**JSON, "content-length": length})
    assert answer.status_code == 413


async def endless() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


def test_a_body_that_does_not_arrive_is_408(call: Call) -> None:
    answer = call("POST", "/decide", content=endless(), headers=JSON, body_timeout=0.01)
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"
    assert answer.json()["detail"] == "the body did not arrive within 0.01 seconds"


# ── Around every answer ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/decide", "/nowhere"])
def test_the_request_id_of_the_client_is_echoed(call: Call, path: str) -> None:
    assert call("POST", path, json=OPEN, headers={"x-request-id": "trace~1/2"}).headers["x-request-id"] == "trace~1/2"


@pytest.mark.parametrize(
    "labels",
    [["x" * 129], ["two words"], [""], ["caf\xe9".encode("latin-1")], ["one", "two"], ["tab\t"], ["a\r\nb: c"]],
)
def test_an_invalid_request_id_is_ignored(call: Call, labels: list[Any]) -> None:
    answer = call("POST", "/decide", json=OPEN, headers=[("x-request-id", label) for label in labels])
    assert answer.status_code == 200
    assert "x-request-id" not in answer.headers


@pytest.mark.parametrize(("method", "path"), [("POST", "/decide"), ("POST", "/nowhere"), ("GET", "/readyz")])
def test_every_answer_forbids_caching_and_content_sniffing(call: Call, method: str, path: str) -> None:
    headers = call(method, path, json=OPEN).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_an_internal_failure_is_a_500_without_details_and_is_logged(
    call: Call, engine: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    engine.broken = RuntimeError("the secret of the house")
    answer = call("POST", "/decide", json=OPEN, headers={"x-request-id": "r-1"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "r-1"
    assert "secret" not in answer.text
    assert "outcome" not in answer.json()
    assert "the secret of the house" in caplog.text


# ── Tokens ────────────────────────────────────────────────────────────────────────────────────

QUESTIONS = ["/decide", "/evaluate", "/decide/batch", "/explain"]


@pytest.mark.parametrize("path", QUESTIONS)
def test_a_question_without_the_token_is_401(call: Call, engine: Watched, path: str) -> None:
    answer = call("POST", path, json=OPEN, token=TOKEN)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="policyengine"'
    assert engine.asked == []


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ",
        "Bearer",
        f"Bearer {TOKEN} {TOKEN}",
    ],
)
def test_a_wrong_token_is_401(call: Call, authorization: str) -> None:
    answer = call("POST", "/decide", json=OPEN, token=TOKEN, headers={"authorization": authorization})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="policyengine", error="invalid_token"'
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_question_with_the_token_is_answered(call: Call, scheme: str) -> None:
    answer = call("POST", "/decide", json=OPEN, token=TOKEN, headers={"authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == 200


def test_two_authorization_headers_are_401(call: Call) -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer another-token-entirely")]
    assert call("POST", "/decide", json=OPEN, token=TOKEN, headers=headers).status_code == 401


@pytest.mark.parametrize(("given", "status"), [("the-old-token-of-1", 200), ("the-new-token-of-2", 200), (TOKEN, 401)])
def test_each_of_several_tokens_is_accepted(call: Call, given: str, status: int) -> None:
    tokens = ("the-old-token-of-1", "the-new-token-of-2")
    headers = {"authorization": f"Bearer {given}"}
    assert call("POST", "/decide", json=OPEN, token=tokens, headers=headers).status_code == status


def test_an_empty_token_list_rejects_every_token(call: Call) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert call("POST", "/decide", json=OPEN, token=(), headers=headers).status_code == 401


def test_the_token_is_checked_before_the_body_is_read(call: Call) -> None:
    assert call("POST", "/decide", content=endless(), headers=JSON, token=TOKEN).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/"])
def test_status_and_docs_pages_need_no_token(call: Call, path: str) -> None:
    assert call("GET", path, token=TOKEN).status_code == 200


# ── Status ────────────────────────────────────────────────────────────────────────────────────


def test_healthz_returns_ok(call: Call) -> None:
    assert call("GET", "/healthz").json() == {"status": "ok"}


def test_readyz_returns_the_loaded_policy_and_the_reload_counts(call: Call, engine: Watched) -> None:
    none = {"done": 0, "refused": 0, "why": None, "at": None, "widens": None, "proved": None}
    ready = {"status": "ready", "revision": engine.revision, "packages": list(engine.packages), "reloads": none}
    assert call("GET", "/readyz").json() == ready


def test_the_root_links_to_the_docs_and_the_openapi_document(call: Call) -> None:
    assert call("GET", "/").json() == {"service": "policyengine", "docs": "/docs", "openapi": "/openapi.json"}
