"""What an access token says of who asks, and what would have to be guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from mcp.server.auth.provider import AccessToken

from policyengine import Engine
from policyengine.integrations.token_facts import TokenFactsError, get_issuers, read_token_facts

POLICY = """
language 1
package p
issuer acme { url "https://login.acme.example" }
issuer one { url "https://shared.example" }
issuer two { url "https://shared.example" }
issuer named {}
anyone { may GET /health }
"""
ACME = "https://login.acme.example"


def token(**given: Any) -> AccessToken:
    return AccessToken(**{"token": "t", "client_id": "bot", "scopes": ["read"], **given})


def test_issuers_are_found_by_url_unless_two_share_it() -> None:
    assert get_issuers(Engine.from_text(POLICY)) == {ACME: "acme"}
    assert get_issuers(object()) == {}


def test_a_token_names_agent_user_and_credential() -> None:
    claims = {"iss": ACME, "iat": 1_000, "client_id": "bot"}
    facts = read_token_facts(token(subject="alice", expires_at=1_600, claims=claims), {ACME: "acme"})
    times = {"issued_at": datetime.fromtimestamp(1_000, UTC), "expires_at": datetime.fromtimestamp(1_600, UTC)}
    assert facts == {
        "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": "alice"},
        "credential": {"issuer": "acme", "subject": "alice", "scopes": ["read"], **times},
    }


TASK = {"id": "t-1", "tools": ["fs/read"], "entities": [{"type": "doc", "id": "7"}]}


@pytest.mark.parametrize("act", [{}, {"act": {"sub": "bot", "act": {"sub": "planner"}}}])
def test_the_task_of_a_token_is_read(act: Any) -> None:
    claims = {"iss": ACME, "client_id": "bot", "sub": "alice", "task": {**TASK, "issued_at": 900}, **act}
    facts = read_token_facts(token(subject="alice", claims=claims), {ACME: "acme"})
    assert facts["task"] == {**TASK, "issued_at": datetime.fromtimestamp(900, UTC)}


@pytest.mark.parametrize("task", ["t-1", {}, {"id": "t-1", "tools": "fs/read"}, {"id": "t-1", "entities": ["7"]}])
@pytest.mark.parametrize("act", [{}, {"act": {"sub": "bot", "act": {"sub": "planner"}}}])
def test_a_token_with_a_malformed_task_is_rejected(task: object, act: Any) -> None:
    claims = {"iss": ACME, "client_id": "bot", "sub": "alice", "task": task, **act}
    with pytest.raises(TokenFactsError, match=r"task|tools|entities"):
        read_token_facts(token(subject="alice", claims=claims), {ACME: "acme"})


@pytest.mark.parametrize("subject", [None, "bot"])
def test_a_token_without_a_separate_subject_has_no_user(subject: str | None) -> None:
    claims = {"iss": ACME, "client_id": "bot"}
    assert "user" not in read_token_facts(token(subject=subject, claims=claims), {ACME: "acme"})


def test_the_act_claim_is_read_as_a_delegation_chain() -> None:
    act = {"sub": "bot", "act": {"sub": "planner", "iat": 900}}
    claims = {"iss": ACME, "iat": 1_000, "sub": "alice", "act": act}
    facts = read_token_facts(token(subject="alice", claims=claims), {ACME: "acme"})
    assert (facts["agent"], facts["user"]) == ({"id": "bot", "issuer": "acme"}, {"id": "alice"})
    hop = {"agent": "planner", "issuer": "acme", "issued_at": datetime.fromtimestamp(900, UTC)}
    assert facts["chain"] == {"hops": [hop]}
    assert facts["credential"] == {
        "issuer": "acme", "subject": "alice", "scopes": ["read"], "issued_at": datetime.fromtimestamp(1_000, UTC),
    }  # fmt: skip


def test_a_token_without_an_issuer_gets_the_default_issuer() -> None:
    assert read_token_facts(token(), {}, "acme")["agent"] == {"id": "bot", "issuer": "acme"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "names no issuer"),
        ({"claims": {"iss": "https://evil.example"}}, "does not declare"),
        ({"claims": {"iss": f"{ACME}/"}}, "does not declare"),
        ({"claims": {"iss": [ACME]}}, "does not declare"),
        ({"claims": {"iss": ACME, "client_id": "bot", "act": {"sub": "planner"}}}, "the actor and the client differ"),
        ({"claims": {"iss": ACME, "sub": "a", "act": {"iss": ACME}}}, "an actor has no `sub`"),
        ({"claims": {"iss": ACME, "sub": "a", "act": {"sub": "bot", "act": {"sub": "bot"}}}}, "twice"),
        ({"claims": {"iss": ACME, "sub": "a", "client_id": "bot", "may_act": {"sub": "x"}}}, "may_act"),
        ({"client_id": "alice", "subject": "alice", "claims": {"iss": ACME}}, "names no client"),
        ({"client_id": "unknown", "claims": {"iss": ACME}}, "names no client"),
    ],
)
def test_a_token_with_ambiguous_claims_is_rejected(given: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenFactsError, match=why):
        read_token_facts(token(**given), {ACME: "acme"})


def test_the_default_issuer_does_not_replace_an_unknown_issuer() -> None:
    with pytest.raises(TokenFactsError):
        read_token_facts(token(claims={"iss": "https://evil.example", "client_id": "bot"}), {ACME: "acme"}, "acme")
