"""Tokens of our own: issued when the policy hands work on, used in decisions, revoked."""

from __future__ import annotations

import json
import logging
from base64 import urlsafe_b64decode
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jws import JWSRegistry

from policyengine import Engine
from policyengine import kernel as k
from policyengine.entities.lookup import EntityLookups
from policyengine.entities.store import EntityStore
from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.identity.issue.clients import ClientCredentials, ClientRegistry, load_clients
from policyengine.identity.issue.delegation_check import (
    ANY_NAME,
    DelegationAllowance,
    DelegationCheck,
    DelegationResult,
    sample_endpoints,
)
from policyengine.identity.issue.errors import ISSUANCE_REFUSAL_INFO, IssuanceRefusal, TokenIssuanceError
from policyengine.identity.issue.issuer import IssuedToken
from policyengine.identity.issue.request import JWT
from policyengine.identity.revocation import verify_active_token
from policyengine.identity.verified import ConfirmedKey, TokenPrincipal, VerifiedToken
from policyengine.log_throttle import MAX_LINES, LogThrottle
from policyengine.runtime.credential_errors import REFUSAL_INFO as REFUSALS
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, ToolEndpoint
from policyengine.runtime.entities import EntityData
from policyengine.stores.base import StoreError
from policyengine.stores.credential_marks import MemoryMarks
from policyengine.typesystem import EntityRef
from tests.depth import examples, scaled
from tests.entities.test_looking import Clock, Table
from tests.identity.issuing import b64
from tests.identity.minting import (
    ACME,
    ARCHIVE,
    AUDIENCE,
    CLIENTS,
    DESK,
    GONE,
    NOW,
    POLICY,
    X5T,
    Desk,
    assertion,
    ec,
    key_of,
    policy,
    subject,
)

ALL = READ, WRITE, REPORTS, MAIL = "read:invoices", "write:invoices", "read:reports", "send:mail"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desk(shared: Desk) -> Desk:
    return shared.fresh()


def claims_of(raw: str) -> dict[str, Any]:
    part = raw.split(".")[1]
    found: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_an_issued_token_holds_the_delegated_scopes_chain_and_binding(desk: Desk):
    issued = desk.exchange()
    claims = claims_of(issued.token)
    assert issued.scopes == (READ, REPORTS)  # writing is not handed on, and alice may not send mail
    assert (claims["iss"], claims["aud"], claims["sub"], claims["client_id"]) == (DESK, AUDIENCE, "alice", "summarizer")
    hop = {"sub": "planner", "iss": ACME, "iat": NOW - 60, "scope": f"{READ} {WRITE} {REPORTS} {MAIL}"}
    assert claims["act"] == {"sub": "summarizer", "act": hop}
    assert claims["cnf"] == {"jkt": "jkt-1"}
    assert issued.to_dict()["token_type"] == "DPoP"
    assert desk.identity.counts["issued"] == 1


def test_the_engine_verifies_an_issued_token_and_decides_by_it(desk: Desk):
    issued = desk.exchange()
    assert desk.decide(issued).allowed
    assert desk.decide(issued, "/v1/reports/a/b").allowed
    assert not desk.decide(issued, method="POST").allowed
    stolen = desk.decide(issued, dpop="jkt-2")
    assert (stolen.gate, stolen.reasons[0].code) == ("identity", "bound_to_other")


def test_an_exchange_rejects_an_implied_scope_that_the_token_does_not_name(desk: Desk):
    """`write:invoices` includes reading: whoever may only that names both."""
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(subject_token=subject(scope=WRITE), scope=READ)
    assert (found.value.code, found.value.why) == (
        IssuanceRefusal.SCOPE, "the presented tokens have none of the requested scopes: read:invoices"
    )  # fmt: skip


def test_an_issued_token_has_the_shortest_of_all_lifetimes(desk: Desk):
    """Reports are handed on for five minutes, of which one is gone; the rest of it is within thirty."""
    assert desk.exchange().lasts == 240
    assert desk.exchange(scope=READ).lasts == 900  # our own limit
    assert desk.exchange(scope=READ, subject_token=subject(exp=NOW + 100)).lasts == 100
    assert desk.exchange(scope=READ, subject_token=subject(iat=NOW - 1_500)).lasts == 300  # `for 30m`


