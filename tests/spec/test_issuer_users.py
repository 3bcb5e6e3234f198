"""`users like`: what an issuer says of users for whom it does not speak counts for nothing, at every gate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from policyengine import Engine
from policyengine.check import check_text
from policyengine.source import Source
from policyengine.syntax.format import format_module

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
scope notes { POST /notes   GET /notes }
issuer login { url "https://login.acme.example" }
issuer partner { url "https://id.partner.example"   records chains   users like "*@partner.example", "*@partner.test" }
user any { may notes }
agent "assistant" { issued by login   acts for any user   may notes }
agent "courier" {
  issued by partner   acts for any user
  may notes
  may delegate notes to agent "runner"
}
agent "runner" { issued by partner   acts for any user   may notes }
agent "robot" { issued by partner   acts alone   may notes }
anyone { may GET /open, GET /guarded }
guard "not for mallory" on GET /guarded { deny when user.id == "mallory@acme.example" }
"""
OURS, THEIRS = "alice@acme.example", "bob@partner.example"


def asked(agent: str | None, issuer: str, user: str | None, path: str = "/notes", **more: Any) -> dict[str, Any]:
    said = {"agent": {"id": agent}} if agent else {}
    said |= {"user": {"id": user}} if user else {}
    method = "POST" if path == "/notes" else "GET"
    credential = {"issuer": issuer, "scopes": ["notes"]}
    return {**said, "credential": credential, "request": {"method": method, "path": path}, **more}


def engine(policy: str = POLICY) -> Engine:
    return Engine.from_text(policy, clock=lambda: NOW)


HOP = {"agent": "courier", "issuer": "partner", "issued_at": "2027-01-04T11:59:00Z", "scopes": ["notes"]}


@pytest.mark.parametrize(
    ("question", "allowed", "gate"),
    [
        pytest.param(asked("courier", "partner", THEIRS), True, None, id="its own user"),
        pytest.param(asked("courier", "partner", "zoe@partner.test"), True, None, id="by the second pattern"),
        pytest.param(asked("courier", "partner", OURS), False, "identity", id="a user of another house"),
        pytest.param(asked("courier", "partner", "bob@PARTNER.example"), False, "identity", id="in another case"),
        pytest.param(asked("assistant", "login", OURS), True, None, id="an issuer that speaks for everybody"),
        pytest.param(asked("assistant", "login", THEIRS), True, None, id="of which the others are some"),
        pytest.param(asked(None, "partner", THEIRS), True, None, id="without an agent"),
        pytest.param(asked(None, "partner", OURS), False, "identity", id="without an agent, of another house"),
        pytest.param(asked("robot", "partner", None), True, None, id="an agent that acts alone"),
        pytest.param(asked("robot", "partner", OURS), False, "identity", id="alone, and yet with a user"),
        pytest.param(asked("runner", "partner", THEIRS, chain={"hops": [HOP]}), True, None, id="handed on"),
        pytest.param(
            asked("runner", "partner", OURS, chain={"hops": [HOP]}), False, "identity", id="handed on for ours"
        ),
        pytest.param(asked(None, "partner", OURS, "/open"), True, None, id="what is open to anyone"),
        pytest.param(asked(None, "partner", THEIRS, "/guarded"), True, None, id="a guard that knows the user"),
        pytest.param(asked(None, "partner", OURS, "/guarded"), False, "guard", id="a guard that does not"),
    ],
)
def test_a_user_counts_only_if_the_issuer_speaks_for_that_user(
    question: dict[str, Any], allowed: bool, gate: str | None
) -> None:
    decision = engine().decide(question)
    assert (decision.allowed, decision.gate and decision.gate.value) == (allowed, gate)


def test_the_issuer_of_the_agent_counts_if_the_credential_names_none() -> None:
    question = asked("courier", "partner", OURS)
    question["agent"]["issuer"] = question["credential"].pop("issuer")
    assert not engine().decide(question).allowed


def test_a_hop_whose_issuer_does_not_speak_for_the_user_is_denied() -> None:
    policy = POLICY.replace(
        '"https://login.acme.example" }', '"https://login.acme.example"   records chains }'
    ).replace('agent "runner" { issued by partner', 'agent "runner" { issued by login')
    handed = asked("runner", "login", OURS, chain={"hops": [HOP]})
    assert engine(policy).decide(handed).gate.value == "chain"  # type: ignore[union-attr]
    assert engine(policy).decide(asked("runner", "login", THEIRS, chain={"hops": [HOP]})).allowed


def test_the_reason_names_the_user_as_unknown() -> None:
    policy = POLICY.replace("user any", "users unrestricted\nuser any")
    decision = engine(policy).decide(asked(None, "partner", OURS, "/guarded"))
    assert [(one.fact, one.why) for one in decision.unknown] == [("user.id", "`partner` may not name this user")]


def test_users_like_is_formatted_as_a_separate_item() -> None:
    text = 'issuer a { url "https://a" users like "*@a",\n"*@b" }\n'
    assert format_module(Source("a", text)) == 'issuer a { url "https://a"   users like "*@a",\n    "*@b" }\n'


@pytest.mark.parametrize(
    ("items", "code", "text"),
    [
        ('users like ""', "E417", '""'),
        ('users like "a"   users like "b"', "E405", 'users like "b"'),
    ],
)
def test_an_invalid_users_like_item_is_reported_at_its_location(items: str, code: str, text: str) -> None:
    found = check_text(f'issuer a {{ url "https://a"   {items} }}\nanyone {{ may GET /a }}\n')
    assert [(one.code, one.span.text) for one in found] == [(code, text)]
