"""A member whose name is there in another case: some servers read it for the one that a policy asks for."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.runtime.request import Request

POLICY = """
language 1
package pay
facts on POST /pay, TOOL bank/pay {
  body.to: string?   body.task: string?   body.card: { number: string? }?   body.rows: list<{ to: string? }>?
  args.to: string?   context.to: string?
}
issuer acme { scopes none }
user any { may POST /pay, TOOL bank/pay }
"""
GUARDS = {
    "to": 'on POST /pay { deny when (body.to else "") == "mallory" }',
    "to is there": "on POST /pay { deny when body.to is present }",
    "card": "on POST /pay { deny when body.card.number is present }",
    "rows": 'on POST /pay { deny when any one in (body.rows else []): (one.to else "") == "mallory" }',
    "page": 'on POST /pay { deny when request.query["page"] is present }',
    "context": 'on POST /pay { require (context.to else "ok") == "ok" }',
    "tool": "on TOOL bank/pay { deny when args.to is present }",
}
ENGINES = {name: Engine.from_text(f'{POLICY} guard "{name}" {guard}') for name, guard in GUARDS.items()}
ALICE = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}
PAY = {"request": {"method": "POST", "path": "/pay"}}


def closes(guard: str, **asked: Any) -> bool:
    """Return whether the guard denies the question, which is decided in both forms."""
    question = {**PAY, **ALICE, **asked}
    given = {name: root for name, root in question.items() if root is not None}
    ways = (given, Request.from_mapping(given))
    found = {ENGINES[guard].evaluate(one).allowed for one in ways}
    assert len(found) == 1
    return not found.pop()


@pytest.mark.parametrize("guard", ["to", "to is there"])
@pytest.mark.parametrize("name", ["To", "TO", "tO"])
def test_a_member_in_another_case_is_neither_present_nor_absent(guard: str, name: str) -> None:
    assert not closes(guard, body={})
    assert not closes(guard, body={"for": "mallory"})
    assert closes(guard, body={name: "alice"})


def test_an_exact_name_takes_precedence_over_another_spelling() -> None:
    """Doors that read bytes leave neither of the two a value."""
    assert not closes("to", body={"to": "alice", "To": "mallory"})


def test_a_null_member_does_not_hide_a_member_in_another_case() -> None:
    assert closes("to", body={"to": None, "To": "alice"})
    assert not closes("to", body={"to": None})


@pytest.mark.parametrize("body", [{"card": {"Number": "1"}}, {"Card": {"number": "1"}}, {"CARD": {}}])
def test_a_nested_member_in_another_case_is_unknown(body: Any) -> None:
    assert not closes("card", body={"card": {}})
    assert not closes("card", body={"card": {"name": "x"}})
    assert closes("card", body=body)


def test_a_member_of_a_list_element_in_another_case_is_unknown() -> None:
    assert not closes("rows", body={"rows": [{"from": "x"}]})
    assert closes("rows", body={"rows": [{"To": "x"}]})


def test_query_context_and_args_members_in_another_case_are_unknown() -> None:
    assert not closes("page", request={**PAY["request"], "query": {"pages": "7"}})
    assert closes("page", request={**PAY["request"], "query": {"Page": "7"}})
    assert closes("context", context={"TO": "x"})
    tool = {"request": None, "tool": {"server": "bank", "name": "pay"}}
    assert not closes("tool", **tool, args={})
    assert closes("tool", **tool, args={"TO": "x"})


@pytest.mark.parametrize("name", ["ta\u017fk", "tas\u212a", "TASK"])
def test_member_names_are_compared_by_unicode_case_folding(name: str) -> None:
    """A long s and the sign of Kelvin, which Go takes for s and k."""
    engine = Engine.from_text(f'{POLICY} guard "g" on POST /pay {{ deny when body.task is present }}')
    assert not engine.evaluate({**PAY, **ALICE, "body": {name: "x"}}).allowed
    assert engine.evaluate({**PAY, **ALICE, "body": {"tasks": "x"}}).allowed


def test_the_reason_mentions_the_other_spelling() -> None:
    (reason,) = ENGINES["to"].evaluate({**PAY, **ALICE, "body": {"To": "alice"}}).reasons
    assert "`body.to` is unknown: absent, but present in another letter case" in reason.message
