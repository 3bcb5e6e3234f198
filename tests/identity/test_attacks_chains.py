"""Tokens that their issuer signed, and that say on whose behalf in a way that nobody can be sure of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from policyengine.identity.config.model import IssuerSettings
from policyengine.identity.facts import build_facts
from policyengine.identity.verified import UNBOUND, Hop, TokenPrincipal, VerifiedToken
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credential_errors import RefusalCode as R
from policyengine.runtime.decision import Gate, Outcome
from policyengine.server.authzen.evaluations import AccessEvaluation
from policyengine.server.authzen.translator import QuestionTranslator
from tests.identity.issuing import ACME, BOT, GONE, NOW, OTHER, US, WORKLOAD, Door, ec, policy, token


@dataclass(frozen=True)
class Attack:
    name: str
    code: R
    claims: Mapping[str, Any]


def chain(*names: str, **more: Any) -> dict[str, Any]:
    """`act`, the outermost first."""
    first, *rest = names
    return {"sub": first, **more, **({"act": chain(*rest)} if rest else {})}


ACT = {"act": chain(BOT)}
DEEP = chain(BOT, *(f"agent-{n}" for n in range(16)))

CHAINS = [
    # ── Two clients
    Attack("azp is another client", R.CONTRADICTION, {"azp": "planner"}),
    Attack("act is another than the client", R.CONTRADICTION, {"act": chain("planner")}),
    Attack("act is another than azp", R.CONTRADICTION, {"act": chain("planner"), "client_id": "planner", "azp": BOT}),
    Attack("an actor with two names", R.CONTRADICTION, {"act": chain(BOT, client_id="planner")}),
    Attack("an actor within with two names", R.CONTRADICTION, {"act": {"sub": BOT, "act": chain("a", client_id="b")}}),
    Attack("the client is an object", R.CLAIM_TYPE, {"azp": {"id": BOT}}),
    Attack("the client is a list", R.CLAIM_TYPE, {"azp": [BOT]}),
    Attack("the client is empty", R.CLAIM_TYPE, {"azp": ""}),
    # ── Who acts
    Attack("act is a text", R.CLAIM_TYPE, {"act": BOT}),
    Attack("act is a list", R.CLAIM_TYPE, {"act": [chain(BOT)]}),
    Attack("act is null", R.CLAIM_TYPE, {"act": None}),
    Attack("act is false", R.CLAIM_TYPE, {"act": False}),
    Attack("act within is a text", R.CLAIM_TYPE, {"act": {"sub": BOT, "act": "planner"}}),
    Attack("act within is null", R.CLAIM_TYPE, {"act": {"sub": BOT, "act": None}}),
    Attack("act is empty", R.ACTOR, {"act": {}}),
    Attack("act names only a client", R.ACTOR, {"act": {"client_id": BOT}}),
    Attack("act within names nobody", R.ACTOR, {"act": {"sub": BOT, "act": {"iss": ACME}}}),
    Attack("an actor that is a number", R.CLAIM_TYPE, {"act": {"sub": 7}}),
    Attack("an actor that is empty", R.CLAIM_TYPE, {"act": {"sub": ""}}),
    Attack("an actor of an unknown issuer", R.ACTOR, {"act": chain(BOT, iss="https://evil.example")}),
    Attack("an actor of an issuer with a slash more", R.ACTOR, {"act": chain(BOT, iss=f"{ACME}/")}),
    Attack("an actor of an issuer by its name", R.ACTOR, {"act": chain(BOT, iss="acme")}),
    Attack("an actor of an issuer that is a number", R.CLAIM_TYPE, {"act": chain(BOT, iss=7)}),
    Attack("an actor within of an unknown issuer", R.ACTOR,
           {"act": {"sub": BOT, "act": chain("planner", iss="https://evil.example")}}),
    Attack("the presenter of another issuer", R.ACTOR, {"act": chain(BOT, iss=OTHER)}),
    Attack("the one who acts is a person", R.CONTRADICTION, {"act": chain(BOT, sub_profile="user")}),
    Attack("somebody within is a person", R.CONTRADICTION,
           {"act": {"sub": BOT, "act": chain("bob", sub_profile="user")}}),
    Attack("a person and an agent at once", R.CONTRADICTION, {**ACT, "sub_profile": "user ai_agent"}),
    Attack("an actor that is both", R.CONTRADICTION, {"act": chain(BOT, sub_profile="ai_agent user")}),
    Attack("a profile that is a list", R.CLAIM_TYPE, {"act": chain(BOT, sub_profile=["ai_agent"])}),
    # ── For whom
    Attack("the subject is an agent, and its client another", R.CONTRADICTION,
           {"sub": "planner", "sub_profile": "ai_agent"}),
    Attack("the subject is a person, and the client itself", R.CONTRADICTION, {"sub": BOT, "sub_profile": "user"}),
    Attack("a person who signed in by the name of the client", R.CONTRADICTION, {"sub": BOT, "auth_time": NOW - 60}),
    Attack("a person who signed in somehow by that name", R.CONTRADICTION, {"sub": BOT, "amr": ["pwd"]}),
    Attack("act was dropped: `may_act` is for another", R.MAY_NOT_ACT, {"may_act": {"sub": "planner"}}),
    Attack("may_act for another than who acts", R.MAY_NOT_ACT, {**ACT, "may_act": {"sub": "planner"}}),
    Attack("may_act for who handed it on", R.MAY_NOT_ACT,
           {"act": chain(BOT, "planner"), "may_act": {"sub": "planner"}}),
    Attack("may_act of another issuer", R.MAY_NOT_ACT, {**ACT, "may_act": {"sub": BOT, "iss": OTHER}}),
    Attack("may_act of an unknown issuer", R.MAY_NOT_ACT, {**ACT, "may_act": {"sub": BOT, "iss": "https://x"}}),
    Attack("may_act for nobody", R.MAY_NOT_ACT, {**ACT, "may_act": {}}),
    Attack("may_act for a pattern", R.MAY_NOT_ACT, {**ACT, "may_act": {"sub": "*"}}),
    Attack("may_act a text", R.CLAIM_TYPE, {**ACT, "may_act": BOT}),
    Attack("may_act null", R.CLAIM_TYPE, {**ACT, "may_act": None}),
    Attack("may_act for a list", R.CLAIM_TYPE, {**ACT, "may_act": {"sub": [BOT]}}),
    # ── Cycles, depth, splices
    Attack("the presenter twice", R.ACTOR_CYCLE, {"act": chain(BOT, BOT)}),
    Attack("a cycle of two", R.ACTOR_CYCLE, {"act": chain(BOT, "planner", BOT)}),
    Attack("a cycle within", R.ACTOR_CYCLE, {"act": chain(BOT, "planner", "router", "planner")}),
    Attack("a cycle by the name of the issuer", R.ACTOR_CYCLE,
           {"act": {"sub": BOT, "act": {"sub": "planner", "act": chain(BOT, iss=ACME)}}}),
    Attack("the user is an agent of the chain", R.ACTOR_CYCLE, {"sub": BOT, "act": chain(BOT, "planner")}),
    Attack("one actor more than is read", R.ACTOR_DEPTH, {"act": DEEP}),
    Attack("a bomb of actors", R.TOO_DEEP, {"act": chain(BOT, *(f"agent-{n}" for n in range(60)))}),
    Attack("a hop of another chain: handed on before it was had", R.CONTRADICTION,
           {"act": {"sub": BOT, "act": chain("router", iat=NOW - 900)
                    | {"act": chain("planner", iat=NOW - 100)}}}),
    Attack("a hop that is younger than the token", R.CONTRADICTION,
           {"act": {"sub": BOT, "act": chain("planner", iat=NOW + 90)}}),
    Attack("the time of a hop is a text", R.CLAIM_TYPE, {"act": {"sub": BOT, "act": chain("planner", iat="now")}}),
    Attack("the scopes of a hop are a list", R.CLAIM_TYPE, {"act": {"sub": BOT, "act": chain("planner", scope=["x"])}}),
    # ── What for
    Attack("scope and scp are two", R.CONTRADICTION, {"scp": ["read:invoices"]}),
    Attack("scp has more than scope", R.CONTRADICTION, {"scp": "write:invoices admin"}),
    Attack("scope is a list", R.CLAIM_TYPE, {"scope": ["write:invoices"]}),
    Attack("scope is null", R.CLAIM_TYPE, {"scope": None}),
    Attack("scopes with two spaces between", R.CLAIM_TYPE, {"scope": "write:invoices  admin"}),
    Attack("scopes with a tabulator between", R.CLAIM_TYPE, {"scope": "write:invoices\tadmin"}),
    Attack("scopes in quotes", R.CLAIM_TYPE, {"scope": '"write:invoices"'}),
    Attack("two scopes in one of a list", R.CLAIM_TYPE, {"scope": GONE, "scp": ["read:x write:invoices"]}),
    Attack("a scope that is a number", R.CLAIM_TYPE, {"scope": GONE, "scp": [7]}),
    Attack("details that are an object", R.CLAIM_TYPE, {"authorization_details": {"type": "write"}}),
    Attack("details of texts", R.CLAIM_TYPE, {"authorization_details": ["write:invoices"]}),
    Attack("details without a type", R.CLAIM_TYPE, {"authorization_details": [{"actions": ["invoices"]}]}),
    Attack("an action that is two", R.CLAIM_TYPE,
           {"authorization_details": [{"type": "x", "actions": ["a write:invoices"]}]}),
    Attack("actions that are a text", R.CLAIM_TYPE, {"authorization_details": [{"type": "x", "actions": "invoices"}]}),
    # ── The task
    Attack("a task that is a text", R.CLAIM_TYPE, {"task": "t-9"}),
    Attack("a task without a name", R.CLAIM_TYPE, {"task": {"tools": ["refund"]}}),
    Attack("a task that says what nobody understands", R.CLAIM_TYPE, {"task": {"id": "t-9", "max_amount": 5}}),
    Attack("tools that are a text", R.CLAIM_TYPE, {"task": {"id": "t-9", "tools": "refund"}}),
    Attack("entities that are numbers", R.CLAIM_TYPE, {"task": {"id": "t-9", "entities": [42]}}),
    Attack("entities without their type", R.CLAIM_TYPE, {"task": {"id": "t-9", "entities": ["42"]}}),
    Attack("a task that began at no time", R.CLAIM_TYPE, {"task": {"id": "t-9", "issued_at": "today"}}),
    # ── The agent
    Attack("groups that are a text", R.CLAIM_TYPE, {"sub": BOT, "groups": "admins"}),
    Attack("groups of objects", R.CLAIM_TYPE, {"act": chain(BOT, groups=[{"name": "admins"}])}),
    Attack("an instance that is a number", R.CLAIM_TYPE, {"act": chain(BOT, instance=7)}),
]  # fmt: skip


@pytest.mark.parametrize("attack", CHAINS, ids=lambda one: one.name)
def test_each_invalid_chain_is_rejected_with_its_own_code_and_counted(attack: Attack) -> None:
    door = Door()
    decision = door.bearer(token(**attack.claims))
    assert (decision.outcome, decision.reasons[0].code) == (Outcome.DENY, attack.code)
    assert door.identity.counts == {attack.code: 1}


def test_a_token_without_a_client_names_no_agent() -> None:
    """A person is not guessed where an agent may have dropped its name."""
    door = Door()
    assert door.bearer(token({"typ": "JWT"}, client_id=GONE)).reasons[0].code == R.ACTOR


# ── What is said, and read as it is said ──────────────────────────────────────────────────────

HOP = Hop("planner", "acme", NOW - 100, ("write:invoices",))
HANDED = {"sub": BOT, "act": chain("planner", iat=NOW - 100, scope="write:invoices")}


@pytest.mark.parametrize(
    ("claims", "who"),
    [
        ({}, TokenPrincipal(BOT, "alice", scopes=("write:invoices",))),
        ({"scope": GONE}, TokenPrincipal(BOT, "alice")),
        ({"scope": ""}, TokenPrincipal(BOT, "alice", scopes=())),
        ({"scope": GONE, "scp": ["b", "a"]}, TokenPrincipal(BOT, "alice", scopes=("b", "a"))),
        ({"scope": GONE, "scp": "b a"}, TokenPrincipal(BOT, "alice", scopes=("b", "a"))),
        ({"scope": "a b", "scp": ["b", "a"]}, TokenPrincipal(BOT, "alice", scopes=("a", "b"))),
        ({"scope": GONE, "authorization_details": [{"type": "pay", "actions": ["read", "make"]}]},
         TokenPrincipal(BOT, "alice", scopes=("pay:read", "pay:make"))),
        ({"scope": "x", "authorization_details": [{"type": "pay", "actions": ["make"], "limit": "5"}, {"type": "see"}]},
         TokenPrincipal(BOT, "alice", scopes=("x",))),
        ({"scope": GONE, "authorization_details": []}, TokenPrincipal(BOT, "alice", scopes=())),
        ({"azp": BOT, **ACT, "may_act": {"sub": BOT}}, TokenPrincipal(BOT, "alice", scopes=("write:invoices",))),
        ({"sub": BOT}, TokenPrincipal(BOT, None, scopes=("write:invoices",))),
        ({"sub": BOT, "groups": ["billing"], "instance": "pod-7"},
         TokenPrincipal(BOT, None, (), ("write:invoices",), "pod-7", ("billing",))),
        ({"groups": ["managers"], "instance": "browser"}, TokenPrincipal(BOT, "alice", scopes=("write:invoices",))),
        ({"act": chain(BOT, groups=["billing"], instance="pod-7"), "groups": ["managers"]},
         TokenPrincipal(BOT, "alice", (), ("write:invoices",), "pod-7", ("billing",))),
        ({"act": HANDED}, TokenPrincipal(BOT, "alice", (HOP,), ("write:invoices",))),
        ({"act": {"sub": BOT, "act": {**chain("planner"), "act": chain("router", iss=OTHER)}}},
         TokenPrincipal(BOT, "alice", (Hop("router", "other"), Hop("planner", "acme")), ("write:invoices",))),
        ({"sub": "planner", "act": chain(BOT, "planner")},
         TokenPrincipal(BOT, None, (Hop("planner", "acme"),), ("write:invoices",))),
        ({"sub": "planner", "sub_profile": "ai_agent", **ACT},
         TokenPrincipal(BOT, None, (Hop("planner", "acme"),), ("write:invoices",))),
        ({"task": {"id": "t-9", "tools": ["refund"], "entities": [], "issued_at": NOW - 60}},
         TokenPrincipal(BOT, "alice", scopes=("write:invoices",), task={
             "id": "t-9", "tools": ["refund"], "entities": [], "issued_at": datetime.fromtimestamp(NOW - 60, UTC)})),
    ],
)  # fmt: skip
def test_the_principal_is_read_from_the_token_claims(claims: dict[str, Any], who: TokenPrincipal) -> None:
    assert Door().who(token(**claims)) == who


def test_a_token_without_a_subject_identifies_only_an_agent() -> None:
    assert Door().who(token({"typ": "JWT"}, sub=GONE)) == TokenPrincipal(BOT, None, scopes=("write:invoices",))


def test_the_agent_setting_selects_the_claim_that_names_the_agent() -> None:
    door = Door(IssuerSettings(agent="cid"))
    assert door.who(token({"typ": "JWT"}, client_id=GONE, cid=BOT)) == TokenPrincipal(
        BOT, "alice", scopes=("write:invoices",)
    )
    assert door.bearer(token(cid="planner")).reasons[0].code == R.CONTRADICTION
    assert Door(IssuerSettings(agent="sub")).who(token({"typ": "JWT"}, client_id=GONE)).agent == "alice"


@pytest.mark.parametrize("said", [{"auth_time": NOW - 60}, {"amr": ["pwd"]}, {"sub_profile": "user"}], ids=str)
def test_a_token_with_claims_about_a_user_but_no_subject_is_rejected(said: dict[str, Any]) -> None:
    """What an agent does for somebody is not what it does alone."""
    assert Door().bearer(token({"typ": "JWT"}, sub=GONE, **said), "GET").reasons[0].code == R.MISSING_CLAIM


def test_an_introspected_token_with_a_username_but_no_subject_is_rejected() -> None:
    claims = {"client_id": BOT, "scope": "read:invoices"}
    alone, served = (
        VerifiedToken("opaque", "acme", {**claims, **more}, {}, b"", NOW + 60) for more in ({}, {"username": "a"})
    )
    assert Door().reads(alone).user is None
    with pytest.raises(CredentialError, match="its `sub` is missing"):
        Door().reads(served)


def test_a_people_client_identifies_a_user_without_an_agent_and_cannot_delegate() -> None:
    door = Door(IssuerSettings(people=("portal",)))
    assert door.who(token(client_id="portal")) == TokenPrincipal(None, "alice", scopes=("write:invoices",))
    assert door.bearer(token(client_id="portal", act=chain(BOT))).reasons[0].code == R.CONTRADICTION
    assert door.bearer(token(client_id="portal", sub="portal")).reasons[0].code == R.ACTOR
    assert door.bearer(token(client_id="portal", sub_profile="ai_agent")).reasons[0].code == R.CONTRADICTION
    through = {"txn": "t-1", "req_wl": BOT, "client_id": "portal"}
    raw = token(_header={"typ": "txntoken+jwt"}, **through)
    assert door.ask({"txn_token": raw}).reasons[0].code == R.CONTRADICTION, "the workload is an agent all the same"


# ── One chain, however it is told ─────────────────────────────────────────────────────────────

FOR_ALICE = TokenPrincipal(BOT, "alice", scopes=("write:invoices",))
THROUGH_PLANNER = TokenPrincipal(BOT, "alice", (Hop("planner", "acme"),), ("write:invoices",))
TXN = {"txn": "t-1", "client_id": GONE}
ID_JAG = {"typ": "oauth-id-jag+jwt"}


@pytest.mark.parametrize(
    ("encoding", "header", "claims", "who"),
    [
        ("client", {}, {}, FOR_ALICE),
        ("RFC 8693", {}, ACT, FOR_ALICE),
        ("access request", {}, {"act": {"iss": ACME, "sub": BOT, "sub_profile": "ai_agent"}}, FOR_ALICE),
        ("ID-JAG", ID_JAG, {"aud": US}, FOR_ALICE),
        ("transaction token", None, {**TXN, "req_wl": BOT}, FOR_ALICE),
        ("transaction token in a list", None, {**TXN, "req_wl": [BOT]}, FOR_ALICE),
        ("transaction token with act", None, {**TXN, "req_wl": BOT, **ACT}, FOR_ALICE),
        ("RFC 8693", {}, {"act": chain(BOT, "planner")}, THROUGH_PLANNER),
        ("access request", {}, {"act": {"iss": ACME, "sub": BOT, "sub_profile": "ai_agent", "act": {
            "iss": ACME, "sub": "planner", "sub_profile": "ai_agent"}}}, THROUGH_PLANNER),
        ("ID-JAG", ID_JAG, {"aud": US, "act": chain(BOT, "planner")}, THROUGH_PLANNER),
        ("transaction token", None, {**TXN, "req_wl": ["planner", BOT]}, THROUGH_PLANNER),
        ("transaction token of an agent by a workload", None, {**TXN, "req_wl": BOT, "act": chain("planner")},
         THROUGH_PLANNER),
        ("transaction token with all of it", None, {**TXN, "req_wl": ["planner", BOT], "act": chain("planner")},
         THROUGH_PLANNER),
    ],
)  # fmt: skip
def test_every_encoding_of_a_chain_yields_the_same_principal(
    encoding: str, header: Any, claims: dict[str, Any], who: TokenPrincipal
) -> None:
    door = Door(IssuerSettings(types=("at+jwt", "oauth-id-jag+jwt")))
    if header is None:
        found = door.tokens.verify_txn(token({"typ": "txntoken+jwt"}, **claims), NOW)
    else:
        found = door.tokens.verify(token(header, **claims), NOW)
    assert door.reads(found) == who, encoding


@pytest.mark.parametrize(
    ("subject", "context", "who"),
    [
        ({}, {"agent": BOT}, FOR_ALICE),
        ({"act": {"iss": ACME, "sub": BOT, "sub_profile": "ai_agent"}}, {}, FOR_ALICE),
        ({"act": {"iss": ACME, "sub": BOT, "act": {"iss": ACME, "sub": "planner"}}}, {"agent": BOT}, THROUGH_PLANNER),
    ],
)  # fmt: skip
def test_an_authzen_request_yields_the_same_chain_as_a_token(subject: Any, context: Any, who: TokenPrincipal) -> None:
    """COAZ names the agent in `context`, the access-request draft in `act`."""
    asked = AccessEvaluation.read({
        "subject": {"type": "user", "id": "alice", "properties": {"iss": ACME, **subject}},
        "action": {"name": "POST"}, "resource": {"type": "path", "id": "/v1/invoices"}, "context": context,
    })  # fmt: skip
    told = QuestionTranslator(policy().kernel).who(asked)
    facts = build_facts(VerifiedToken("jwt", "acme", {}, {}, b"", NOW), who, UNBOUND)
    agent: Any = told["agent"]
    assert (agent["id"], told["user"]) == (facts["agent"]["id"], facts["user"])
    assert json.dumps(told.get("chain")) == json.dumps(facts.get("chain"))


@pytest.mark.parametrize("claims", [{}, {"iss": "spiffe://mesh.example"}])
def test_a_workload_token_identifies_the_workload_as_agent_without_user(claims: dict[str, Any]) -> None:
    gone = dict.fromkeys(("iss", "client_id", "scope", "jti"), GONE)
    assert Door().who(token({"typ": "JWT"}, **{**gone, "sub": WORKLOAD, **claims})) == TokenPrincipal(WORKLOAD, None)


# ── What the policy makes of a chain ──────────────────────────────────────────────────────────


PLANNED = chain("planner", scope="write:invoices")


@pytest.mark.parametrize(
    ("name", "claims", "gate"),
    [
        ("handed on as the policy lets it", {"act": {"sub": BOT, "act": PLANNED}}, None),
        ("by agents alone, of whom the last may only act for users",
         {"sub": "planner", "act": {"sub": BOT, "act": PLANNED}}, "identity"),
        ("a hop without scopes", {"act": chain(BOT, "planner")}, "chain"),
        ("scopes wider than those of the hop",
         {"act": {"sub": BOT, "act": chain("planner", scope="read:invoices")}}, "chain"),
        ("a hop without any scope", {"act": {"sub": BOT, "act": chain("planner", scope="")}}, "chain"),
        ("a hop that may not hand it on",
         {"client_id": "planner", "act": {"sub": "planner", "act": chain(BOT, scope="write:invoices")}}, "chain"),
        ("a hop that was spliced in", {"act": {"sub": BOT, "act": chain("mallory", scope="write:invoices")}}, "chain"),
        ("a hop that was left out", {"client_id": "router", "act": {"sub": "router", "act": {
            "sub": BOT, "scope": "write:invoices", "act": PLANNED}}}, "chain"),
        ("a hop of another issuer by the same name",
         {"act": {"sub": BOT, "act": chain("planner", iss=OTHER, scope="write:invoices")}}, "chain"),
        ("a presenter whom nobody knows", {"client_id": "mallory"}, "identity"),
        ("scopes that carry nothing", {"scope": "other"}, "default"),
        ("no scopes", {"scope": GONE}, "default"),
    ],
)  # fmt: skip
def test_authority_only_narrows_along_a_chain(name: str, claims: dict[str, Any], gate: str | None) -> None:
    """The first import and from then on, when it is known what the token proves."""
    door, raw = Door(), token(**claims)
    for decision in (door.bearer(raw), door.bearer(raw)):
        outcome = Outcome.ALLOW if gate is None else Outcome.DENY
        assert (decision.outcome, decision.gate and decision.gate.value) == (outcome, gate), name


def test_the_chain_is_unknown_if_its_issuer_does_not_record_chains() -> None:
    """`other` does not say `records chains`: its token without hops counts, one with hops denies."""
    key, claims = ec("P-256", "ec-other"), {"iss": OTHER}
    door = Door()
    assert door.bearer(token(_key=key, **claims)).outcome is Outcome.ALLOW
    decision = door.bearer(token(_key=key, **claims, act={"sub": BOT, "act": PLANNED}))
    assert (decision.outcome, decision.gate and decision.gate.value) == (Outcome.DENY, "chain")
    assert any(one.fact == "chain.hops" for one in decision.unknown)


def test_a_revoked_hop_revokes_every_token_delegated_through_it() -> None:
    door = Door()
    raw = token(act={"sub": BOT, "act": PLANNED})
    assert door.bearer(raw).outcome is Outcome.ALLOW
    door.marks.revoke(["agent:acme/planner"], NOW + 900, NOW)
    assert door.bearer(raw).reasons[0].code == R.REVOKED
    assert door.bearer(token()).outcome is Outcome.ALLOW


def test_claimed_facts_do_not_override_the_chain_of_a_token() -> None:
    credentials = {"authorization": f"Bearer {token(act=chain(BOT, 'planner'))}"}
    claimed = {"chain": {"hops": []}, "agent": {"id": "root"}, "user": {"id": "root"}}
    decision = Door().engine.decide({
        "request": {"method": "POST", "path": "/v1/invoices"}, "credentials": credentials, **claimed,
    })  # fmt: skip
    assert (decision.gate or Gate.DOOR).value == "chain"