def test_an_issued_token_respects_the_credential_lifetime_of_the_actors_block(tmp_path: Path):
    assert Desk(tmp_path, lifetime=3_600).exchange(scope=READ).lasts == 1_200


@pytest.mark.parametrize(("age", "granted"), [(299, (READ, REPORTS)), (300, (READ,)), (301, (READ,))])
def test_an_exchange_omits_a_scope_whose_delegation_has_expired(desk: Desk, age: int, granted: tuple[str, ...]):
    issued = desk.exchange(subject_token=subject(iat=NOW - age))
    assert (issued.scopes, issued.lasts) == (granted, 1 if REPORTS in granted else 900)


def test_an_issued_token_respects_the_lifetime_limit_of_the_previous_hop(tmp_path: Path):
    desk = Desk(tmp_path, lifetime=3_600)
    first = desk.exchange(scope=READ)
    desk.now += 1_000
    second = desk.exchange(by="reader", _dpop="jkt-2", subject_token=first.token)
    assert second.lasts == 200  # of the token that it rests on
    assert claims_of(second.token)["act"]["act"]["sub"] == "summarizer"
    assert desk.decide(second, dpop="jkt-2").allowed


def test_an_exchange_leaves_request_conditions_of_a_delegation_to_the_decision(desk: Desk):
    assert REPORTS in desk.exchange(scope=REPORTS).scopes


def test_an_exchange_evaluates_delegation_conditions_on_the_user(desk: Desk):
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(by="clerk", scope=WRITE)
    assert found.value.code is IssuanceRefusal.DELEGATION
    issued = desk.exchange(by="clerk", scope=WRITE, subject_token=subject(org="acme"))
    assert claims_of(issued.token)["tenant"] == "acme"  # as the policy takes it from us
    assert desk.decide(issued, method="POST").allowed


def test_an_exchange_copies_user_claims_without_changing_their_values(desk: Desk):
    for org in (1.25, {"share": [0.1]}, 10**33, "acme"):
        assert claims_of(desk.exchange(subject_token=subject(org=org)).token)["tenant"] == org
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(subject_token=signed_with('"org":0.1234567890123456789'))
    assert found.value.code is IssuanceRefusal.KEYS


def signed_with(member: str) -> str:
    """A token with a member as it stands there."""
    head, body, _ = subject().split(".")
    text = urlsafe_b64decode(body + "==").decode()
    whole = f"{head}.{b64(f'{text[:-1]},{member}}}'.encode())}"
    return f"{whole}.{b64(JWSRegistry.algorithms['ES256'].sign(whole.encode(), ec()))}"


def test_an_agent_with_two_client_methods_can_authenticate_by_either(tmp_path: Path):
    given = {
        name: {"agent": "bot", "issuer": "acme", "method": name, "certificates": [X5T]} for name in ("mtls", "token")
    }
    known = load_clients(parse_identity_config({"clients": given}, tmp_path))
    clients, bound = ClientRegistry(known, frozenset(), MemoryMarks()), ConfirmedKey(X5T, X5T)
    own = VerifiedToken("jwt", "acme", {"cnf": {"jkt": X5T}}, {}, b"", NOW + 60), TokenPrincipal("bot", None)
    assert clients.actor(ClientCredentials(), own, bound, NOW).client.name == "token"
    assert clients.actor(ClientCredentials("mtls"), None, bound, NOW).client.name == "mtls"


@pytest.mark.parametrize("wrong", ["AB:CD", "a" * 64, "a" * 42, ""])
def test_an_invalid_certificate_thumbprint_of_a_client_is_rejected(wrong: str):
    given = {"agent": "bot", "issuer": "acme", "method": "mtls", "certificates": [wrong]}
    with pytest.raises(
        IdentityConfigError, match=r"`clients\.bot\.certificates\[0\]`: write the SHA-256 .* in base64url"
    ):
        parse_identity_config({"clients": {"bot": given}})


