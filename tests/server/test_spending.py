"""What a decision uses up, seen through the server: an approval lets one request pass, and looking costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx
import pytest

from tests.server.conftest import ORDER

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
def test_looking_spends_nothing_and_says_that_it_must_be_asked_again(
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
def test_a_batch_spends_only_for_items_that_say_so(
    call: Call, approved: dict[str, Any], options: dict[str, Any], outcomes: list[str]
) -> None:
    item = {**approved, "options": options}
    answer = call("POST", "/decide/batch", json={"requests": [item, item]})
    assert [one["outcome"] for one in answer.json()["decisions"]] == outcomes


def test_a_decision_that_spends_cannot_be_made_in_the_past(call: Call) -> None:
    answer = call("POST", "/decide", json={**ORDER, "options": {"at": "2027-01-01T00:00:00Z"}})
    assert answer.status_code == 400
    assert answer.json()["member"] == "options.at"
