"""Many questions at once: each stands for itself, in order, and none spends that does not say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import pytest

from tests.server.conftest import OPEN, SHUT, Watched

Call = Callable[..., httpx.Response]
JSON = {"content-type": "application/json"}


def spending(question: dict[str, Any], consume: object = True) -> dict[str, Any]:
    return {**question, "options": {"consume": consume}}


def outcomes(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["outcome"] for item in answer.json()["decisions"]]


def test_answers_come_in_the_order_of_the_questions(call: Call) -> None:
    answer = call("POST", "/decide/batch", json={"requests": [OPEN, SHUT, OPEN]})
    assert outcomes(answer) == ["allow", "deny", "allow"]


def test_an_empty_batch_has_an_empty_answer(call: Call) -> None:
    assert call("POST", "/decide/batch", json={"requests": []}).json() == {"decisions": []}


@pytest.mark.parametrize(
    ("semantics", "expected"),
    [
        (None, ["deny", "allow", "deny"]),
        ("execute_all", ["deny", "allow", "deny"]),
        ("deny_on_first_deny", ["deny"]),
        ("permit_on_first_permit", ["deny", "allow"]),
    ],
)
def test_semantics_end_a_batch_with_the_answers_so_far(call: Call, semantics: str | None, expected: list[str]) -> None:
    batch = {"requests": [SHUT, OPEN, SHUT], "semantics": semantics}
    assert outcomes(call("POST", "/decide/batch", json=batch)) == expected


def test_a_batch_does_not_decide_items_after_its_semantics_end_it(call: Call, engine: Watched) -> None:
    call("POST", "/decide/batch", json={"requests": [SHUT, spending(OPEN)], "semantics": "deny_on_first_deny"})
    assert engine.asked == ["evaluate"]


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        (OPEN, "evaluate"),
        ({**OPEN, "options": {}}, "evaluate"),
        ({**OPEN, "options": None}, "evaluate"),
        (spending(OPEN, None), "evaluate"),
        (spending(OPEN, False), "evaluate"),
        (spending(OPEN, True), "decide"),
    ],
)
def test_only_a_batch_item_with_consume_true_spends(
    call: Call, engine: Watched, question: dict[str, Any], asked: str
) -> None:
    call("POST", "/decide/batch", json={"requests": [question]})
    assert engine.asked == [asked]


DEEP = b'{"request": {"method": "GET", "path": "/health"}, "body": ' + b'{"a": ' * 50 + b"1" + b"}" * 51


@pytest.mark.parametrize(
    ("bad", "member"),
    [
        (b"5", "requests[1]"),
        (b"null", "requests[1]"),
        (b"[]", "requests[1]"),
        (b"{}", "requests[1]"),
        (b'{"user": {"roles": []}}', "requests[1].user.roles"),
        (b'{"options": {"consume": 1}, "tool": {"name": "x"}}', "requests[1].options.consume"),
        (b'{"tool": {"name": "x"}, "tool": {"name": "y"}}', "requests[1].tool"),
        (b'{"\\ud800": 1}', "requests[1]"),
        (DEEP, "requests[1]"),
    ],
)
def test_a_malformed_batch_item_is_denied_without_affecting_other_items(call: Call, bad: bytes, member: str) -> None:
    good = json.dumps(OPEN).encode()
    answer = call("POST", "/decide/batch", content=b'{"requests": [%b, %b, %b]}' % (good, bad, good), headers=JSON)
    assert outcomes(answer) == ["allow", "deny", "allow"]
    item = answer.json()["decisions"][1]
    assert (item["allowed"], item["gate"]) == (False, "failure")
    assert (item["error"]["status"], item["error"]["member"]) == (400, member)


def test_the_denial_of_a_malformed_batch_item_has_the_members_of_every_decision(call: Call, engine: Watched) -> None:
    denied, broken = call("POST", "/decide/batch", json={"requests": [SHUT, 5]}).json()["decisions"]
    assert set(broken) == {*denied, "error"}
    assert (broken["revision"], broken["package"]) == (engine.revision, engine.package)


def test_a_malformed_batch_item_counts_as_a_deny_for_the_semantics(call: Call) -> None:
    batch = {"requests": [5, OPEN], "semantics": "deny_on_first_deny"}
    assert outcomes(call("POST", "/decide/batch", json=batch)) == ["deny"]


def test_a_batch_item_may_nest_as_deeply_as_a_single_question(call: Call) -> None:
    """Thirty levels of nesting are as welcome inside a batch as outside."""
    nested: object = 1
    for _ in range(30):
        nested = {"a": nested}
    question = {**OPEN, "body": nested}
    assert call("POST", "/decide", json=question).status_code == 200
    assert outcomes(call("POST", "/decide/batch", json={"requests": [question]})) == ["allow"]


def test_an_item_may_ask_for_its_explanation(call: Call) -> None:
    batch = {"requests": [{**SHUT, "options": {"explain": True}}, SHUT]}
    first, second = call("POST", "/decide/batch", json=batch).json()["decisions"]
    assert "explanation" in first
    assert "explanation" not in second


def test_a_messagepack_batch_returns_the_same_decisions_as_json(call: Call) -> None:
    batch = {"requests": [OPEN, 5, SHUT]}
    packed = call(
        "POST", "/decide/batch", content=msgpack.packb(batch), headers={"content-type": "application/msgpack"}
    )
    plain = call("POST", "/decide/batch", json=batch)
    without_ids = [
        [{**item, "id": ""} for item in answer["decisions"]]
        for answer in (msgpack.unpackb(packed.content), plain.json())
    ]
    assert without_ids[0] == without_ids[1]


@pytest.mark.parametrize(
    ("body", "member", "detail"),
    [
        (b"[]", None, "a batch must be an object"),
        (b"", None, "not valid JSON at line 1, column 1: the text ends too early"),
        (b"{}", "requests", "`requests` is missing"),
        (b'{"requests": {}}', "requests", "`requests` must be a list, got object"),
        (b'{"requests": [], "requests": []}', "requests", "`requests` must be a list, got a duplicate key"),
        (b'{"requests": [], "semantics": 5}', "semantics", "`semantics` must be a string, got int"),
        (
            b'{"requests": [], "semantics": "all"}',
            "semantics",
            "`semantics` must be one of `execute_all`, `deny_on_first_deny`, `permit_on_first_permit`",
        ),
        (b'{"requests": [], "options": {}}', "options", "unknown member `options`"),
        (
            b'{"requests": [%b]}' % b",".join([b"0"] * 1_001),
            "requests",
            "a batch may hold at most 1,000 requests, got 1,001",
        ),
    ],
)
def test_a_malformed_batch_returns_a_problem_response(call: Call, body: bytes, member: str | None, detail: str) -> None:
    answer = call("POST", "/decide/batch", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json().get("member") == member
    assert answer.json()["detail"] == detail


def test_a_batch_may_hold_1000_items(call: Call) -> None:
    assert len(outcomes(call("POST", "/decide/batch", json={"requests": [0] * 1_000}))) == 1_000
