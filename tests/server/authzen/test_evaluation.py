"""AuthZEN 1.0, one evaluation: what the certification asks, and each of its traps as a case of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.authzen.asking import (
    ACTIVE,
    ALICE,
    ALLOWED,
    ARCHIVED,
    BOB,
    JSON,
    MANY,
    ONE,
    READ,
    REFUSED,
    TOKEN,
    WRITE,
    Call,
    Free,
    decision,
    without,
)

# ── The fixture of the certification ──────────────────────────────────────────────────────────

STATUS_ARCHIVED = {**ARCHIVED, "properties": {"status": "archived"}}
RULES: list[tuple[Free, Free, Free, bool]] = [
    (ALICE, READ, ACTIVE, True),
    (ALICE, WRITE, ACTIVE, True),
    (BOB, READ, ACTIVE, True),
    (BOB, WRITE, ACTIVE, False),
    (ALICE, WRITE, STATUS_ARCHIVED, False),
    ({**BOB, "properties": {"role": "admin"}}, WRITE, STATUS_ARCHIVED, True),
    (ALICE, {"name": "delete", "properties": {"soft": True}}, ACTIVE, True),
    (ALICE, {"name": "delete", "properties": {"soft": False}}, ACTIVE, False),
]


@pytest.mark.parametrize(("subject", "action", "resource", "expected"), RULES)
def test_the_rules_of_the_certification_hold(
    call: Call, subject: Free, action: Free, resource: Free, expected: bool
) -> None:
    assert decision(call("POST", ONE, json={"subject": subject, "action": action, "resource": resource})) is expected


@pytest.mark.parametrize(("subject", "action", "resource", "expected"), RULES)
def test_the_rules_of_the_certification_hold_with_a_context(
    call: Call, subject: Free, action: Free, resource: Free, expected: bool
) -> None:
    context = {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}
    question = {"subject": subject, "action": action, "resource": resource, "context": context}
    assert decision(call("POST", ONE, json=question)) is expected


@pytest.mark.parametrize(
    ("role", "status", "expected"),
    [("admin", "archived", True), ("admin", "active", False), ("clerk", "archived", False), (7, "archived", False)],
)
def test_properties_count_for_an_entity_unknown_to_the_entity_store(
    call: Call, role: object, status: str, expected: bool
) -> None:
    question = {
        "subject": {"type": "user", "id": "carol", "properties": {"role": role}},
        "action": WRITE,
        "resource": {"type": "record", "id": "record-9", "properties": {"status": status}},
    }
    assert decision(call("POST", ONE, json=question)) is expected


def test_the_entity_store_overrides_the_properties_of_a_question(call: Call) -> None:
    """Alice is no administrator, whatever is said of her; and record-2 is archived."""
    admin = {**ALICE, "properties": {"role": "admin"}}
    assert not decision(call("POST", ONE, json={"subject": admin, "action": WRITE, "resource": ARCHIVED}))
    active = {**ARCHIVED, "properties": {"status": "active"}}
    assert not decision(call("POST", ONE, json={"subject": ALICE, "action": WRITE, "resource": active}))


def test_unused_properties_do_not_change_the_decision(call: Call) -> None:
    question = {
        "subject": {**ALICE, "properties": {"department": "Sales", "role": "manager"}},
        "action": {**READ, "properties": {"method": "GET"}},
        "resource": {**ACTIVE, "properties": {"status": "active", "owner": "bob"}},
    }
    assert decision(call("POST", ONE, json=question))


def test_unknown_members_are_ignored_at_any_level(call: Call) -> None:
    question = {
        "subject": {**ALICE, "identity": 7},
        "action": {**READ, "future": [1]},
        "resource": {**ACTIVE, "userID": None},
        "foo": "bar",
        "futureField": {"nested": True},
        "options": 7,
        "evaluations": [{}],
    }
    assert decision(call("POST", ONE, json=question))


def test_null_counts_as_absent_for_optional_members(call: Call) -> None:
    nothing = {"subject": {**ALICE, "properties": None}, "action": READ, "resource": ACTIVE, "context": None}
    assert decision(call("POST", ONE, json=nothing))


# ── The answer ────────────────────────────────────────────────────────────────────────────────


def test_an_allow_has_no_context(call: Call) -> None:
    answer = call("POST", ONE, json=ALLOWED)
    assert (answer.headers["content-type"], answer.json()) == ("application/json", {"decision": True})


def test_a_deny_has_a_user_reason_and_a_more_detailed_admin_reason(call: Call) -> None:
    answer = call("POST", ONE, json=REFUSED)
    context = answer.json().pop("context")
    assert context["reason"] == "denied"
    assert context["reason_user"] == {"en": "no block grants this to the caller"}
    assert context["reason_admin"] == {
        "en": "asked for ACTION write record; default: no block grants this to the caller"
    }


def test_an_authzen_answer_is_json_whatever_the_client_accepts(call: Call) -> None:
    answer = call("POST", ONE, json=ALLOWED, headers={"accept": "application/msgpack"})
    assert (answer.headers["content-type"], answer.json()) == ("application/json", {"decision": True})


@pytest.mark.parametrize("question", [ALLOWED, REFUSED])
def test_the_same_question_gets_the_same_bytes(call: Call, question: Free) -> None:
    assert len({call("POST", ONE, json=question).content for _ in range(5)}) == 1


def test_every_answer_has_a_new_decision_id_header(call: Call) -> None:
    first, second = (call("POST", ONE, json=ALLOWED).headers["x-decision-id"] for _ in range(2))
    assert first != second


# ── What is no question ───────────────────────────────────────────────────────────────────────

MISSING = [
    ("subject",), ("action",), ("resource",), ("subject", "type"), ("subject", "id"), ("action", "name"),
    ("resource", "type"), ("resource", "id"),
]  # fmt: skip


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize("member", MISSING, ids=".".join)
def test_the_error_names_a_missing_member(call: Call, path: str, member: tuple[str, ...]) -> None:
    answer = call("POST", path, json=without(ALLOWED, *member))
    assert answer.status_code == 400
    assert answer.json()["detail"] == f"`{'.'.join(member)}` is missing"
    assert answer.json()["member"] == ".".join(member)


WRONG: list[tuple[str, Free]] = [
    ("subject", {"subject": "alice"}),
    ("subject", {"subject": [ALICE]}),
    ("subject.id", {"subject": {**ALICE, "id": 7}}),
    ("subject.type", {"subject": {**ALICE, "type": True}}),
    ("subject.properties", {"subject": {**ALICE, "properties": ["x"]}}),
    ("action", {"action": "read"}),
    ("action.name", {"action": {"name": 123}}),
    ("action.properties", {"action": {**READ, "properties": 7}}),
    ("resource", {"resource": 7}),
    ("resource.id", {"resource": {**ACTIVE, "id": {}}}),
    ("resource.properties", {"resource": {**ACTIVE, "properties": "x"}}),
    ("context", {"context": "now"}),
]


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize(("member", "change"), WRONG, ids=[member for member, _ in WRONG])
def test_the_error_names_a_member_of_the_wrong_type(call: Call, path: str, member: str, change: Free) -> None:
    answer = call("POST", path, json=ALLOWED | change)
    assert (answer.status_code, answer.json()["member"]) == (400, member)


def test_the_error_names_a_duplicate_member(call: Call) -> None:
    body = json.dumps(ALLOWED)[:-1] + ', "subject": {"type": "user", "id": "alice"}}'
    answer = call("POST", ONE, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["member"]) == (400, "subject")


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'[{"subject": {}}]', b"null", b'"x"', b"7", b"\xff", b'{"subject": NaN}', b"[" * 9999]
)
def test_a_body_that_is_not_an_object_is_a_bad_request(call: Call, path: str, body: bytes) -> None:
    answer = call("POST", path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/msgpack", "application/json; charset=latin-1", "", None],
)
def test_a_content_type_other_than_json_is_a_bad_request(call: Call, path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = call("POST", path, content=json.dumps(ALLOWED), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["hint"].startswith("send `Content-Type: application/json`")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON;charset=UTF-8"])
def test_the_content_type_may_name_the_charset_utf_8(call: Call, content_type: str) -> None:
    answer = call("POST", ONE, content=json.dumps(ALLOWED), headers={"content-type": content_type})
    assert decision(answer)


def test_a_body_over_one_mebibyte_is_413(call: Call) -> None:
    answer = call("POST", ONE, content=json.dumps(ALLOWED | {"context": {"x": "y" * 2**20}}), headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_evaluation_routes_accept_only_post(call: Call, path: str, method: str) -> None:
    answer = call(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# ── Who asks, and by which label ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize(
    ("given", "challenge"),
    [
        ({}, 'Bearer realm="policyengine"'),
        ({"authorization": "Bearer another-token-of-nobody"}, 'Bearer realm="policyengine", error="invalid_token"'),
        ({"authorization": f"Basic {TOKEN}"}, 'Bearer realm="policyengine", error="invalid_token"'),
    ],
)
def test_an_evaluation_without_the_token_is_401_with_a_challenge(
    guarded: Call, path: str, given: dict[str, str], challenge: str
) -> None:
    answer = guarded("POST", path, json=ALLOWED, headers=given)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)
    assert "decision" not in answer.json()


def test_an_evaluation_with_the_token_is_answered(guarded: Call) -> None:
    assert decision(guarded("POST", ONE, json=ALLOWED, headers={"authorization": f"Bearer {TOKEN}"}))


def test_the_token_is_checked_before_the_question(guarded: Call) -> None:
    assert guarded("POST", ONE, content=b"{", headers={"content-type": "text/plain"}).status_code == 401


LABEL = "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"


@pytest.mark.parametrize(
    ("path", "request_"),
    [(ONE, {"json": ALLOWED}), (ONE, {"json": REFUSED}), (ONE, {"content": b""}), (MANY, {"json": ALLOWED})],
)
def test_the_request_id_is_echoed(call: Call, path: str, request_: Any) -> None:
    assert call("POST", path, headers={"X-Request-ID": LABEL}, **request_).headers["x-request-id"] == LABEL


def test_the_request_id_is_optional(call: Call) -> None:
    answer = call("POST", ONE, json=ALLOWED)
    assert decision(answer)
    assert "x-request-id" not in answer.headers
