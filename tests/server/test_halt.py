"""`/halt`: who may halt, what is refused, and that every door of the server is halted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.client.socket import SocketClient
from policyengine.engine import Engine
from policyengine.server import BearerTokenError, create_app, serve
from policyengine.server.app import status_app
from tests.halts.halting import HOUR, POLICY, SharedStore, create, question
from tests.processes import wait_until
from tests.server.conftest import BY_ENVOY
from tests.server.processes import started

OPS, EDGE = "operator-token-0123456789", "gateway-token-0123456789"
TOKENS = (f"ops: {OPS}", f"edge: {EDGE}", "nameless-token-0123456789")
HALT = {"agent": "bot", "reason": "it repeats refunds", "for": "2h"}
AGENT_HEADERS = {
    "x-forwarded-method": "GET", "x-forwarded-uri": "/orders", "x-agent-id": "bot", "x-agent-issuer": "acme",
    "x-agent-user": "alice",
}  # fmt: skip
SERVE = f"""
import sys
from pathlib import Path
from policyengine.engine.engine import Engine
from policyengine.server import serve
from policyengine.stores.url import open_store
from tests.halts.halting import POLICY

policy = POLICY[: POLICY.index("rate ")]  # workers share no rates in memory
serve(Engine.from_text(policy, store=open_store("memory:")), port=0, path=Path(sys.argv[1]), workers=2,
      token={TOKENS[:2]!r}, operators=["ops"], listening=lambda url: print(url, flush=True))