def test_a_token_delegated_by_a_user_directly_has_no_hop(desk: Desk):
    """Of a token that names no agent before it there is no hop."""
    raw = subject(client_id="summarizer")
    issued = desk.exchange(subject_token=raw, scope=READ)
    assert claims_of(issued.token)["act"] == {"sub": "summarizer", "iat": NOW - 60}
    assert desk.decide(issued).allowed


def test_an_agent_can_delegate_a_token_without_a_user(desk: Desk):
    issued = desk.exchange(by="loner", subject_token=subject(sub="planner", scope=READ))
    claims = claims_of(issued.token)
    assert "sub" not in claims
    assert claims["act"]["act"]["sub"] == "planner"
    assert desk.decide(issued).allowed


@pytest.mark.parametrize(("audience", "expected"), [(GONE, AUDIENCE), (AUDIENCE, AUDIENCE), (ARCHIVE, ARCHIVE)])
def test_an_issued_token_has_exactly_one_audience(desk: Desk, audience: Any, expected: str):
    assert claims_of(desk.exchange(audience=audience).token)["aud"] == expected


def test_the_resource_parameter_sets_the_audience(desk: Desk):
    assert claims_of(desk.exchange(resource=ARCHIVE, requested_token_type=JWT).token)["aud"] == ARCHIVE


@pytest.mark.parametrize(
    ("by", "more", "cnf"),
    [
        ("summarizer", {"_dpop": None}, "key"),
        ("summarizer", {}, {"jkt": "jkt-1"}),
        (None, {"client_id": "by-certificate", "_mtls": X5T, "_dpop": None}, {"x5t#S256": X5T}),
        (None, {"client_id": "by-proof", "_dpop": "key"}, "key"),
    ],
)
def test_an_issued_token_is_bound_to_the_key_that_the_client_proved(
    desk: Desk, by: str | None, more: dict[str, Any], cnf: Any
):
    thumbprint = ec("P-256", "client-summarizer").thumbprint()
    more = {name: thumbprint if value == "key" else value for name, value in more.items()}
    issued = desk.exchange(by=by, **more)
    assert claims_of(issued.token)["cnf"] == ({"jkt": thumbprint} if cnf == "key" else cnf)


def test_an_actor_token_narrows_scopes_and_lifetime(desk: Desk):
    own = subject(sub="summarizer", client_id="summarizer", scope=READ, exp=NOW + 90)
    issued = desk.exchange(actor_token=own, actor_token_type=JWT)
    assert (issued.scopes, issued.lasts) == ((READ,), 90)


def test_an_expired_token_within_the_leeway_cannot_be_exchanged(desk: Desk):
    first = desk.exchange(scope=READ, subject_token=subject(exp=NOW + 100))
    own = subject(sub="summarizer", client_id="summarizer", exp=NOW + 100)
    for more in ({"subject_token": first.token}, {"actor_token": own, "actor_token_type": JWT}):
        desk.now = NOW + 99
        assert desk.exchange(scope=READ, **more).lasts == 1
        desk.now = NOW + 100  # the clocks of those who verify it may be behind
        assert desk.decide(first).allowed
        with pytest.raises(TokenIssuanceError) as found:
            desk.exchange(scope=READ, **more)
        assert found.value.code is IssuanceRefusal.LIFETIME


def test_renewing_a_token_does_not_extend_the_delegation_lifetime(desk: Desk):
    """`for 30m` counts from the token that was there first, however often it came anew."""
    raw = subject()
    desk.now = NOW + 1_700
    for _ in range(2):
        raw = desk.exchange(by="planner", scope=READ, subject_token=raw).token
    issued = desk.exchange(scope=READ, subject_token=raw)
    assert issued.lasts == 1_800 - 60 - 1_700
    assert claims_of(issued.token)["act"]["act"]["iat"] == NOW - 60
    assert desk.decide(issued).allowed
    desk.now = NOW + 1_740
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(scope=READ, subject_token=raw)
    assert found.value.code is IssuanceRefusal.DELEGATION


