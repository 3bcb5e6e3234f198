"""Attacks on the token endpoint: one row is one attack, refused with its own reason and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from policyengine.identity.issue.errors import IssuanceRefusal, TokenErrorCode, TokenIssuanceError
from policyengine.identity.issue.request import ID_TOKEN, JWT
from policyengine.stores.base import StoreError
from tests.identity.issuing import GONE, b64, ec, signed
from tests.identity.minting import ACME, DESK, NOW, OTHER, TOKEN_URL, Desk, assertion, key_of, subject

READ, WRITE = "read:invoices", "write:invoices"
U = IssuanceRefusal


@dataclass(frozen=True)
class Attack:
    name: str
    code: IssuanceRefusal
    changes: Callable[[Desk], dict[str, Any]]
    before: Callable[[Desk], object] = field(default=lambda desk: None)


def asks(name: str, code: IssuanceRefusal, **changes: Any) -> Attack:
    return Attack(name, code, lambda desk: changes)


def of(name: str, code: IssuanceRefusal, _key: Any = None, **claims: Any) -> Attack:
    """With another subject token."""
    return Attack(name, code, lambda desk: {"subject_token": subject(_key, **claims)})


def by(name: str, code: IssuanceRefusal, **claims: Any) -> Attack:
    """With another assertion of the client."""
    return Attack(name, code, lambda desk: {"client_assertion": assertion("summarizer", **claims)})


def own(name: str, code: IssuanceRefusal, _more: dict[str, Any] | None = None, **claims: Any) -> Attack:
    """With a token of the actor."""
    given = {"sub": "summarizer", "client_id": "summarizer", **claims}
    return Attack(name, code, lambda desk: {"actor_token": subject(**given), "actor_token_type": JWT, **(_more or {})})


def revoked(name: str, code: IssuanceRefusal, what: str, **claims: Any) -> Attack:
    return Attack(
        name, code, lambda desk: {"subject_token": subject(jti="root", **claims)},
        lambda desk: desk.marks.revoke([what], NOW + 1_000, NOW),
    )  # fmt: skip


def descended(desk: Desk, *names: str) -> str:
    """A token of a chain: each of these after the one before, from planner's on."""
    raw = subject(scope=READ)
    for number, name in enumerate(names):
        raw = desk.exchange(by=name, subject_token=raw, _dpop=f"jkt-{number}").token
    return raw


def used(desk: Desk) -> dict[str, Any]:
    once = assertion("summarizer")
    desk.exchange(client_assertion=once)
    return {"client_assertion": once}


def task(**members: Any) -> str:
    return json.dumps(members)


