"""AuthZEN 1.0, many evaluations: defaults, overrides, order, semantics, and what one that is broken does to others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.authzen.asking import (
    ACTIVE,
    ALICE,
    ALLOWED,
    ARCHIVED,
    BOB,
    MANY,
    ONE,
    READ,
    REFUSED,
    WRITE,
    Call,
    Free,
    decision,
    decisions,
)

# ── Defaults and overrides ────────────────────────────────────────────────────────────────────


def test_top_level_members_are_defaults_for_each_evaluation(call: Call) -> None:
    both: list[Free] = [{"resource": ACTIVE}, {"resource": ARCHIVED}]
    assert decisions(call("POST", MANY, json={"subject": ALICE, "action": WRITE, "evaluations": both})) == [True, False]


def test_answers_come_in_the_order_of_the_questions(call: Call) -> None:
    actions: list[Free] = [{"action": READ}, {"action": WRITE}, {"action": READ}]
    answer = call("POST", MANY, json={"subject": BOB, "resource": ACTIVE, "evaluations": actions})
    assert decisions(answer) == [True, False, True]


def test_an_evaluation_may_set_all_of_its_members(call: Call) -> None:
    assert decisions(call("POST", MANY, json={"evaluations": [ALLOWED, REFUSED]})) == [True, False]


def test_properties_count_only_for_their_own_evaluation(call: Call) -> None:
    admin = {"type": "user", "id": "carol", "properties": {"role": "admin"}}
    items: list[Free] = [{"subject": ALICE}, {"subject": admin}, {"subject": {"type": "user", "id": "carol"}}]
    answer = call("POST", MANY, json={"action": WRITE, "resource": ARCHIVED, "evaluations": items})
    assert decisions(answer) == [False, True, False]


def test_an_override_replaces_the_whole_member(call: Call) -> None:
    """`soft` is said for all, and not for the item that says its own action."""
    soft = {"name": "delete", "properties": {"soft": True}}
    items: list[Free] = [{}, {"action": {"name": "delete"}}]
    answer = call("POST", MANY, json={"subject": ALICE, "action": soft, "resource": ACTIVE, "evaluations": items})
    assert decisions(answer) == [True, False]


def test_an_override_is_not_merged_with_the_default(call: Call) -> None:
    items: list[Free] = [{"resource": {"id": "record-1"}}, {"resource": ACTIVE}]
    answer = call("POST", MANY, json={**ALLOWED, "evaluations": items})
    assert decisions(answer) == [False, True]
    assert answer.json()["evaluations"][0]["context"]["error"]["message"] == "`evaluations[0].resource.type` is missing"


def test_null_overrides_the_default(call: Call) -> None:
    assert decisions(call("POST", MANY, json={**ALLOWED, "evaluations": [{"subject": None}, {}]})) == [False, True]


def test_a_context_is_inherited_and_overridden(call: Call) -> None:
    context = {"time": "2025-06-27T18:03-07:00"}
    items: list[Free] = [{"resource": ACTIVE}, {"resource": ACTIVE, "context": {"source": "batch-override"}}]
    asked = {"subject": ALICE, "action": READ, "context": context, "evaluations": items}
    assert decisions(call("POST", MANY, json=asked)) == [True, True]


@pytest.mark.parametrize("more", [{}, {"evaluations": []}, {"evaluations": None}])
@pytest.mark.parametrize(("question", "expected"), [(ALLOWED, True), (REFUSED, False)])
def test_a_request_without_evaluations_is_one_question(call: Call, more: Free, question: Free, expected: bool) -> None:
    answer = call("POST", MANY, json=question | more)
    assert decision(answer) is expected
    assert "evaluations" not in answer.json()


@pytest.mark.parametrize("question", [ALLOWED, REFUSED, {**ALLOWED, "action": {"name": "unheard-of"}}])
def test_evaluations_get_the_same_answers_as_single_questions(call: Call, question: Free) -> None:
    alone = call("POST", ONE, json=question).json()
    assert call("POST", MANY, json={"evaluations": [question, question]}).json() == {"evaluations": [alone, alone]}


# ── Semantics ─────────────────────────────────────────────────────────────────────────────────

MIXED = [ALLOWED, REFUSED, ALLOWED, REFUSED]


@pytest.mark.parametrize(
    ("semantic", "items", "expected"),
    [
        (None, MIXED, [True, False, True, False]),
        ("execute_all", MIXED, [True, False, True, False]),
        ("deny_on_first_deny", MIXED, [True, False]),
        ("deny_on_first_deny", [ALLOWED, ALLOWED], [True, True]),
        ("deny_on_first_deny", [ALLOWED, {}, ALLOWED], [True, False]),
        ("permit_on_first_permit", MIXED, [True]),
        ("permit_on_first_permit", [REFUSED, {}, ALLOWED, ALLOWED], [False, False, True]),
        ("permit_on_first_permit", [REFUSED, REFUSED], [False, False]),
    ],
)
def test_a_semantic_stops_after_the_deciding_evaluation(
    call: Call, semantic: str | None, items: list[Free], expected: list[bool]
) -> None:
    options: Free = {} if semantic is None else {"options": {"evaluations_semantic": semantic, "another_option": 7}}
    assert decisions(call("POST", MANY, json={"evaluations": items, **options})) == expected


@pytest.mark.parametrize("items", [{}, {"evaluations": MIXED}])
@pytest.mark.parametrize("semantic", ["", "all", "EXECUTE_ALL", "deny_on_first_deny ", 7, ["execute_all"], {}])
def test_an_unknown_semantic_is_a_bad_request(call: Call, items: Free, semantic: object) -> None:
    answer = call("POST", MANY, json={**ALLOWED, **items, "options": {"evaluations_semantic": semantic}})
    assert (answer.status_code, answer.json()["member"]) == (400, "options.evaluations_semantic")


# ── Broken ones ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("item", "member"),
    [
        ({}, "evaluations[1].resource"),
        ({"resource": {"type": "record"}}, "evaluations[1].resource.id"),
        ({"resource": "record-1"}, "evaluations[1].resource"),
        ({"resource": ACTIVE, "action": {"name": 7}}, "evaluations[1].action.name"),
        ({"resource": ACTIVE, "context": []}, "evaluations[1].context"),
        (7, "evaluations[1]"),
        (None, "evaluations[1]"),
        ([ALLOWED], "evaluations[1]"),
    ],
)
def test_a_malformed_evaluation_is_denied_with_its_error_without_affecting_others(
    call: Call, item: Any, member: str
) -> None:
    items = [{"resource": ACTIVE}, item, {"resource": ACTIVE}]
    answer = call("POST", MANY, json={"subject": ALICE, "action": READ, "evaluations": items})
    assert decisions(answer) == [True, False, True]
    context = answer.json()["evaluations"][1]["context"]
    assert context["reason"] == "invalid"
    assert context["error"]["status"] == 400
    assert f"`{member}`" in context["error"]["message"]


def test_an_item_that_nests_too_deeply_is_denied(call: Call) -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"x": deep}
    answer = call("POST", MANY, json={"evaluations": [{**ALLOWED, "context": deep}, ALLOWED]})
    assert decisions(answer) == [False, True]


@pytest.mark.parametrize(
    ("change", "member"),
    [
        ({"evaluations": {}}, "evaluations"),
        ({"evaluations": "x"}, "evaluations"),
        ({"options": []}, "options"),
        ({"subject": "alice", "evaluations": [ALLOWED]}, "subject"),
        ({"context": 7, "evaluations": [ALLOWED]}, "context"),
    ],
)
def test_an_error_outside_the_evaluations_is_a_bad_request(call: Call, change: Free, member: str) -> None:
    answer = call("POST", MANY, json=ALLOWED | change)
    assert (answer.status_code, answer.json()["member"]) == (400, member)


def test_more_than_1000_evaluations_are_a_bad_request(call: Call) -> None:
    until_one_is_allowed = {"options": {"evaluations_semantic": "permit_on_first_permit"}}
    assert decisions(call("POST", MANY, json={**ALLOWED, **until_one_is_allowed, "evaluations": [{}] * 1_000})) == [
        True
    ]
    answer = call("POST", MANY, json={**ALLOWED, **until_one_is_allowed, "evaluations": [{}] * 1_001})
    assert (answer.status_code, answer.json()["member"]) == (400, "evaluations")