@pytest.mark.parametrize("claim", ["links", "cnf", "act", "aud", "iss", "jti", "client_id", "iat"])
def test_a_user_claim_cannot_replace_a_claim_of_the_issued_token(tmp_path: Path, claim: str):
    """Whatever the policy calls it."""
    odd = Engine.from_text(POLICY.replace("tenant -> user.tenant", f"{claim} -> user.tenant"))
    claims = claims_of(Desk(tmp_path, odd).exchange(scope=READ, subject_token=subject(org="acme")).token)
    assert claims[claim] != "acme"


# ── What a decision asks for ──────────────────────────────────────────────────────────────────


def test_a_scope_remedy_can_be_passed_to_the_exchange_unchanged(desk: Desk):
    weak = desk.exchange(scope=REPORTS)
    denied = desk.decide(weak)
    (remedy,) = denied.to_dict()["remedies"]
    assert remedy == {"kind": "scope", "scopes": [READ, WRITE]}
    assert desk.decide(desk.exchange(remedy=json.dumps(remedy))).allowed


def test_an_issued_token_satisfies_a_remedy_that_requires_a_bound_credential(desk: Desk):
    raw = subject(sub="alice", client_id="summarizer")  # of another issuer, and bound to nothing
    assert not desk.decide(raw, dpop="").allowed
    remedy = {"kind": "credential", "need": "bound"}
    assert desk.decide(desk.exchange(subject_token=raw, remedy=json.dumps(remedy))).allowed


# ── Tasks ─────────────────────────────────────────────────────────────────────────────────────


def test_an_exchange_passes_the_task_on_and_can_narrow_it(desk: Desk):
    held = subject(task={"id": "t-9", "tools": ["a", "b"]})
    opened = {"opened_by": "acme/planner"}
    assert claims_of(desk.exchange(subject_token=held).token)["task"] == {"id": "t-9", "tools": ["a", "b"], **opened}
    asked = {"id": "t-9", "tools": ["a"], "entities": [{"type": "invoice", "id": "42"}]}
    issued = desk.exchange(subject_token=held, task=json.dumps(asked))
    assert claims_of(issued.token)["task"] == {**asked, **opened}


def task_of(issued: IssuedToken) -> dict[str, Any]:
    """But for who opened it."""
    return {name: value for name, value in claims_of(issued.token)["task"].items() if name != "opened_by"}


@pytest.mark.parametrize(
    ("held", "own", "opener"),
    [
        (None, None, "acme/summarizer"), ({"id": "t-9"}, None, "acme/planner"),
        (None, {"id": "t-9"}, "acme/summarizer"),
        (None, {"id": "t-9", "opened_by": "acme/clerk"}, "acme/clerk"),
        ({"id": "t-9", "opened_by": "acme/clerk"}, {"id": "t-9"}, "acme/clerk"),
    ],
)  # fmt: skip
def test_an_issued_task_names_the_agent_that_opened_it(desk: Desk, held: Any, own: Any, opener: str):
    bounded = subject(sub="summarizer", client_id="summarizer", **({} if own is None else {"task": own}))
    first = subject(**({} if held is None else {"task": held}))
    more = {"actor_token": bounded, "actor_token_type": JWT, "task": '{"id": "t-9"}'}
    assert claims_of(desk.exchange(subject_token=first, **more).token)["task"]["opened_by"] == opener


THINGS = [{"type": "invoice", "id": "42"}, {"type": "invoice", "id": "43"}]
NO_THINGS = '`entities` of a `task` must be a list of at most 1,000 entities: `{"type": "invoice", "id": "42"}`'
HELD = {"id": "t-9", "tools": ["fs/read", "send"], "entities": THINGS}