THING = {"type": "invoice", "id": "42"}
HELD = {"task": {"id": "t-9", "tools": ["a"], "entities": [THING]}}
EC2 = ec("P-256", "ec-other")
ROWS = [
    # ── The request
    asks("another grant", U.GRANT_TYPE, grant_type="client_credentials"),
    asks("the grant in another case", U.GRANT_TYPE, grant_type="URN:ietf:params:oauth:grant-type:token-exchange"),
    asks("no grant", U.PARAMETERS, grant_type=GONE),
    asks("no subject token", U.PARAMETERS, subject_token=GONE, subject_token_type=GONE),
    asks("a subject token of no type", U.PARAMETERS, subject_token_type=GONE),
    asks("two subject tokens", U.PARAMETERS, subject_token=["a", "b"]),
    asks("two scopes", U.PARAMETERS, scope=[READ, WRITE]),
    asks("a SAML assertion", U.TOKEN_TYPE, subject_token_type="urn:ietf:params:oauth:token-type:saml2"),
    asks("a refresh token wanted", U.TOKEN_TYPE,
         requested_token_type="urn:ietf:params:oauth:token-type:refresh_token"),
    asks("an ID token wanted", U.TOKEN_TYPE, requested_token_type=ID_TOKEN),
    # ── The client
    asks("nobody", U.NO_CLIENT, by=None),
    asks("a secret in the form", U.CLIENT_METHOD, client_secret="hunter2"),
    asks("only the name of a client", U.NO_CLIENT, by=None, client_id="by-proof", _dpop=None),
    asks("another client's name beside the assertion", U.CLIENT_METHOD, client_id="planner"),
    asks("a client of assertions by a proof", U.CLIENT_METHOD, by=None, client_id="summarizer"),
    asks("a key that is not the client's", U.CLIENT_KEY, by=None, client_id="by-proof", _dpop="jkt-1"),
    asks("a certificate that is not the client's", U.CLIENT_KEY, by=None, client_id="by-certificate", _mtls="x5t-2"),
    asks("a proof in place of the certificate", U.CLIENT_KEY, by=None, client_id="by-certificate"),
    asks("a client that nobody knows", U.UNKNOWN_CLIENT, by=None, client_id="evil"),
    asks("a broken proof", U.PROOF, _dpop="broken"),
    Attack("an assertion that was used before", U.ASSERTION_REPLAYED, used),
    by("an assertion for another server", U.ASSERTION_AUDIENCE, aud="https://agents.evil.example"),
    by("an assertion for the API", U.ASSERTION_AUDIENCE, aud="payments-api"),
    by("an assertion for us and another", U.ASSERTION_AUDIENCE, aud=[DESK, "https://agents.evil.example"]),
    by("an assertion for our URL with a slash", U.ASSERTION_AUDIENCE, aud=f"{DESK}/"),
    by("an assertion that ended", U.ASSERTION_TIME, exp=NOW),
    by("an assertion without an end", U.ASSERTION_TIME, exp=None),
    by("an assertion for a day", U.ASSERTION_TIME, exp=NOW + 86_400),
    by("an assertion of the future", U.ASSERTION_TIME, iat=NOW + 100),
    by("an assertion that begins later", U.ASSERTION_TIME, nbf=NOW + 100),
    by("an assertion whose end is a text", U.ASSERTION_TIME, exp=str(NOW + 60)),
    asks("an assertion with an exponent that no number has", U.ASSERTION,
         client_assertion=b64(b'{"alg": 1e9999999999999999999}') + ".e30.AA"),
    asks("a task with two ids", U.TASK, task='{"id": "t-1", "id": "t-2"}'),
    by("an assertion without `jti`", U.ASSERTION, jti=None),
    by("an assertion by another of itself", U.ASSERTION, iss="planner"),
    by("an assertion by another's key", U.ASSERTION_KEY, _key=key_of("planner")),
    by("an assertion of another client by one's own key", U.ASSERTION_KEY, iss="clerk", sub="clerk"),
    by("an assertion of nobody", U.UNKNOWN_CLIENT, iss="evil", sub="evil"),
    by("an assertion without a signature", U.ASSERTION, _header={"alg": "none"}),
    by("an assertion by a secret", U.ASSERTION, _header={"alg": "HS256"}, _key=b"public"),
    by("an assertion with its own key", U.ASSERTION, _header={"jwk": key_of("planner").as_dict(private=False)}),
    by("an assertion with a URL of keys", U.ASSERTION, _header={"jku": "https://evil.example/jwks"}),
    by("an assertion that demands what nobody knows", U.ASSERTION, _header={"crit": ["x"]}),
    by("an access token as an assertion", U.ASSERTION, _header={"typ": "at+jwt"}),
    asks("garbage as an assertion", U.ASSERTION, client_assertion="a.b.c"),
    asks("an assertion of another type", U.ASSERTION, client_assertion_type="urn:x"),
    # ── The actor's own token
    own("an actor token of another agent", U.ACTOR_OTHER, sub="planner", client_id="planner"),
    own("an actor token that acts for somebody", U.ACTOR_OTHER, sub="alice", client_id="summarizer",
        act={"sub": "summarizer", "act": {"sub": "planner"}}),
    own("an actor token bound to another's key", U.ACTOR_UNBOUND, cnf={"jkt": "jkt-2"}),
    own("an actor token bound to another's certificate", U.ACTOR_UNBOUND, cnf={"x5t#S256": "x5t-2"}),
    own("an unbound actor token alone", U.ACTOR_UNBOUND, {"by": None}, sub="tokened", client_id="tokened"),
    own("an actor token that ended", U.ACTOR_TOKEN, exp=NOW - 60, iat=NOW - 600),
    own("an actor token with less scopes", U.SCOPE, scope="openid"),
    asks("an actor token of no type", U.PARAMETERS, actor_token="x"),
    # ── What is handed on
    of("a subject token by nobody's key", U.SUBJECT_TOKEN, _key=EC2),
    of("a foreign subject token", U.SUBJECT_TOKEN, iss="https://login.evil.example"),
    of("a subject token for another API", U.SUBJECT_TOKEN, aud="mail-api"),
    of("a subject token that ended", U.SUBJECT_TOKEN, iat=NOW - 600, exp=NOW - 60),
    Attack("another issuer's agent of the same name", U.DELEGATION, lambda desk: {"subject_token": signed(
        {"alg": "ES256", "typ": "at+jwt", "kid": "ec"},
        {"iss": OTHER, "sub": "alice", "client_id": "planner", "aud": "payments-api", "iat": NOW, "exp": NOW + 60,
         "jti": "o-1", "scope": READ}, EC2)}),
    asks("garbage as a subject token", U.SUBJECT_TOKEN, subject_token="garbage"),
    revoked("a revoked subject token", U.SUBJECT_REVOKED, "jti:acme/root"),
    revoked("a subject token of a revoked agent", U.SUBJECT_REVOKED, "agent:acme/planner"),
    revoked("a subject token of a revoked user", U.SUBJECT_REVOKED, "user:acme/alice"),
    revoked("a subject token bound to a revoked key", U.SUBJECT_REVOKED, "key:k-1", cnf={"jkt": "k-1"}),
    revoked("a subject token of a completed task", U.SUBJECT_REVOKED, "task:acme/t-9", **HELD),
    Attack("a token whose root was revoked", U.SUBJECT_REVOKED,
           lambda desk: {"by": "reader", "subject_token": desk.lines[0]},
           lambda desk: (desk.lines.append(desk.exchange(scope=READ, subject_token=subject(jti="root")).token),
                         desk.marks.revoke(["jti:acme/root"], NOW + 1_000, NOW))),
    Attack("an actor that was revoked", U.REVOKED, lambda desk: {},
           lambda desk: desk.marks.revoke(["agent:acme/summarizer"], NOW + 9, NOW)),
    Attack("a key that was revoked", U.REVOKED, lambda desk: {},
           lambda desk: desk.marks.revoke(["key:jkt-1"], NOW + 9, NOW)),
    Attack("a task of ours that was completed", U.REVOKED, lambda desk: {"task": task(id="t-9")},
           lambda desk: desk.marks.revoke(["task:desk/t-9"], NOW + 9, NOW)),
    of("another who may act", U.MAY_ACT, may_act={"sub": "clerk"}),
    of("an agent of that name, of another issuer", U.MAY_ACT, may_act={"sub": "summarizer", "iss": OTHER}),
    of("nobody who may act", U.MAY_ACT, may_act={}),
    of("who may act, of a list of issuers", U.MAY_ACT, may_act={"sub": "summarizer", "iss": [ACME]}),
    # ── What is asked for
    asks("a wider scope", U.SCOPE, scope="admin"),
    asks("a scope that is not the subject's", U.SCOPE, subject_token=subject(scope=READ), scope=WRITE),
    asks("a scope that is not handed on", U.ACTOR_BLOCK, scope=WRITE),
    asks("a scope of a quote", U.SCOPE, scope='read:invoices"'),
    of("a subject token that carries nothing", U.SCOPE, scope=""),
    asks("an actor that the policy names nowhere", U.DELEGATION, by="stranger", scope=READ),
    asks("what the user may not do", U.USER_DOOR, scope="send:mail"),
    asks("another audience", U.TARGET, audience="https://evil.example"),
    asks("another resource", U.TARGET, resource="https://evil.example/api"),
    asks("two audiences at once", U.TARGET, audience=["payments-api", "archive-api"]),
    of("a hand-on that is too old", U.DELEGATION, iat=NOW - 1_801, scope=READ),
    Attack("a hand-on of unknown age", U.DELEGATION, lambda desk: {"subject_token": signed(
        {"alg": "ES256", "typ": "JWT", "kid": "ec"},
        {"iss": ACME, "sub": "alice", "client_id": "planner", "aud": "payments-api", "exp": NOW + 60, "scope": READ})}),
    asks("an empty list of scopes", U.SCOPE, scope=" "),
    Attack("a longer chain than the policy allows", U.DELEGATION_LIMIT,
           lambda desk: {"by": "deep", "subject_token": descended(desk, "summarizer", "reader")}),
    Attack("an agent that is in the chain already", U.CYCLE,
           lambda desk: {"by": "planner", "subject_token": descended(desk, "summarizer")}),
    of("a subject token that is twice in its chain", U.SUBJECT_TOKEN,
       act={"sub": "planner", "act": {"sub": "planner"}}),
    asks("a remedy and a scope", U.PARAMETERS, remedy='{"kind": "credential"}', scope=READ),
    asks("a remedy that no token is", U.PARAMETERS, remedy='{"kind": "approval"}'),
    asks("a remedy with more than is held", U.SCOPE, remedy='{"kind": "scope", "scopes": ["admin"]}'),
    # ── Tasks
    asks("another task", U.TASK, subject_token=subject(**HELD), task=task(id="t-10")),
    asks("a task with more tools", U.TASK, subject_token=subject(**HELD), task=task(id="t-9", tools=["a", "b"])),
    asks("a task with more entities", U.TASK, subject_token=subject(**HELD),
         task=task(id="t-9", entities=[THING, {**THING, "id": "7"}])),
    asks("a task about another type", U.TASK, subject_token=subject(**HELD),
         task=task(id="t-9", entities=[{**THING, "type": "user"}])),
    asks("a task for a tool at any server", U.TASK, subject_token=subject(task={"id": "t-9", "tools": ["fs/read"]}),
         task=task(id="t-9", tools=["read"])),
    own("more than the task of the actor's own token", U.TASK, {"task": task(id="t-9", tools=["a", "b"])},
        task={"id": "t-9", "tools": ["a"]}),
    asks("a task without a name", U.TASK, task=task(tools=["a"])),
    asks("a task that says more", U.TASK, task=task(id="t-9", admin=True)),
    asks("a task that is no JSON", U.TASK, task="{"),
    asks("a task whose name is half a character", U.TASK, task='{"id": "\\ud800"}'),
    asks("a task with a tool that is half a character", U.TASK, task='{"id": "t-9", "tools": ["\\udfff"]}'),
    asks("more of a task than a token holds", U.TASK, task=task(id="t-9", tools=[f"{n:0200}" for n in range(99)])),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desk(shared: Desk) -> Desk:
    return shared.fresh()


@pytest.mark.parametrize("attack", ROWS, ids=lambda one: one.name)
def test_each_attack_on_the_token_endpoint_is_rejected_with_its_own_code_and_counted(desk: Desk, attack: Attack):
    attack.before(desk)
    changes = attack.changes(desk)
    counted = desk.identity.counts[attack.code.value]
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(**changes)
    assert found.value.code is attack.code
    read = attack.code in (U.PARAMETERS, U.GRANT_TYPE, U.TOKEN_TYPE) or "client_secret" in changes or _is_form(changes)
    assert desk.identity.counts[attack.code.value] == counted + (0 if read else 1)


def _is_form(changes: dict[str, Any]) -> bool:
    """Whether it is refused as a form, which whoever reads it counts."""
    scope, given = changes.get("scope", ""), changes.get("task", "")
    badly = '"' in str(scope) or scope == " " or given in ("{", task(tools=["a"]), task(id="t-9", admin=True))
    badly = badly or "\\ud" in str(given) or str(given).count('"id": "t-') > 1
    return badly or changes.get("client_assertion_type") == "urn:x"


def test_the_unattacked_requests_get_tokens(desk: Desk):
    assert desk.exchange().scopes
    assert desk.exchange(client_assertion=assertion("summarizer", aud=TOKEN_URL)).scopes
    may_act = subject(may_act={"sub": "summarizer"})
    assert desk.exchange(subject_token=may_act, scope=READ).scopes == (READ,)
    assert desk.exchange(by="reader", subject_token=descended(desk, "summarizer")).scopes == (READ,)


def test_each_attack_on_the_token_endpoint_has_a_unique_name():
    assert len({one.name for one in ROWS}) == len(ROWS) >= 80


def test_a_proof_without_a_required_nonce_is_rejected_with_use_dpop_nonce(desk: Desk):
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(_dpop="without nonce")
    assert (found.value.code, found.value.error) == (U.PROOF, TokenErrorCode.USE_DPOP_NONCE)


def test_an_agent_named_in_may_act_cannot_delegate_further(desk: Desk):
    """What a user said of one agent holds for the next token too."""
    first = desk.exchange(subject_token=subject(may_act={"sub": "summarizer"}), scope=READ)
    assert desk.decide(first).allowed
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(by="reader", subject_token=first.token)
    assert found.value.code is U.MAY_ACT


def test_no_token_is_issued_while_the_store_is_unavailable(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    def down(*_: object) -> bool:
        raise StoreError("down")

    monkeypatch.setattr(desk.marks, "once", down)
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange()
    assert (found.value.code, found.value.error) == (U.STORE, TokenErrorCode.UNAVAILABLE)


def test_no_token_is_issued_without_a_valid_signing_key(desk: Desk):
    desk.now -= 3_600
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange(client_assertion=assertion("summarizer", desk.now), subject_token=subject(iat=desk.now - 1))
    assert found.value.code is U.KEYS


def test_no_token_is_issued_by_an_issuer_missing_from_the_policy(desk: Desk):
    from dataclasses import replace

    desk.issuing = replace(desk.issuing, name="nobody")
    with pytest.raises(TokenIssuanceError) as found:
        desk.exchange()
    assert found.value.code is U.FAILURE
