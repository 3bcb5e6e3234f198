"""The to-do list of the AuthZEN interoperability scenario: its decision table, asked of a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.authzen.asking import MANY, ONE, Call, Free, decision, decisions, served

USERS = {
    "rick": ("CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "rick@the-citadel.com"),
    "morty": ("CiRmZDE2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "morty@the-citadel.com"),
    "summer": ("CiRmZDI2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "summer@the-smiths.com"),
    "beth": ("CiRmZDM2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "beth@the-smiths.com"),
    "jerry": ("CiRmZDQ2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "jerry@the-smiths.com"),
}
EVERYTHING, OWN, NOTHING = "any", "own", "none"
# Who may create, whose to-dos one may update, and whose one may delete; everybody reads.
TABLE = {
    "rick": (True, EVERYTHING, EVERYTHING),
    "morty": (True, OWN, OWN),
    "summer": (True, OWN, OWN),
    "beth": (False, NOTHING, NOTHING),
    "jerry": (False, NOTHING, NOTHING),
}
OTHER = {name: "rick" if name != "rick" else "morty" for name in USERS}


def asked(name: str, action: str, resource: Free) -> Free:
    return {"subject": {"type": "user", "id": USERS[name][0]}, "action": {"name": action}, "resource": resource}


def todo_of(owner: str) -> Free:
    properties = {"ownerID": USERS[owner][1]}
    return {"type": "todo", "id": "7240d0db-8ff0-41ec-98b2-34a096273b92", "properties": properties}


def rows(name: str) -> Iterator[tuple[Free, bool]]:
    creates, updates, deletes = TABLE[name]
    for person in ("beth@the-smiths.com", USERS[name][0]):
        yield asked(name, "can_read_user", {"type": "user", "id": person}), True
    yield asked(name, "can_read_todos", {"type": "todo", "id": "todo-1"}), True
    yield asked(name, "can_create_todo", {"type": "todo", "id": "todo-1"}), creates
    for action, whose in (("can_update_todo", updates), ("can_delete_todo", deletes)):
        yield asked(name, action, todo_of(OTHER[name])), whose == EVERYTHING
        yield asked(name, action, todo_of(name)), whose in (EVERYTHING, OWN)


ROWS = [(question, expected) for name in USERS for question, expected in rows(name)]


@pytest.fixture(scope="module")
def todo() -> Iterator[Call]:
    with served("todo") as call:
        yield call


def test_the_interop_table_has_forty_rows() -> None:
    assert (len(ROWS), sum(expected for _, expected in ROWS)) == (40, 26)


@pytest.mark.parametrize(("question", "expected"), ROWS)
def test_each_row_of_the_interop_table_holds(todo: Call, question: Free, expected: bool) -> None:
    assert decision(todo("POST", ONE, json=question)) is expected


def test_the_interop_table_holds_as_one_evaluations_request(todo: Call) -> None:
    answer = todo("POST", MANY, json={"evaluations": [question for question, _ in ROWS]})
    assert decisions(answer) == [expected for _, expected in ROWS]


def test_evaluations_of_several_todos_share_one_subject_and_action(todo: Call) -> None:
    everybody = {**asked("morty", "can_update_todo", todo_of("rick")), "evaluations": []}
    items: list[Free] = [{"resource": todo_of(owner)} for owner in USERS]
    answer = todo("POST", MANY, json={**everybody, "evaluations": items})
    assert decisions(answer) == [owner == "morty" for owner in USERS]


@pytest.mark.parametrize("resource", [{"type": "list", "id": "todo-1"}, {"type": "application", "id": "todo-1"}])
def test_an_unmapped_resource_type_is_denied(todo: Call, resource: Free) -> None:
    answer = todo("POST", ONE, json=asked("rick", "can_read_todos", resource))
    assert (decision(answer), answer.json()["context"]["reason"]) == (False, "unmapped")


def test_a_todo_without_an_owner_cannot_be_updated(todo: Call) -> None:
    assert not decision(todo("POST", ONE, json=asked("morty", "can_update_todo", {"type": "todo", "id": "x"})))