@pytest.mark.parametrize(
    ("asked", "issued"),
    [
        ({}, {}), ({"tools": ["fs/read"]}, {"tools": ["fs/read"]}), ({"tools": []}, {"tools": []}),
        ({"tools": ["mail/send"]}, {"tools": ["mail/send"]}),  # of a name at any server, that at one
        ({"entities": THINGS[1:]}, {"entities": THINGS[1:]}), ({"entities": []}, {"entities": []}),
        ({"tools": ["read"]}, None), ({"tools": ["fs/write"]}, None), ({"tools": ["mail/send/x"]}, None),
        ({"tools": ["/send"]}, None), ({"id": "t-10"}, None), ({"entities": [{"type": "user", "id": "42"}]}, None),
        ({"entities": [*THINGS, {"type": "invoice", "id": "44"}]}, None),
    ],
)  # fmt: skip
def test_an_exchange_can_narrow_a_task_but_not_widen_it(
    desk: Desk, asked: dict[str, Any], issued: dict[str, Any] | None
):
    def exchanged() -> object:
        wanted = json.dumps({"id": "t-9", **asked})
        return task_of(desk.exchange(subject_token=subject(task=HELD), task=wanted))

    if issued is not None:
        assert exchanged() == {**HELD, **issued}
        return
    with pytest.raises(TokenIssuanceError) as found:
        exchanged()
    assert found.value.code is IssuanceRefusal.TASK


@pytest.mark.parametrize(
    ("held", "own", "issued"),
    [
        (None, HELD, HELD), (HELD, None, HELD), (HELD, HELD, HELD),
        ({"id": "t-9"}, HELD, HELD), (HELD, {"id": "t-9", "tools": []}, {**HELD, "tools": []}),
        (HELD, {"id": "t-9", "tools": ["read", "mail/send", "x"]}, {**HELD, "tools": ["fs/read", "mail/send"]}),
        (HELD, {"id": "t-9", "entities": THINGS[1:]}, {**HELD, "entities": THINGS[1:]}),
        ({**HELD, "issued_at": NOW - 20}, {**HELD, "issued_at": NOW - 90}, {**HELD, "issued_at": NOW - 90}),
        (HELD, {**HELD, "id": "t-10"}, None),
    ],
)  # fmt: skip
def test_the_task_of_an_actor_token_bounds_the_issued_token(
    desk: Desk, held: dict[str, Any] | None, own: dict[str, Any] | None, issued: dict[str, Any] | None
):
    def exchanged(**more: Any) -> object:
        bounded = subject(sub="summarizer", client_id="summarizer", **({} if own is None else {"task": own}))
        first = subject(**({} if held is None else {"task": held}))
        return task_of(desk.exchange(subject_token=first, actor_token=bounded, actor_token_type=JWT, **more))

    if issued is None:
        with pytest.raises(TokenIssuanceError) as found:
            exchanged()
        assert found.value.code is IssuanceRefusal.TASK
        return
    assert exchanged() == issued
    with pytest.raises(TokenIssuanceError):
        exchanged(task=json.dumps({"id": "t-9", "tools": ["fs/write"]}))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"tools": ["fs/*"]}, "`tools` of a `task` cannot contain patterns: omit it to allow every tool"),
        ({"tools": ["*"]}, "`tools` of a `task` cannot contain patterns: omit it to allow every tool"),
        ({"tools": "fs/read"},
         "`tools` of a `task` must be a list of at most 1,000 names: `server/name`, or `name` for any server"),
        ({"entities": ["42"]}, NO_THINGS), ({"entities": [{**THINGS[0], "x": 1}]}, NO_THINGS),
        ({"entities": THINGS[0]}, NO_THINGS),
    ],
)  # fmt: skip
def test_a_task_with_patterns_or_malformed_lists_is_rejected(desk: Desk, asked: dict[str, Any], why: str):
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(task=json.dumps({"id": "t-9", **asked}))
    assert (found.value.code, found.value.why) == (IssuanceRefusal.TASK, why)


def test_an_agent_can_open_its_own_task(desk: Desk):
    issued = desk.exchange(by="planner", task=json.dumps({"id": "t-1", "tools": ["mail/send"]}), scope=READ)
    assert claims_of(issued.token)["act"] == {"sub": "planner", "iat": NOW - 60}
    assert claims_of(issued.token)["task"]["id"] == "t-1"
    assert desk.decide(issued).allowed


