"""`agent "report-*"`: a block or a delegation for every agent whose name fits."""

from __future__ import annotations

import pytest

from policyengine.check import check_text
from policyengine.engine import Engine

POLICY = """
scope read { GET /reports/** }
issuer acme { records chains }
user any { may read }
agent "report-*" { issued by acme   acts for any user   may read   may delegate read to agent "print-*" }
agent "print-*"  { issued by acme   acts for any user   may read }
agent "exact"    { issued by acme   acts for any user   may read }
"""


def outcome(agent: str, hops: list[str]) -> str:
    given = [{"agent": hop, "issuer": "acme", "scopes": ["read"]} for hop in hops]
    question = {
        "request": {"method": "GET", "path": "/reports/7"},
        "agent": {"id": agent, "issuer": "acme"},
        "user": {"id": "alice"},
        "credential": {"scopes": ["read"]},
        "chain": {"hops": given},
    }
    decision = Engine.from_text(POLICY).decide(question)
    return f"{decision.outcome} {decision.gate}"


@pytest.mark.parametrize(("agent", "expected"), [
    ("report-weekly", "allow None"), ("report-", "allow None"), ("report", "deny identity"),
    ("my-report-x", "deny identity"), ("exact", "allow None"), ("exactly", "deny identity"),
])  # fmt: skip
def test_a_star_in_an_agent_name_matches_any_characters(agent: str, expected: str) -> None:
    assert outcome(agent, []) == expected


def test_a_delegation_may_name_agents_by_a_glob() -> None:
    assert outcome("print-a4", ["report-weekly"]) == "allow None"
    assert outcome("exact", ["report-weekly"]) == "deny chain"


def test_a_glob_in_a_user_name_is_an_error() -> None:
    (found,) = [d for d in check_text(POLICY + 'user "al*" { may read }') if d.is_error]
    assert (found.code, found.span.text) == ("E418", '"al*"')
    assert found.hint == 'write `user where user.id like "al*"`'
