"""What a decision uses up, seen through the server: an approval lets one request pass, and looking costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgpack  # type: ignore[import-untyped]
import pytest

from policyengine.engine import Engine
from policyengine.server import create_app
from policyengine.stores.url import open_store
from tests.server.conftest import ORDER
from tests.trusting import TRUSTING

Call = Callable[..., httpx.Response]
NUMBERS = count(1)


@pytest.fixture
def approved(call: Call) -> dict[str, Any]:
    """An order with an approval of its own, as a gateway would ask again with it."""
    (remedy,) = call("POST", "/evaluate", json=ORDER).json()["remedies"]
    approval = {
        "id": f"approval-{next(NUMBERS)}",
        "by": "carol",
        "granted_at": datetime.now(UTC).isoformat(),
        "binding": remedy["binding"],
    }
    carol = {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}
    return {**ORDER, "approvals": [approval], "entities": [carol]}


def outcome(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["outcome"]


def test_an_order_needs_an_approval(call: Call) -> None:
    assert outcome(call("POST", "/decide", json=ORDER)) == "confirm"


def test_decide_spends_the_approval(call: Call, approved: dict[str, Any]) -> None:
    assert [outcome(call("POST", "/decide", json=approved)) for _ in range(2)] == ["allow", "confirm"]


@pytest.mark.parametrize(
    ("path", "options"), [("/evaluate", {}), ("/evaluate", {"consume": True}), ("/decide", {"consume": False})]
)
def test_a_question_that_spends_nothing_returns_a_consume_obligation(
    call: Call, approved: dict[str, Any], path: str, options: dict[str, Any]
) -> None:
    for _ in range(2):
        answer = call("POST", path, json={**approved, "options": options})
        assert outcome(answer) == "allow"
        assert [one["kind"] for one in answer.json()["obligations"]] == ["consume"]


def test_an_explanation_spends_nothing(call: Call, approved: dict[str, Any]) -> None:
    call("POST", "/explain", json=approved)
    assert outcome(call("POST", "/decide", json=approved)) == "allow"


def test_a_decision_with_its_explanation_spends_once_and_both_agree(call: Call, approved: dict[str, Any]) -> None:
    answer = call("POST", "/decide", json={**approved, "options": {"explain": True}})
    assert outcome(answer) == "allow"
    assert {gate["text"]: gate["mark"] for gate in answer.json()["explanation"]["gates"]}["guards"] == "yes"
    assert outcome(call("POST", "/decide", json=approved)) == "confirm"


@pytest.mark.parametrize(("options", "outcomes"), [({}, ["allow", "allow"]), ({"consume": True}, ["allow", "confirm"])])
def test_a_batch_spends_approvals_only_for_items_with_consume_true(
    call: Call, approved: dict[str, Any], options: dict[str, Any], outcomes: list[str]
) -> None:
    item = {**approved, "options": options}
    answer = call("POST", "/decide/batch", json={"requests": [item, item]})
    assert [one["outcome"] for one in answer.json()["decisions"]] == outcomes


# ── What an approval is for ───────────────────────────────────────────────────────────────────

OTHERS: list[dict[str, Any]] = [
    {"body": {"amount": 500}},
    {"body": {}},
    {"args": {"amount": 500}},
    {"request": {**ORDER["request"], "query": {"amount": "500"}}},
    {"request": {**ORDER["request"], "host": "other.example"}},
    {"user": {"id": "mallory"}},
]


@pytest.mark.parametrize("path", ["/decide", "/evaluate"])
def test_an_approval_of_one_order_does_not_allow_another(call: Call, approved: dict[str, Any], path: str) -> None:
    for other in OTHERS:
        assert outcome(call("POST", path, json={**approved, **other})) == "confirm"
    assert outcome(call("POST", path, json=approved)) == "allow"


def test_each_item_of_a_batch_needs_its_own_approval(call: Call, approved: dict[str, Any]) -> None:
    items = [{**approved, **other, "options": {"consume": True}} for other in (*OTHERS, {})]
    answer = call("POST", "/decide/batch", json={"requests": items})
    assert [one["outcome"] for one in answer.json()["decisions"]] == ["confirm"] * len(OTHERS) + ["allow"]


def test_an_approval_requested_as_json_is_valid_for_the_same_messagepack_question(
    call: Call, approved: dict[str, Any]
) -> None:
    packed = {"content": msgpack.packb(approved), "headers": {"content-type": "application/msgpack"}}
    other = {"content": msgpack.packb({**approved, "body": {"amount": 500}}), "headers": packed["headers"]}
    for request, expected in ((other, "confirm"), (packed, "allow")):
        answer = call("POST", "/decide", **{**request, "headers": {**request["headers"], "accept": "application/json"}})
        assert outcome(answer) == expected


@pytest.mark.parametrize("hidden", [["body"], ["body.amount"], ["request.query"], ["request.host"]])
def test_a_pending_fact_is_denied_with_a_facts_remedy_that_names_it(call: Call, hidden: list[str]) -> None:
    answer = call("POST", "/decide", json={**ORDER, "pending": hidden}).json()
    assert (answer["outcome"], answer["gate"]) == ("deny", "guard")
    [remedy] = answer["remedies"]
    assert (remedy["kind"], hidden[0] in remedy["need"]) == ("facts", True)


def test_an_explanation_lists_the_facts_that_an_approval_is_bound_to(call: Call) -> None:
    asked = {**ORDER, "body": {"amount": 1, "note": {"deep": True}}}
    walk = str(call("POST", "/explain", json=asked).json()["walk"])
    assert "an approval is bound to args, body, request.host, request.query" in walk
    assert "body.amount = 1" in walk


def test_a_decision_that_spends_rejects_the_option_at(call: Call) -> None:
    answer = call("POST", "/decide", json={**ORDER, "options": {"at": "2027-01-01T00:00:00Z"}})
    assert answer.status_code == 400
    assert answer.json()["member"] == "options.at"


# ── Rates and budgets of what waits for a person ──────────────────────────────────────────────

REFUNDS = """
language 1
package shop
entity user { roles: set<string> }
facts on POST /refund { body.amount: number }
anyone { may POST /refund }
guard "large" on POST /refund { confirm by role finance within 15m when body.amount > 500 message "{body.amount}" }
rate "calls" per request.ip on POST /refund { 10/1h }
budget "refunds" per request.ip on POST /refund { sum body.amount <= 5_000 within 1d }
"""


@pytest.mark.parametrize("store", ["memory:", "sqlite:///{folder}/store.db"])
def test_a_refund_above_half_of_the_budget_can_be_approved(store: str, tmp_path: Path) -> None:
    engine = Engine.from_text(REFUNDS, store=open_store(store.format(folder=tmp_path)), approvals=TRUSTING)
    ask = {"request": {"method": "POST", "path": "/refund", "ip": "10.0.0.1"}, "body": {"amount": 3_000}}

    async def asking(*more: dict[str, Any]) -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [(await client.post("/decide", json={**ask, **one})).json() for one in more]

    asked = asyncio.run(asking({}, {}, {}))
    assert [one["outcome"] for one in asked] == ["confirm"] * 3
    assert [one["remaining"] for one in asked[-1]["rates"]] == [9, 5_000]
    grant = {"id": "one", "by": "carol", "granted_at": datetime.now(UTC).isoformat()}
    grant["binding"] = asked[0]["remedies"][0]["binding"]
    carol = {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}
    approved = {"approvals": [grant], "entities": [carol]}
    done = asyncio.run(asking(approved, approved, {"body": {"amount": 2_500}}))
    assert [one["outcome"] for one in done] == ["allow", "throttle", "throttle"]
    assert [one["remaining"] for one in done[0]["rates"]] == [9, 2_000]