# ── Revoked ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "agent:acme/planner", "agent:acme/summarizer", "agent:desk/summarizer", "user:acme/alice", "user:desk/alice",
        "jti:acme/root", "key:jkt-1", "key:key-of-planner", "task:acme/t-1", "task:desk/t-1",
    ],
)  # fmt: skip
def test_revoking_any_link_of_a_chain_denies_the_next_decision(desk: Desk, name: str):
    raw = subject(jti="root", cnf={"jkt": "key-of-planner"}, task={"id": "t-1"})
    issued = desk.exchange(subject_token=raw, scope=READ)
    other = desk.exchange(by="clerk", scope=READ, subject_token=subject(org="acme", sub="bob"), _dpop="jkt-3")
    assert desk.decide(issued).allowed
    desk.marks.revoke([name], NOW + 10_000, NOW)
    denied = desk.decide(issued)
    assert (denied.gate, denied.reasons[0].code) == ("identity", "revoked")
    assert desk.decide(other, dpop="jkt-3").allowed is (name != "agent:acme/planner")


def test_revoking_a_token_revokes_tokens_derived_over_several_hops(desk: Desk):
    first = desk.exchange(scope=READ, subject_token=subject(jti="root"))
    second = desk.exchange(by="reader", subject_token=first.token, _dpop="jkt-2")
    assert desk.decide(second, dpop="jkt-2").allowed
    desk.marks.revoke(["jti:acme/root"], NOW + 10_000, NOW)
    assert desk.decide(second, dpop="jkt-2").reasons[0].code == "revoked"


# ── Output ──────────────────────────────────────────────────────────────────────────────


def test_the_log_line_describes_the_issued_token_without_containing_it(desk: Desk, caplog: pytest.LogCaptureFixture):
    raw = subject()
    with caplog.at_level(logging.INFO, "policyengine"):
        issued = desk.exchange(subject_token=raw, scope=READ)
    (line,) = [one for one in caplog.records if getattr(one, "event", "") == "token_issued"]
    told = line.__dict__
    assert (told["chain"], told["user"], told["scope"]) == (["planner", "summarizer"], "alice", READ)
    assert not {raw, issued.token} & {str(value) for value in told.values()}
    assert issued.token not in repr(issued)


@pytest.mark.parametrize(
    ("sent", "own", "jkt", "known"),
    [
        (lambda: ClientCredentials(assertion=assertion("summarizer")), None, "fresh", True),
        (lambda: ClientCredentials(assertion=assertion("summarizer", _key=key_of("clerk"))), None, "fresh", False),
        (lambda: ClientCredentials(assertion=assertion("summarizer", exp=NOW - 1)), None, "fresh", False),
        (
            lambda: ClientCredentials(assertion=assertion("summarizer", aud="https://evil.example")),
            None,
            "fresh",
            False,
        ),
        (lambda: ClientCredentials(assertion=assertion("nobody", _key=key_of("clerk"))), None, "fresh", False),
        (lambda: ClientCredentials(assertion="x"), None, "fresh", False),
        (lambda: ClientCredentials("by-proof"), None, "its own", True),
        (lambda: ClientCredentials("by-proof"), None, "fresh", False),
        (lambda: ClientCredentials("summarizer"), None, "its own", False),
        (lambda: ClientCredentials("nobody"), None, "fresh", False),
        (lambda: ClientCredentials(), {"jkt": "fresh"}, "fresh", True),
        (lambda: ClientCredentials(), {"jkt": "another"}, "fresh", False),
        (lambda: ClientCredentials(), None, "fresh", False),
    ],
)
def test_only_valid_client_credentials_make_a_proof_count_as_known(
    desk: Desk, sent: Any, own: Any, jkt: str, known: bool
):
    found = (
        None
        if own is None
        else verify_active_token(desk.identity, subject(sub="tokened", client_id="tokened", cnf=own), NOW)
    )
    asked, jkt = sent(), key_of("summarizer").thumbprint() if jkt == "its own" else jkt
    for _ in range(2):  # nothing is used up by it
        assert desk.issuing.clients.recognizes(asked, found, jkt, NOW) is known


