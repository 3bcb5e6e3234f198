"""`only_proved`: whatever a gateway says of who asks counts for nothing, at whichever door and in whatever shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from policyengine import Engine
from policyengine.identity.config.authenticator_factory import principal_entity_types
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.request import Request
from tests.identity.issuing import ACME, AUDIENCE, BOT, NOW, Door, token

POLICY = f"""
language 1
package acme.strict
entity region {{ }}
entity team {{ }} in region
entity user {{ roles: set<string> }} in team
entity invoice {{ tenant: string }}
issuer acme {{ url "{ACME}"  audience "{AUDIENCE}"  records chains }}
attester lab {{ url "https://lab.example" }}
scope own.do as "write:invoices" {{
  GET /open  GET /roles  GET /team  GET /region  GET /task  GET /attested  GET /invoice/{{id: invoice}}
}}
user any {{ may own.do }}
agent "{BOT}" {{ issued by acme  acts for any user  may own.do }}
anyone {{ may GET /health }}
guard "roles"    on GET /roles    {{ require user.roles has "clerk" }}
guard "team"     on GET /team     {{ require user in team "legal" }}
guard "region"   on GET /region   {{ require user in region "eu" }}
guard "task"     on GET /task     {{ require task.id == "t-1" }}
guard "attested" on GET /attested {{ require attestation.verified }}
guard "invoice"  on GET /invoice/{{id: invoice}} {{ require resource.tenant == "acme" }}
"""
ALICE = {"type": "user", "id": "alice", "attributes": {"roles": ["clerk"]}, "in": [{"type": "team", "id": "legal"}]}
CLAIMS: dict[str, dict[str, Any]] = {
    "/roles": {"entities": [ALICE]},
    "/team": {"entities": [ALICE]},
    "/region": {"entities": [ALICE, {"type": "team", "id": "legal", "in": [{"type": "region", "id": "eu"}]}]},
    "/task": {"task": {"id": "t-1"}},
    "/attested": {"attestation": {"verified": True, "by": "lab"}},
}
Ask = Callable[[Engine, dict[str, Any]], Decision]


def as_batch(engine: Engine, question: dict[str, Any]) -> Decision:
    (found,) = engine.decide_many([question])
    assert isinstance(found, Decision)
    return found


def looked_at_before(engine: Engine, question: dict[str, Any]) -> Decision:
    return engine.decide(dict(engine.prove(question)))


def known_before(engine: Engine, question: dict[str, Any]) -> Decision:
    engine.decide({"request": {"method": "GET", "path": "/open"}, "credentials": question["credentials"]})
    return engine.decide(question)


WAYS: dict[str, Ask] = {
    "a mapping": lambda engine, question: engine.decide(question),
    "known before": known_before,
    "a request": lambda engine, question: engine.decide(Request.from_mapping(question)),
    "JSON": lambda engine, question: engine.decide(json.dumps(question)),
    "evaluated": lambda engine, question: engine.evaluate(question),
    "explained": lambda engine, question: engine.explain(question).decision,
    "in a batch": as_batch,
    "identified before": lambda engine, question: engine.decide(engine.authenticate(question)),
    "looked at before": looked_at_before,
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_text(POLICY, clock=lambda: datetime.fromtimestamp(NOW, UTC))


def asks(engine: Engine, path: str, claims: Mapping[str, Any], credentials: bool = True) -> dict[str, Any]:
    sent = {"credentials": {"authorization": f"Bearer {token()}"}} if credentials else {}
    return {"request": {"method": "GET", "path": path}, **claims, **sent}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("path", CLAIMS)
def test_claimed_facts_of_principals_are_ignored_with_only_proved(path: str, way: Ask, engine: Engine) -> None:
    """And counts where the configuration does not say otherwise: so it is this that makes the difference."""
    for only_proved, outcome in ((True, Outcome.DENY), (False, Outcome.ALLOW)):
        engine.use_identity(Door().identity)
        engine.identity.only_proved, engine.identity.of_who = only_proved, principal_entity_types(engine.kernel)
        assert way(engine, asks(engine, path, CLAIMS[path])).outcome is outcome
        assert way(engine, asks(engine, "/open", CLAIMS[path])).outcome is Outcome.ALLOW


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_claimed_entities_that_are_not_principals_count_with_only_proved(way: Ask, engine: Engine) -> None:
    engine.use_identity(Door().identity)
    engine.identity.only_proved = True
    rows = {"entities": [{"type": "invoice", "id": "7", "attributes": {"tenant": "acme"}}]}
    assert way(engine, asks(engine, "/invoice/7", rows)).outcome is Outcome.ALLOW
    assert way(engine, asks(engine, "/invoice/7", {})).outcome is Outcome.DENY


@pytest.mark.parametrize("root", ["agent", "user", "credential", "task", "attestation"])
def test_claimed_principals_without_a_credential_are_rejected_with_only_proved(root: str, engine: Engine) -> None:
    engine.use_identity(Door().identity)
    engine.identity.only_proved = True
    claimed = {
        "agent": {"id": BOT, "issuer": "acme"}, "user": {"id": "alice"}, "credential": {"kind": "jwt"},
        "task": {"id": "t-1"}, "attestation": {"verified": True},
    }[root]  # fmt: skip
    question = asks(engine, "/open", {root: claimed}, credentials=False)
    assert engine.decide(question).reasons[0].code == "unproved"
    assert engine.identity.counts == {"unproved": 1}
    assert engine.decide(asks(engine, "/health", {}, credentials=False)).outcome is Outcome.ALLOW


def test_principal_types_are_agents_users_and_their_groups(engine: Engine) -> None:
    assert principal_entity_types(engine.kernel) == {"agent", "user", "team", "region"}


def test_a_question_cannot_change_the_cached_facts_of_a_credential(engine: Engine) -> None:
    engine.use_identity(Door().identity)
    question = asks(engine, "/roles", {})
    engine.decide(question)
    (kept,) = (one.proved for one in engine.identity._kept.values())
    before = deepcopy(kept.facts)
    more = {"pending": ["credential.claims.tenant", "task.id", "user.roles"], "chain": {"hops": [{"agent": "x"}]}}
    for claims in (*CLAIMS.values(), more):
        for way in WAYS.values():
            way(engine, {**question, **claims})
    (again,) = (one.proved for one in engine.identity._kept.values())
    assert again is kept
    assert kept.facts == before
