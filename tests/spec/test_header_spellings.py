"""A header whose name is there in another spelling: some servers read it for the one that a policy asks for."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.runtime.request import HttpEndpoint, Request

POLICY = "language 1\npackage p\nissuer acme { scopes none }\nuser any { may GET /x }\n"
RULES = {
    "else": 'deny when (request.headers["x-role"] else "") == "admin"',
    "present": 'deny when request.headers["x-role"] is present',
    "absent": 'require request.headers["x-role"] is absent',
}
ENGINES = {name: Engine.from_text(f'{POLICY}guard "g" on GET /x {{ {rule} }}') for name, rule in RULES.items()}
ALICE = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}


def get(headers: dict[str, Any]) -> dict[str, Any]:
    return {"request": {"method": "GET", "path": "/x", "headers": headers}}


def closes(rule: str, headers: dict[str, Any], *pending: str) -> bool:
    """Whether it does; both ways of deciding say the same."""
    question = {**ALICE, **get(headers), "pending": list(pending)}
    ways = (question, Request.from_mapping(question))
    found = {ENGINES[rule].evaluate(one).allowed for one in ways}
    assert len(found) == 1
    return not found.pop()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["x_role", "X.Role", "x~role", "x\u00adrole"])
def test_a_header_in_another_spelling_is_neither_present_nor_absent(rule: str, name: str) -> None:
    assert closes(rule, {name: "guest"})
    assert closes(rule, {name: "guest", "X-Role": None})
    assert not closes(rule, {"x-roles": "admin", "xrole": "admin", "x-role.": "admin"})


def test_an_exact_name_takes_precedence_over_another_spelling() -> None:
    """Doors that see headers leave neither of the two a value."""
    assert not closes("else", {"X-Role": "guest", "X.Role": "admin"})
    assert closes("else", {"X-Role": "admin", "X.Role": "guest"})


def test_a_pending_header_is_unknown_in_every_spelling() -> None:
    assert closes("else", {"x.role": "guest"}, "request.headers.*")
    assert closes("absent", {"x.role": "guest", "x-role": None}, "request.headers.*")


def test_the_reason_mentions_the_other_spelling() -> None:
    (reason,) = ENGINES["else"].evaluate({**ALICE, **get({"X.Role": "guest"})}).reasons
    assert '`request.headers["x-role"]` is unknown: absent, but present in another spelling' in reason.message


@pytest.mark.parametrize(
    "name", ["X.HTTP.Method.Override", "x-http-method.override", "X!HTTP_Method", "x.method.override"]
)
def test_a_method_override_header_is_detected_in_every_spelling(name: str) -> None:
    question = {**ALICE, **get({name: "DELETE"})}
    assert not isinstance(Request.from_mapping(question).endpoint, HttpEndpoint)
    assert not ENGINES["else"].evaluate(question).allowed


def test_a_confirm_that_binds_a_header_in_another_spelling_is_a_deny() -> None:
    """`X.Role: a` and `X.Role: b` would else be the same to it."""
    engine = Engine.from_text(
        POLICY + 'guard "g" on GET /x { confirm by user within 5m when request.headers["x-role"] != "" }'
    )
    for headers, outcome in (({"x-role": "a"}, "confirm"), ({"x.role": "a"}, "deny")):
        assert engine.evaluate({**ALICE, **get(headers)}).outcome.value == outcome