def test_a_request_with_a_used_assertion_is_not_recognized_as_a_known_client(desk: Desk):
    asked = ClientCredentials(assertion=assertion("summarizer"))
    desk.issuing.clients.actor(asked, None, ConfirmedKey("fresh"), NOW)
    assert not desk.issuing.clients.recognizes(asked, None, "fresh", NOW)


def test_log_lines_about_stranger_errors_are_rate_limited(desk: Desk, caplog: pytest.LogCaptureFixture):
    """Whoever makes up keys can have more proofs looked at than are remembered."""

    def full(*_: Any) -> Any:
        raise StoreError("50,000 proofs came without a token within 60 s, and no more are")

    parts = desk.identity.parts
    desk.identity.parts, desk.identity.telling = replace(parts, binds=full), LogThrottle()
    try:
        for _ in range(200):
            with pytest.raises(TokenIssuanceError) as found:
                desk.exchange(by=None, client_id="by-proof")
            assert found.value.code is IssuanceRefusal.STORE
    finally:
        desk.identity.parts = parts
    assert len(caplog.records) == MAX_LINES


def test_issuance_codes_are_all_described_and_differ_from_credential_codes():
    assert set(ISSUANCE_REFUSAL_INFO) == set(IssuanceRefusal)
    assert not {one.value for one in IssuanceRefusal} & {one.value for one in REFUSALS}


def test_a_key_rotation_keeps_issued_tokens_valid(tmp_path: Path):
    from policyengine.identity.keys.signing_keys import rotate_ring

    desk = Desk(tmp_path)
    issued = desk.exchange(scope=READ)
    rotate_ring(desk.folder / "signing.json", "EdDSA", NOW, 0, 900)
    assert desk.decide(issued).allowed
    again = desk.exchange(scope=READ)
    assert again.token.split(".")[0] != issued.token.split(".")[0]
    assert desk.decide(again).allowed


def test_an_exchange_looks_up_an_entity_once_for_all_endpoints(desk: Desk):
    row = EntityData(EntityRef("user", "alice"), {"tenant": "acme"})
    table = Table({row.ref: row}, frozenset({"user"}), ttl=0)
    handing = DelegationCheck(policy().kernel, EntityStore(lookups=EntityLookups([table], Clock())))
    desk.issuing = replace(desk.issuing, handing=lambda: handing)
    assert desk.exchange(by="clerk", scope=WRITE).scopes == (WRITE,)
    assert table.asked == [['user "alice"']]


def test_each_scope_is_checked_against_samples_of_all_its_endpoints():
    endpoints = desk_endpoints()
    assert set(endpoints) == set(ALL)
    assert [str(one.path) for one in endpoints[REPORTS]] == ["/v1/reports", f"/v1/reports/{ANY_NAME}/{ANY_NAME}"]
    assert len(endpoints[WRITE]) == len(endpoints[READ]) + 1
    assert [one.qualified for one in endpoints[MAIL]] == ["mail/send"]


class Whole(DelegationCheck):
    """That asks about each endpoint by the whole policy."""

    def _at(self, about: k.Kernel, endpoint: Endpoint) -> k.Kernel:
        return about


class Both(DelegationCheck):
    answers: ClassVar[set[object]] = set()

    def asked(self, *given: Any) -> dict[str, DelegationResult]:
        found = [kind.asked(kind(self.kernel, self.directory), *given) for kind in (DelegationCheck, Whole)]
        assert found[0] == found[1]
        self.answers.update(found[0].values())
        return found[0]