"""


def headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def ask(engine: Engine, *calls: tuple[str, str, str | None, Any], **options: Any) -> list[httpx.Response]:
    """Send requests in order: method, path, token and JSON body."""
    options = {"token": TOKENS, "operators": ("ops",), **options}

    async def sent() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(engine, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=BY_ENVOY) as client:
            return [
                await client.request(method, path, headers=headers(token), json=body)
                for method, path, token, body in calls
            ]

    return asyncio.run(sent())


def test_an_operator_halts_lists_and_lifts() -> None:
    engine = create()
    [halted, listed, denied] = ask(
        engine, ("POST", "/halt", OPS, HALT), ("GET", "/halt", OPS, None), ("POST", "/decide", EDGE, question())
    )
    assert halted.status_code == 201
    halt = halted.json()["halt"]
    assert halt == {
        "id": halt["id"], "agent": "bot", "reason": "it repeats refunds", "since": "2026-03-02T10:00:00Z",
        "until": "2026-03-02T12:00:00Z", "by": "ops",
    }  # fmt: skip
    assert listed.json() == {"halts": [halt], "lifted": [], "unreadable": []}
    assert denied.json()["gate"] == "halted"
    [lifted, again, allowed, listed] = ask(
        engine,
        ("DELETE", f"/halt/{halt['id']}?reason=it%20was%20mended", OPS, None),
        ("DELETE", f"/halt/{halt['id']}?reason=again", OPS, None),
        ("POST", "/decide", EDGE, question()),
        ("GET", "/halt", OPS, None),
    )
    lifting = {"id": halt["id"], "reason": "it was mended", "at": "2026-03-02T10:00:00Z", "by": "ops"}
    assert (lifted.status_code, lifted.json()) == (200, {"lifted": lifting})
    assert again.status_code == 404
    assert allowed.json()["outcome"] == "allow"
    assert listed.json() == {"halts": [], "lifted": [lifting], "unreadable": []}


@pytest.mark.parametrize(
    ("token", "status"),
    [(None, 401), ("wrong-token-0123456789", 401), (EDGE, 403), ("nameless-token-0123456789", 403), ("ops", 401)],
)
def test_only_operators_see_set_and_lift_halts(token: str | None, status: int) -> None:
    engine = create()
    halt = ask(engine, ("POST", "/halt", OPS, HALT))[0].json()["halt"]
    answers = ask(
        engine,
        ("POST", "/halt", token, HALT),
        ("GET", "/halt", token, None),
        ("DELETE", f"/halt/{halt['id']}?reason=r", token, None),
    )
    assert [one.status_code for one in answers] == [status] * 3
    assert halt["id"] not in "".join(one.text for one in answers)
    assert [one.id for one in engine.halts] == [halt["id"]]


@pytest.mark.parametrize(
    ("options", "status"),
    [({"operators": ()}, 404), ({"token": None, "operators": ()}, 404), ({"token": None}, 403)],
)
def test_without_a_named_operator_nobody_halts(options: dict[str, Any], status: int) -> None:
    engine = create()
    [refused] = ask(engine, ("POST", "/halt", OPS, HALT), **options)
    assert refused.status_code == status
    assert engine.halts == ()


def test_a_token_whose_digest_names_it_like_an_operator_is_no_operator() -> None:
    """A token without a name is known by its digest, which cannot be written as the name of an operator."""
    from hashlib import sha256

    token = "nameless-token-0123456789"
    named = f"token {sha256(token.encode()).hexdigest()}"
    [refused] = ask(create(), ("POST", "/halt", token, HALT), operators=(named, "", "ops"))
    assert refused.status_code == 403


def test_an_operator_without_a_token_is_refused_at_the_start() -> None:
    with pytest.raises(BearerTokenError, match=r"`\[halt\] operators` names `nobody`, but no token has that name"):
        serve(create(), port=0, token=TOKENS, operators=["nobody"])


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "a halt needs either `for` or `until`"),
        ({"reason": "r", "for": "2h"}, "the halt covers nothing"),
        ({"agent": "bot", "for": "2h"}, "`reason` is missing"),
        ({"agent": "bot", "reason": "r"}, "a halt needs either `for` or `until`"),
        ({**HALT, "until": "2027-01-01T00:00:00Z"}, "a halt needs either `for` or `until`"),
        ({**HALT, "for": "-2h"}, "`-2h` is neither a duration nor a time"),
        ({**HALT, "for": "0s"}, "is in the past"),
        ({"agent": "bot", "reason": "r", "until": "2026-03-02T09:59:59Z"}, "is in the past"),
        ({"agent": "bot", "reason": "r", "until": "2026-03-02"}, "is neither a duration nor a time"),
        ({**HALT, "agent": 7}, "`agent` must be a string"),
        ({**HALT, "agnet": "bot"}, "unknown member `agnet`"),
        ({**HALT, "by": "someone else"}, "unknown member `by`"),
        ({**HALT, "everything": True}, "a halt of everything has no `agent`"),
        ({**HALT, "everything": "yes"}, "`everything` must be true or false"),
        ({**HALT, "issuer": "acmee"}, "the policies have no issuer `acmee`"),
        ({**HALT, "reason": "a\nb"}, "the reason contains a control character or a line break"),
        ([], "a halt must be an object"),
        (None, "a body must be JSON"),
    ],
)
def test_a_halt_that_would_not_do_what_is_meant_is_refused(body: Any, detail: str) -> None:
    engine = create()
    [answer] = ask(engine, ("POST", "/halt", OPS, body))
    assert answer.status_code in (400, 415)
    assert detail in answer.json()["detail"]
    assert engine.halts == ()


def test_a_reason_is_needed_to_lift() -> None:
    engine = create()
    halt = ask(engine, ("POST", "/halt", OPS, HALT))[0].json()["halt"]
    [refused] = ask(engine, ("DELETE", f"/halt/{halt['id']}", OPS, None))
    assert (refused.status_code, refused.json()["detail"]) == (400, "lifting a halt needs a reason")
    assert len(engine.halts) == 1


def test_a_store_that_does_not_answer_acknowledges_nothing() -> None:
    store = SharedStore()
    engine = create(store=store)
    store.kept.broken = True
    [answer] = ask(engine, ("POST", "/halt", OPS, HALT))
    assert answer.status_code == 503
    assert "the change may or may not be in effect" in answer.json()["hint"]


def test_a_flood_is_refused_with_409() -> None:
    engine = create()
    answers = ask(engine, *[("POST", "/halt", OPS, {**HALT, "agent": f"a{number}"}) for number in range(258)])
    assert [one.status_code for one in answers] == [201] * 256 + [409] * 2
    [answer] = ask(engine, ("POST", "/halt", OPS, {"everything": True, "reason": "r", "for": "1h"}))
    assert answer.status_code == 201


# ── Every door ────────────────────────────────────────────────────────────────────────────────


def test_every_http_door_is_halted() -> None:
    engine = create()
    subject = {"type": "agent", "id": "bot", "properties": {"issuer": "acme"}}
    evaluation = {"subject": subject, "action": {"name": "can_access"}, "resource": {"type": "route", "id": "/orders"}}
    calls = [
        ("POST", "/decide", EDGE, question()),
        ("POST", "/evaluate", EDGE, question()),
        ("POST", "/decide/batch", EDGE, {"requests": [question(), question("/health")]}),
        ("POST", "/explain", EDGE, question()),
        ("POST", "/access/v1/evaluation", EDGE, evaluation),
    ]
    ask(engine, ("POST", "/halt", OPS, {"everything": True, "reason": "an incident", "for": "2h"}))
    decide, evaluate, batch, explain, authzen = ask(engine, *calls)
    assert [decide.json()["gate"], evaluate.json()["gate"]] == ["halted", "halted"]
    assert [one["gate"] for one in batch.json()["decisions"]] == ["halted", "halted"]
    assert explain.json()["walk"]["gates"] == [
        {"mark": "no", "text": "halted", "note": "halted until 2026-03-02T12:00:00Z: an incident"}
    ]
    assert authzen.json()["decision"] is False


@pytest.mark.parametrize("path", ["/forward-auth", "/forward-auth/nginx", "/envoy/orders"])
def test_every_gateway_is_halted(path: str) -> None:
    engine = create()
    engine.halt(reason="an incident", end=2 * HOUR, everything=True)

    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=BY_ENVOY) as client:
            return await client.get(path, headers=AGENT_HEADERS)

    answer = asyncio.run(sent())
    assert answer.status_code == 403
    assert "an incident" in answer.text


# ── What the server says ──────────────────────────────────────────────────────────────────────


def test_readyz_and_metrics_say_that_something_is_halted_but_not_what(tmp_path: Path) -> None:
    store = SharedStore()
    engine = create(store=store)
    app = create_app(engine, token=TOKENS, operators=("ops",))

    async def told() -> tuple[dict[str, Any], str]:
        for served in (app, status_app(app.api)):  # type: ignore[attr-defined]
            transport = httpx.ASGITransport(served)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                ready = (await client.get("/readyz")).json()
                metrics = (await client.get("/metrics", headers=headers(EDGE))).text
        return ready, metrics

    ready, metrics = asyncio.run(told())
    assert "halts" not in ready
    assert "policyengine_halts 0.0" in metrics
    engine.halt(reason="stop", end=2 * HOUR, agent="bot")
    ready, metrics = asyncio.run(told())
    assert (ready["status"], ready["halts"]) == ("ready", {"in_effect": 1, "everything": False})
    assert "policyengine_halts 1.0" in metrics
    assert "policyengine_halts_unreadable 0.0" in metrics
    store.kept.broken = True
    engine.halting.refresh()
    engine.halting.refresh()
    ready, metrics = asyncio.run(told())
    assert ready["halts"] == {"in_effect": 1, "everything": False, "unreadable": True}
    assert "policyengine_halts_unreadable 1.0" in metrics
    assert "bot" not in json.dumps(ready)


def test_workers_with_a_store_in_memory_halt_together(tmp_path: Path) -> None:
    path = tmp_path / "policy.sock"
    with started(SERVE, str(path)) as (url, _):
        [halted] = [httpx.post(f"{url}/halt", json=HALT, headers=headers(OPS))]
        assert halted.status_code == 201
        gates: set[str | None] = set()
        while gates != {"halted"}:  # the test ends by its own time limit if one worker never is
            gates = {decided(url) for _ in range(20)}
        with SocketClient(path, timeout=20) as client:
            assert str(client.decide(question()).gate) == "halted"
        halt = halted.json()["halt"]["id"]
        lift = f"{url}/halt/{halt}?reason=mended"
        wait_until(lambda: httpx.delete(lift, headers=headers(OPS)).status_code == 404)
        while gates != {None}:
            gates = {decided(url) for _ in range(20)}


def decided(url: str) -> str | None:
    gate: str | None = httpx.post(f"{url}/decide", json=question(), headers=headers(EDGE)).json()["gate"]
    return gate


def test_a_server_does_not_start_without_its_halt_file(tmp_path: Path) -> None:
    from policyengine.cli import main

    (tmp_path / "p.policy").write_text(POLICY)
    missing = tmp_path / "missing.json"
    assert main(["serve", str(tmp_path / "p.policy"), "--port", "0", "--halt-file", str(missing)]) == 1


def test_the_openapi_document_has_the_routes_of_operators() -> None:
    paths = create_app(create(), token=TOKENS, operators=("ops",)).openapi()["paths"]
    statuses = {
        (path, method): set(operation["responses"])
        for path, methods in paths.items()
        if path.startswith("/halt")
        for method, operation in methods.items()
    }
    assert statuses == {
        ("/halt", "post"): {"201", "400", "401", "403", "408", "409", "413", "415", "503"},
        ("/halt", "get"): {"200", "401", "403"},
        ("/halt/{id}", "delete"): {"200", "400", "401", "403", "404", "503"},
    }
    body = paths["/halt"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NewHalt"}
