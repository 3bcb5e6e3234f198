"""The doors for gateways, without a gateway: what each outcome looks like to nginx, Caddy, Traefik and Envoy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason, Remedy
from policyengine.server.adapters.responses import MAX_PROBLEM_BYTES, escape_header, to_verdict
from tests.server.conftest import TOKEN, Watched, client_of

Call = Callable[..., httpx.Response]
DOORS = ["/forward-auth", "/forward-auth/nginx"]


def forwarded(method: str = "GET", uri: str = "/health", **more: str) -> dict[str, bytes]:
    named = {name.replace("_", "-"): value.encode() for name, value in more.items()}
    return {"x-forwarded-method": method.encode(), "x-forwarded-uri": uri.encode(), **named}


@pytest.mark.parametrize("door", DOORS)
def test_an_allow_is_200_with_the_subject_and_user_headers_and_no_body(call: Call, door: str) -> None:
    answer = call("GET", door, headers=forwarded(x_agent_id="bot", x_agent_user="zoë %41"))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-auth-subject"] == "bot"
    assert answer.headers["x-auth-user"] == "zo%C3%AB%20%2541"
    assert len(answer.headers["x-decision-id"]) == 26


def test_a_missing_subject_or_user_gives_an_empty_header(call: Call) -> None:
    answer = call("GET", "/forward-auth", headers=forwarded())
    assert (answer.headers["x-auth-subject"], answer.headers["x-auth-user"]) == ("", "")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("asked", "status", "outcome"),
    [
        (forwarded(uri="/secrets"), 401, "deny"),
        (forwarded(uri="/secrets", x_agent_id="bot"), 403, "deny"),
        (forwarded(uri="/health/../x"), 403, "deny"),
        (forwarded("POST", "/orders"), 403, "deny"),  # nobody is asked about a body that was not seen
        ({"x-forwarded-method": b"GET"}, 400, None),
        ({"x-forwarded-uri": b"/health"}, 400, None),
        (forwarded(x_agent_bound="maybe"), 400, None),
    ],
)
def test_a_refusal_has_a_status_and_a_problem(
    call: Call, door: str, asked: dict[str, bytes], status: int, outcome: str | None
) -> None:
    answer = call("GET", door, headers=asked)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json().get("outcome") == outcome
    assert ("www-authenticate" in answer.headers) is (status == 401)
    if door == "/forward-auth":
        assert answer.status_code == status
    else:  # nginx knows no more than these
        assert answer.status_code == (401 if status == 401 else 403)
        assert answer.headers["x-status"] == str(status)
        assert json.loads(answer.headers["x-problem"]) == answer.json()


def test_the_query_of_the_forward_auth_url_is_ignored(call: Call) -> None:
    """Caddy puts there what its client sent."""
    answer = call("GET", "/forward-auth?x-forwarded-uri=/health&method=GET", headers=forwarded(uri="/secrets"))
    assert answer.status_code == 401


def test_a_forward_auth_problem_is_json_whatever_the_client_accepts(call: Call) -> None:
    liked = {"accept": b"application/msgpack", "content-type": b"application/msgpack"}
    answer = call("GET", "/forward-auth", headers={**forwarded(uri="/secrets"), **liked})
    assert answer.json()["status"] == 401


@pytest.mark.parametrize("path", [*DOORS, "/envoy/health"])
def test_gateway_adapters_require_the_token(call: Call, path: str) -> None:
    assert call("GET", path, token=TOKEN, headers=forwarded()).status_code == 401
    wrong = {**forwarded(), "authorization": b"Bearer of-somebody-else"}
    assert call("GET", path, token=TOKEN, headers=wrong).status_code == 401
    right = {**forwarded(), "authorization": f"Bearer {TOKEN}".encode()}
    assert call("GET", path, token=TOKEN, headers=right).status_code == 200


def test_forward_auth_ignores_the_idempotency_key_of_the_client(call: Call, engine: Watched) -> None:
    """Clients send `Idempotency-Key` to the API; only a gateway may send one to us."""
    asked = {**forwarded(), "idempotency-key": b"k", "authorization": f"Bearer {TOKEN}".encode()}
    ids = {call("GET", "/forward-auth", token=TOKEN, headers=asked).headers["x-decision-id"] for _ in range(2)}
    assert len(ids) == 2


# ── Envoy ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_the_method_of_an_envoy_call_is_the_method_of_the_request(call: Call, method: str) -> None:
    answer = call(method, "/envoy/health")
    assert answer.status_code == (200 if method in ("GET", "HEAD") else 401)


@pytest.mark.parametrize(
    "path",
    ["/envoy/health%2f", "/envoy/%2e%2e/health", "/envoy//health", "/envoy/health%0a", "/envoy/health;x", "/envoy/"],
)
def test_a_non_canonical_envoy_path_is_denied(call: Call, path: str) -> None:
    assert call("GET", path).status_code in (401, 403)


def test_the_envoy_adapter_reads_the_agent_from_headers(engine: Watched, call: Call) -> None:
    whole = {"x-agent-id": "bot", "x-envoy-auth-partial-body": "false"}
    answer = call("POST", "/envoy/orders", headers=whole, json={"amount": 1})
    assert (answer.status_code, answer.json()["outcome"]) == (403, "confirm")
    answer = call("POST", "/envoy/orders", headers={"x-agent-id": "bot"}, json={"amount": 1})
    assert (answer.status_code, answer.json()["outcome"]) == (403, "deny")


# ── Output ──────────────────────────────────────────────────────────────────────────────


def denied(outcome: Outcome = Outcome.DENY, gate: Gate = Gate.GUARD, message: str = "no", **more: Any) -> Decision:
    return Decision.of(outcome, gate, (Reason(gate, message, rule="r", at="x.policy:7"),), id="1", **more)


def test_a_failure_is_503() -> None:
    assert to_verdict(denied(gate=Gate.FAILURE)).status == 503


def test_a_throttle_is_429() -> None:
    assert to_verdict(denied(Outcome.THROTTLE, Gate.RATE)).status == 429


def test_a_problem_does_not_reveal_the_location_of_a_rule() -> None:
    assert b"x.policy" not in to_verdict(denied()).problem


@pytest.mark.parametrize("message", ["x" * 60_000, "ü" * 60_000, '"' * 60_000, "\r\nX-Auth-Subject: root"])
def test_a_problem_fits_in_a_header(message: str) -> None:
    remedies = tuple(Remedy("approval", rule=message, binding="sha256:1") for _ in range(20))
    text = to_verdict(denied(message=message, remedies=remedies)).problem
    assert len(text) <= MAX_PROBLEM_BYTES
    assert all(0x20 <= byte < 0x7F for byte in text)
    assert json.loads(text)["status"] == 403


@pytest.mark.parametrize(("name", "said"), [(None, ""), ("a b", "a%20b"), ("a\r\nb", "a%0D%0Ab"), ("50%", "50%25")])
def test_header_escaping_percent_encodes_everything_but_visible_ascii(name: str | None, said: str) -> None:
    assert escape_header(name) == said


def test_the_adapter_reads_the_configured_header_names(engine: Watched) -> None:
    async def run() -> httpx.Response:
        async with client_of(engine, gateway=GatewayHeaders(agent_id="x-consumer")) as client:
            return await client.get("/forward-auth", headers=forwarded(x_consumer="bot", x_agent_id="other"))

    assert asyncio.run(run()).headers["x-auth-subject"] == "bot"