def test_the_per_endpoint_delegation_check_agrees_with_the_whole_policy(desk: Desk):
    both = Both(policy().kernel, policy().directory)
    desk.issuing = replace(desk.issuing, handing=lambda: both)
    for raw in (subject(), subject(org="acme"), subject(sub="planner"), subject(iat=NOW - 1_000)):
        for actor in CLIENTS:
            with suppress(TokenIssuanceError):
                desk.exchange(by=actor, subject_token=raw)
    assert {IssuanceRefusal.ACTOR_BLOCK, IssuanceRefusal.DELEGATION, IssuanceRefusal.USER_DOOR} < both.answers
    assert sum(isinstance(one, DelegationAllowance) for one in both.answers) > 2


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [
        (k.ToolPattern("mail/*", span=policy().kernel.agents[0].span), ToolEndpoint("mail", ANY_NAME)),
        (k.ToolPattern("*", span=policy().kernel.agents[0].span), ToolEndpoint(None, ANY_NAME)),
        (k.ActionPattern("view", "invoice", span=policy().kernel.agents[0].span), ActionEndpoint("view", "invoice")),
    ],
)
def test_a_sample_endpoint_is_as_wide_as_its_pattern(pattern: Any, sample: Any):
    assert list(sample_endpoints(pattern)) == [sample]


def desk_endpoints() -> Any:
    return DelegationCheck(policy().kernel, policy().directory).endpoints


# ── Never more than anybody has ───────────────────────────────────────────────────────────────

SCOPES = st.lists(st.sampled_from([*ALL, "made:up"]), unique=True)


def replace_lifetime(desk: Desk, lifetime: int) -> Desk:
    desk.issuing = replace(desk.fresh().issuing, lifetime=lifetime)
    return desk


@scaled
@settings(max_examples=examples(30, 240))
@given(
    held=SCOPES,
    own=st.none() | SCOPES,
    wanted=st.none() | SCOPES.filter(bool),
    actor=st.sampled_from(["summarizer", "clerk", "loner", "reader", "stranger", "planner"]),
    org=st.sampled_from([None, "acme", "evil"]),
    age=st.integers(0, 3_700),
    rest=st.integers(-50, 3_000),
    lifetime=st.integers(1, 4_000),
)
def test_an_issued_token_never_exceeds_the_authority_of_any_party(
    shared: Desk, held: Any, own: Any, wanted: Any, actor: str, org: Any, age: int, rest: int, lifetime: int
):
    desk = replace_lifetime(shared, lifetime)
    claims = {"scope": " ".join(held), "iat": NOW - age, "exp": NOW + rest, **({"org": org} if org else {})}
    more: dict[str, Any] = {"scope": " ".join(wanted)} if wanted else {}
    if own is not None:
        token = subject(sub=actor, client_id=actor, scope=" ".join(own))
        more |= {"actor_token": token, "actor_token_type": JWT}
    try:
        issued = desk.exchange(by=actor, subject_token=subject(**claims), **more)
    except TokenIssuanceError:
        return
    delegated = {"summarizer": {READ, REPORTS, MAIL}, "clerk": {READ, WRITE}, "planner": set(ALL), "loner": {READ}}[
        actor
    ]
    granted = set(issued.scopes)
    assert granted
    assert granted <= set(held) & (set(ALL) if own is None else set(own)) & set(wanted or ALL) & delegated
    limits = [lifetime, rest, 3_600]
    limits += [300 - age] if REPORTS in granted and actor == "summarizer" else []
    limits += [1_800 - age, 1_200] if actor == "summarizer" else []
    assert 0 < issued.lasts <= min(limits)
    assert actor != "clerk" or org == "acme"
    found = claims_of(issued.token)
    assert found["act"].get("act", {}).get("sub") == (None if actor == "planner" else "planner")
    for last in (0, issued.lasts - 1):
        desk.now = NOW + last
        for scope, path in ((READ, "/v1/invoices"), (REPORTS, "/v1/reports/a")):
            if scope in granted:
                assert desk.decide(issued, path).allowed


def test_the_test_policy_has_the_lifetimes_assumed_by_these_tests():
    limits = [one for block in policy().kernel.agents for one in block.delegates]
    assert {one.lifetime for one in limits} == {None, timedelta(minutes=30), timedelta(minutes=5)}
    assert assertion("planner") != assertion("planner")
