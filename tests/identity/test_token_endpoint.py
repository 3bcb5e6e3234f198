"""The token endpoint over HTTP: what it answers, to whom, and what it does not."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from threading import Event, Semaphore
from time import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from policyengine import Engine
from policyengine.entities.store import EntityStore
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.identity.attestation_nonces import AttestationNonces
from policyengine.identity.config.authenticator_factory import build_authenticator
from policyengine.identity.config.issuer_factory import open_secrets, open_signing_keys, open_token_issuer
from policyengine.identity.config.model import IdentityConfigError, IssuerSettings, parse_identity_config
from policyengine.identity.issue.clients import ASSERTION_TYPE
from policyengine.identity.issue.request import ACCESS_TOKEN, TOKEN_EXCHANGE_GRANT
from policyengine.identity.keys.openbao_signer import OpenBaoSigner
from policyengine.identity.keys.signing_keys import KeyRingFile, new_ring, write_ring
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.server.app import create_app
from policyengine.server.token_service.endpoint import MAX_FORM_BYTES
from policyengine.server.token_service.routes import TokenServiceRoutes
from policyengine.stores.credential_marks import MemoryMarks
from tests.identity.issuing import b64, ec, signed
from tests.identity.minting import (
    ACME,
    AUDIENCE,
    DESK,
    NOW,
    OTHER,
    POLICY,
    X5T,
    Desk,
    assertion,
    fresh,
    key_of,
    policy,
    subject,
    write_desk,
)
from tests.identity.openbao import ROOT_TOKEN, OpenBao

OPERATOR = {"Authorization": "Bearer operator-of-this-test"}
READ = "read:invoices"
KEY = "A" * 43  # a thumbprint
GATEWAY = GatewayHeaders(client_certificate="client-cert")


class Http:
    """A server that issues tokens; `dpop` is what the header of that name says."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        desk.first = desk.issuing = desk.identity.issuing = replace(desk.issuing, clock=lambda: desk.now)
        self.client = TestClient(create_app(desk.engine, token="operator-of-this-test", gateway=GATEWAY))

    def post(self, path: str, form: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        return self.client.post(path, data=form, headers=headers or {})

    def exchange(self, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        form = {
            "grant_type": TOKEN_EXCHANGE_GRANT,
            "subject_token": subject(),
            "subject_token_type": ACCESS_TOKEN,
            "scope": READ,
            **proof("summarizer"),
            **changes,
        }
        return self.post("/token", form, {"DPoP": "jkt-1", **(headers or {})})


def proof(name: str) -> dict[str, str]:
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion(name)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Http:
    return Http(Desk(tmp_path_factory.mktemp("desk")))


@pytest.fixture
def http(shared: Http) -> Http:
    shared.desk.fresh()
    return shared


def test_an_exchanged_token_is_allowed_by_a_decision(http: Http):
    answer = http.exchange()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["token_type"], found["scope"], found["expires_in"]) == ("DPoP", READ, 900)
    asked = {"request": {"method": "GET", "path": "/v1/invoices"},
             "credentials": {"authorization": f"DPoP {found['access_token']}", "dpop": "jkt-1"}}  # fmt: skip
    assert http.client.post("/decide", json=asked, headers=OPERATOR).json()["outcome"] == "allow"


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"client_assertion": "a.b.c"}, 401, "invalid_client"),
        ({"subject_token": "garbage"}, 400, "invalid_request"),
        ({"scope": "admin"}, 400, "invalid_scope"),
        ({"audience": "https://evil.example"}, 400, "invalid_target"),
        ({"scope": "write:invoices"}, 400, "unauthorized_client"),
        ({"headers": {"DPoP": "broken"}}, 400, "invalid_dpop_proof"),
        ({"headers": {"Authorization": "Basic c3ZjOnNlY3JldA=="}}, 401, "invalid_client"),
    ],
)
def test_a_refused_exchange_returns_an_oauth_error(http: Http, changes: dict[str, Any], status: int, error: str):
    answer = http.exchange(**changes)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) is (status == 401)
    assert set(answer.json()) == {"error", "error_description"}


def test_a_proof_without_a_nonce_gets_a_dpop_nonce(http: Http):
    http.desk.identity.nonces = lambda: "n-1"
    answer = http.exchange(headers={"DPoP": "without nonce"})
    assert (answer.json()["error"], answer.headers["dpop-nonce"]) == ("use_dpop_nonce", "n-1")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"", "application/x-www-form-urlencoded", 400),
        (b"\xff=1", "application/x-www-form-urlencoded", 400),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"no pair", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=1" for _ in range(101)), "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * MAX_FORM_BYTES, "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * 1_100_000, "application/x-www-form-urlencoded", 413),
    ],
)
@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
def test_an_invalid_form_is_rejected(http: Http, path: str, content: bytes, kind: str, status: int):
    answer = http.client.post(path, content=content, headers={"Content-Type": kind})
    assert answer.status_code == (401 if status == 400 and not content and path != "/token" else status)


def test_a_certificate_header_counts_only_with_an_operator_token(http: Http):
    form = {"client_id": "by-certificate", "client_assertion_type": "", "client_assertion": ""}
    header = {"Client-Cert": X5T, "DPoP": "jkt-1"}
    assert http.exchange(header, **form).json()["error"] == "invalid_client"
    answer = http.exchange({**header, **OPERATOR}, **form)
    assert answer.json()["token_type"] == "Bearer"  # it is bound to the certificate


def test_a_client_behind_a_gateway_does_not_get_operator_rights(http: Http):
    """Whoever is behind a gateway, which says with a token of ours whose connection it is."""
    raw = issued(http, task=json.dumps({"id": "t-1"}))
    certificate = {**OPERATOR, "Client-Cert": X5T}
    for headers, form in (
        (certificate, {}),
        (certificate, {"client_id": "by-certificate"}),
        (OPERATOR, proof("clerk")),
    ):
        answer = http.post("/revoke", {"agent": "acme/planner", **form}, headers)
        assert answer.json()["error"] == ("unauthorized_client" if form else "invalid_client")
        assert form or answer.json()["error_description"].endswith("which operators do not use")
    for form in ({}, {"client_id": "by-proof"}, {"client_id": "nobody"}):
        assert http.post("/introspect", {"token": raw, **form}, certificate).json()["error"] == "invalid_client"
    assert http.post("/introspect", {"token": raw, "client_id": "by-certificate"}, certificate).json()["active"]
    other = issued(http, task=json.dumps({"id": "t-2"}))
    handed = {**OPERATOR, "X-Forwarded-Authorization": f"DPoP {other}", "DPoP": "jkt-1"}
    assert http.post("/tasks/t-1/complete", {}, handed).json()["error"] == "unauthorized_client"
    assert code(http, raw) is None
    own = {"token": raw, "client_id": "by-certificate"}
    assert http.post("/revoke", own, certificate).status_code == 200
    assert code(http, raw) == "revoked"


class Slow(KeyRingFile):
    """Keys that sign when they are let."""

    def __init__(self, keys: KeyRingFile) -> None:
        super().__init__(keys.file)
        self.asked, self.goes_on = Semaphore(0), Event()

    def sign(self, *given: Any) -> str:
        self.asked.release()
        assert self.goes_on.wait(60)
        return super().sign(*given)


def test_slow_signing_keys_do_not_block_decisions_or_revocations(http: Http):
    desk, slow = http.desk, Slow(http.desk.keys)
    desk.identity.issuing = replace(desk.first, keys=slow)
    form = {"grant_type": TOKEN_EXCHANGE_GRANT, "subject_token_type": ACCESS_TOKEN, "scope": READ}
    question = {"request": {"method": "GET", "path": "/v1/invoices"}, "credentials": {"authorization": "Bearer none"}}

    async def asked() -> tuple[int, str, set[int]]:
        transport = httpx.ASGITransport(http.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:

            async def token() -> int:
                more = {"subject_token": subject(), **proof("summarizer")}
                return (await client.post("/token", data={**form, **more}, headers={"DPoP": "jkt-1"})).status_code

            tokens = [asyncio.create_task(token()) for _ in range(45)]
            try:
                await asyncio.to_thread(slow.asked.acquire)
                ended = client.post("/revoke", data={"agent": "acme/clerk"}, headers=OPERATOR)
                revoked = (await asyncio.wait_for(ended, 30)).status_code
                decided = client.post("/decide", json=question, headers=OPERATOR)
                outcome = (await asyncio.wait_for(decided, 30)).json()["outcome"]
            finally:
                slow.goes_on.set()
                statuses = set(await asyncio.gather(*tokens))
            return revoked, outcome, statuses

    try:
        assert asyncio.run(asked()) == (200, "deny", {200})
    finally:
        desk.identity.issuing = desk.first


class Swapped:
    """Other policies decide each time that somebody looks."""

    def __init__(self, *engines: Any) -> None:
        self._engines = cycle(engines)

    @property
    def engine(self) -> Any:
        return next(self._engines)


def test_a_delegation_check_uses_the_kernel_and_entities_of_one_engine(http: Http):
    one, other = (SimpleNamespace(kernel=replace(policy().kernel), directory=EntityStore()) for _ in range(2))
    known = {(id(each.kernel), id(each.directory)) for each in (one, other)}
    routes = TokenServiceRoutes(Swapped(one, other))  # type: ignore[arg-type]
    assert {(id(found.kernel), id(found.directory)) for found in (routes.handing() for _ in range(5))} == known


# ── Revoking, introspecting ───────────────────────────────────────────────────────────────────


def issued(http: Http, **changes: Any) -> str:
    token: str = http.exchange(**changes).json()["access_token"]
    return token


def code(http: Http, raw: str) -> str | None:
    reasons = http.desk.decide(raw).reasons
    return reasons[0].code if reasons else None


def test_a_client_can_revoke_its_own_token(http: Http):
    raw = issued(http)
    assert code(http, raw) is None
    assert http.post("/revoke", {"token": raw, **proof("summarizer")}).status_code == 200
    assert code(http, raw) == "revoked"
    assert http.post("/revoke", {"token": raw, **proof("summarizer")}).status_code == 200  # as it is no token any more


def test_a_client_cannot_revoke_the_token_of_another_client(http: Http):
    raw = issued(http)
    answer = http.post("/revoke", {"token": raw, **proof("clerk")})
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    other = {
        "iss": OTHER,
        "sub": "alice",
        "client_id": "clerk",
        "aud": "payments-api",
        "iat": NOW,
        "exp": NOW + 60,
        "jti": "o",
    }
    theirs = signed({"alg": "ES256", "typ": "at+jwt", "kid": "ec"}, other, ec("P-256", "ec-other"))
    answer = http.post("/revoke", {"token": theirs, **proof("clerk")})
    assert answer.json()["error"] == "unauthorized_client", "another issuer's agent of that name"
    assert http.post("/revoke", {"token": raw}).status_code == 401
    assert http.post("/revoke", {"agent": "acme/planner", **proof("clerk")}).json()["error"] == "unauthorized_client"
    assert code(http, raw) is None


class Unreachable:
    """Keys of an issuer that does not answer."""

    def find(self, kid: str | None, alg: str, now: int) -> Any:
        raise CredentialError(RefusalCode.PROVIDER)


def test_a_client_revocation_returns_503_while_the_issuer_is_unreachable(http: Http, monkeypatch: pytest.MonkeyPatch):
    issuers, raw = http.desk.identity.parts.tokens.issuers, subject()
    with monkeypatch.context() as patched:
        patched.setitem(issuers, ACME, replace(issuers[ACME], keys=Unreachable()))
        answer = http.post("/revoke", {"token": raw, **proof("planner")})
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
        assert answer.headers["retry-after"] == "10"
        told = "the token was not revoked: the issuer of the token does not respond; an operator can revoke it anyway"
        assert answer.json()["error_description"] == told
    assert http.post("/introspect", {"token": raw}, OPERATOR).json()["active"]
    assert http.post("/revoke", {"token": raw, **proof("planner")}).json() == {}
    assert not http.post("/introspect", {"token": raw}, OPERATOR).json()["active"]


def test_an_operator_can_revoke_a_token_while_its_issuer_is_unreachable(http: Http, monkeypatch: pytest.MonkeyPatch):
    issuers, raw = http.desk.identity.parts.tokens.issuers, subject()
    rests = issued(http, subject_token=raw)
    with monkeypatch.context() as patched:
        patched.setitem(issuers, ACME, replace(issuers[ACME], keys=Unreachable()))
        assert http.post("/revoke", {"token": raw}, OPERATOR).json() == {"verified": False}
    assert http.desk.decide(raw, dpop="").reasons[0].code == "revoked"
    assert code(http, rests) == "revoked"


def test_a_token_can_be_revoked_before_it_becomes_valid(http: Http):
    raw = subject(nbf=NOW + 100)
    assert http.post("/revoke", {"token": raw}, OPERATOR).json() == {}
    http.desk.now += 100
    assert http.desk.decide(raw, dpop="").reasons[0].code == "revoked"


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("agent", "acme/planner"), ("agent", "desk/summarizer"), ("user", "acme/alice"), ("key", KEY),
        ("task", "acme/t-1"), ("chain", "acme/root"),
    ],
)  # fmt: skip
def test_an_operator_can_revoke_every_token_with_a_given_link(http: Http, what: str, name: str):
    raw = issued(http, headers={"DPoP": KEY}, subject_token=subject(jti="root", task={"id": "t-1"}))
    assert http.desk.decide(raw, dpop=KEY).allowed
    assert http.post("/revoke", {what: name}, OPERATOR).status_code == 200
    assert http.desk.decide(raw, dpop=KEY).reasons[0].code == "revoked"


def test_a_temporary_revocation_ends(http: Http):
    raw = issued(http)
    http.post("/revoke", {"agent": "acme/planner", "for": "1m"}, OPERATOR)
    assert code(http, raw) == "revoked"
    http.desk.now += 60
    assert code(http, raw) is None


@pytest.mark.parametrize(
    "form",
    [
        {"other": "x"},
        {"agent": "planner"},
        {"agent": "a/b", "user": "a/c"},
        {"key": KEY, "for": "soon"},
        {"key": KEY, "for": "0s"},
        {"key": KEY, "for": "999ms"},
    ],
)
def test_an_ambiguous_revocation_is_rejected(http: Http, form: dict[str, str]):
    answer = http.post("/revoke", form, OPERATOR)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert http.desk.marks.version == 0


def test_a_permanent_revocation_outlasts_a_temporary_one(http: Http):
    raw = issued(http)
    http.post("/revoke", {"agent": "acme/planner", "for": "1m"}, OPERATOR)
    assert http.post("/revoke", {"token": raw, **proof("summarizer")}).status_code == 200
    http.desk.now += 60
    assert code(http, raw) == "revoked"


@pytest.mark.parametrize("what", ["agent", "user", "task", "chain"])
def test_a_revocation_with_an_unknown_issuer_suggests_a_known_one(http: Http, what: str):
    answer = http.post("/revoke", {what: "acmee/planner"}, OPERATOR)
    told = f"`{what}`: the policy has no issuer `acmee`: did you mean `acme`?"
    assert (answer.status_code, answer.json()["error_description"]) == (400, told)
    assert (
        http.post("/revoke", {what: "x/y"}, OPERATOR).json()["error_description"].endswith("known: acme, desk, other")
    )
    assert http.desk.marks.version == 0


def test_introspection_returns_the_claims_of_an_active_token(http: Http):
    raw = issued(http)
    found = http.post("/introspect", {"token": raw}, OPERATOR).json()
    assert {"active": True, "iss": DESK, "sub": "alice", "aud": AUDIENCE, "scope": READ}.items() <= found.items()
    assert (found["client_id"], found["token_type"], found["exp"]) == ("summarizer", "DPoP", NOW + 900)
    assert found["act"]["act"]["sub"] == "planner"
    assert http.post("/introspect", {"token": raw, **proof("clerk")}).json()["active"] is True
    assert http.post("/introspect", {"token": raw}).status_code == 401
    http.post("/revoke", {"token": raw}, OPERATOR)
    assert http.post("/introspect", {"token": raw}, OPERATOR).json() == {"active": False}
    assert http.post("/introspect", {"token": "garbage"}, OPERATOR).json() == {"active": False}


def test_introspection_keeps_numbers_of_a_token_unchanged(http: Http):
    raw = subject(act={"sub": "planner", "iat": NOW - 60.5}, cnf={"jkt": "jkt-1"})
    found = http.post("/introspect", {"token": raw}, OPERATOR)
    assert found.json()["act"] == {"sub": "planner", "iat": NOW - 60.5}


# ── Tasks ─────────────────────────────────────────────────────────────────────────────────────


def test_completing_a_task_revokes_every_token_of_it(http: Http):
    one, two = (issued(http, task=json.dumps({"id": "t-1"})) for _ in range(2))
    other = issued(http, task=json.dumps({"id": "t-2"}))
    answer = http.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {one}", "DPoP": "jkt-1"})
    assert (answer.status_code, answer.json()) == (200, {"task": "t-1", "state": "completed"})
    assert [code(http, raw) for raw in (one, two, other)] == ["revoked", "revoked", None]
    assert http.exchange(task=json.dumps({"id": "t-1"}), subject_token=two).json()["error"] == "invalid_request"


def test_a_caller_without_a_token_of_the_task_cannot_complete_it(http: Http):
    raw, other = issued(http, task=json.dumps({"id": "t-1"})), issued(http, task=json.dumps({"id": "t-2"}))
    path = "/tasks/t-1/complete"
    answer = http.post(path, {}, {"Authorization": f"DPoP {other}", "DPoP": "jkt-1"})
    assert answer.json()["error"] == "unauthorized_client"
    assert http.post(path, {}, {"Authorization": f"DPoP {raw}", "DPoP": "jkt-2"}).status_code == 401
    assert http.post(path, {}, {"Authorization": "Bearer garbage"}).status_code == 401
    assert http.post(path, {}).status_code == 401
    assert code(http, raw) is None


def test_completing_a_task_with_the_name_of_another_users_task_ends_only_its_own(http: Http):
    """Whoever begins a task names it."""
    alices, bobs = (
        issued(http, task=json.dumps({"id": "t-1"}), subject_token=subject(sub=user)) for user in ("alice", "bob")
    )
    odd = issued(http, task=json.dumps({"id": "user%3Aalice/t-1"}), subject_token=subject(sub="bob"))
    for raw, name in ((bobs, "t-1"), (odd, "user%253Aalice%2Ft-1")):
        http.post(f"/tasks/{name}/complete", {}, {"Authorization": f"DPoP {raw}", "DPoP": "jkt-1"})
    assert [code(http, raw) for raw in (alices, bobs)] == [None, "revoked"]
    assert http.exchange(task=json.dumps({"id": "t-1"}), subject_token=subject(sub="bob")).status_code == 400
    assert http.post("/tasks/t-1/complete", {}, OPERATOR).status_code == 200
    assert code(http, alices) == "revoked"


def test_completing_a_task_without_a_nonce_returns_a_dpop_nonce(http: Http):
    raw = issued(http, task=json.dumps({"id": "t-1"}))
    http.desk.identity.nonces = lambda: "n-1"
    answer = http.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {raw}", "DPoP": "without nonce"})
    assert (answer.status_code, answer.json()["error"], answer.headers["dpop-nonce"]) == (401, "use_dpop_nonce", "n-1")
    assert answer.headers.get_list("www-authenticate")[0].startswith('DPoP realm="agents", error="use_dpop_nonce"')
    assert len(answer.headers.get_list("www-authenticate")) == 1


def test_completing_a_task_returns_503_while_the_issuer_is_unreachable(http: Http, monkeypatch: pytest.MonkeyPatch):
    raw, issuers = issued(http, task=json.dumps({"id": "t-1"})), http.desk.identity.parts.tokens.issuers
    monkeypatch.setitem(issuers, DESK, replace(issuers[DESK], keys=Unreachable()))
    answer = http.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {raw}", "DPoP": "jkt-1"})
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "www-authenticate" not in answer.headers


def test_completing_a_task_revokes_tokens_derived_from_its_tokens(http: Http):
    first = issued(http, task=json.dumps({"id": "t-1"}))
    second = http.desk.exchange(by="reader", subject_token=first, _dpop="jkt-2")
    http.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {first}", "DPoP": "jkt-1"})
    assert http.desk.decide(second, dpop="jkt-2").reasons[0].code == "revoked"


def test_any_agent_of_a_task_without_user_can_complete_it(http: Http):
    of_planner = subject(sub="planner", scope=READ, task={"id": "t-1"})
    one = http.desk.exchange(by="loner", subject_token=of_planner)
    http.post("/tasks/t-1/complete", {}, {"Authorization": f"DPoP {one.token}", "DPoP": "jkt-1"})
    assert http.desk.decide(one).reasons[0].code == "revoked"


def test_a_user_without_an_agent_cannot_complete_a_task(http: Http):
    settings = http.desk.identity.parts.reads.settings
    settings["acme"] = IssuerSettings(people=("portal",))
    try:
        raw = subject(client_id="portal", task={"id": "t-1"})
        answer = http.post("/tasks/t-1/complete", {}, {"Authorization": f"Bearer {raw}"})
        assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    finally:
        del settings["acme"]


def test_an_operator_can_complete_a_task_of_any_issuer(http: Http):
    raw = issued(http, subject_token=subject(task={"id": "t-1"}))
    assert http.post("/tasks/t-1/complete", {}, OPERATOR).status_code == 200
    assert code(http, raw) == "revoked"


@pytest.mark.parametrize(
    ("path", "headers", "said"),
    [
        ("/revoke", {"Authorization": "Bearer another-token-than-that"}, "`Authorization` holds no token of"),
        ("/introspect", {"Authorization": "Bearer another-token-than-that"}, "`Authorization` holds no token of"),
        ("/revoke", {}, "neither an operator's token, from `--token-file`, nor client authentication was sent"),
        ("/introspect", {}, "neither an operator's token, from `--token-file`, nor client authentication was sent"),
        (
            "/tasks/t-1/complete",
            {},
            "neither an operator's token, from `--token-file`, nor that of an agent of the task",
        ),
    ],
)
def test_a_missing_or_invalid_operator_token_is_reported_as_such(
    http: Http, path: str, headers: dict[str, str], said: str
):
    """In a hurry, and not that client secrets are not taken."""
    answer = http.post(path, {"agent": "acme/planner", "token": "x"} if "intro" in path else {"agent": "a/b"}, headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.json()["error_description"].startswith(said)


# ── What everybody may know ───────────────────────────────────────────────────────────────────


def test_jwks_and_metadata_are_served_without_authentication(http: Http):
    keys = http.client.get("/jwks").json()["keys"]
    assert keys == http.desk.keys.published(NOW)
    assert "d" not in keys[0]
    found = http.client.get("/.well-known/oauth-authorization-server").json()
    assert (found["issuer"], found["token_endpoint"], found["jwks_uri"]) == (DESK, f"{DESK}/token", f"{DESK}/jwks")
    assert found["grant_types_supported"] == [TOKEN_EXCHANGE_GRANT]
    assert READ in found["scopes_supported"]


def test_a_server_without_signing_keys_issues_nothing_but_can_revoke(tmp_path: Path):
    desk = Desk(tmp_path)
    client = TestClient(create_app(desk.engine, token="operator-of-this-test"))
    assert {client.post("/token").status_code, client.get("/jwks").status_code} == {404}
    assert client.post("/revoke", data={"agent": "acme/planner"}).json()["error"] == "invalid_client"
    raw = subject()
    told = [client.post("/introspect", data={"token": raw}, headers=OPERATOR).json()["active"]]
    assert client.post("/revoke", data={"agent": "acme/planner"}, headers=OPERATOR).status_code == 200
    told += [client.post("/introspect", data={"token": raw}, headers=OPERATOR).json()["active"]]
    assert told == [True, False]
    done = client.post("/tasks/t-1/complete", headers=OPERATOR)
    assert (done.status_code, done.json()) == (200, {"task": "t-1", "state": "completed"})


def test_a_server_without_identity_has_no_token_endpoints():
    engine = Engine.from_text("language 1\npackage p\nanyone { may GET /x }")
    client = TestClient(create_app(engine), base_url="http://127.0.0.1")
    paths = ("/token", "/revoke", "/introspect", "/attestation/nonce", "/tasks/t/complete")
    assert {client.post(path).status_code for path in paths} == {404}


def test_the_attestation_nonce_endpoint_returns_single_use_nonces(tmp_path: Path):
    desk = Desk(tmp_path)
    nonces = AttestationNonces(desk.marks)
    desk.identity.attestation_nonces = nonces.issue
    client = TestClient(create_app(desk.engine), base_url="http://127.0.0.1")
    first, second = (client.post("/attestation/nonce").json() for _ in range(2))
    assert first["nonce"] != second["nonce"]
    assert nonces.take(first["nonce"], NOW)
    assert not nonces.take(first["nonce"], NOW)
    assert datetime.fromisoformat(first["expires_at"]).timestamp() == NOW + nonces.lifetime


# ── From configuration ────────────────────────────────────────────────────────────────────────


def opened(desk: Desk, policy: str = POLICY, **changes: Any) -> Any:
    raw = {"signing": {"keys": "file:signing.json", "issuer": "desk", "audiences": ["archive-api"]}, **changes}
    configuration = parse_identity_config(raw, desk.folder)
    keys = open_signing_keys(configuration, open_secrets(configuration), NOW)
    assert keys is not None
    engine = Engine.from_text(policy)
    return open_token_issuer(configuration, desk.identity, keys, lambda: (engine.kernel, engine.directory), lambda: NOW)


def test_the_configuration_opens_the_token_service(tmp_path: Path):
    desk = Desk(tmp_path)
    given = {"agent": "summarizer", "issuer": "acme", "method": "private_key_jwt", "keys": "summarizer.json"}
    found = opened(desk, clients={"summarizer": given})
    assert isinstance(found.keys, KeyRingFile)
    assert (found.name, found.audiences, found.lifetime) == ("desk", (AUDIENCE, "archive-api"), 900)
    desk.issuing = found
    assert desk.exchange(scope=READ).scopes == (READ,)


@pytest.mark.parametrize(
    ("changes", "policy", "message"),
    [
        ({"signing": {"keys": "file:signing.json", "issuer": "nobody"}}, POLICY, "no issuer `nobody` with a `url`"),
        ({"signing": {"keys": "file:none.json", "issuer": "desk"}}, POLICY, "cannot read"),
        ({"signing": {"keys": "bao-transit:transit/a", "issuer": "desk"}}, POLICY, "OpenBao is not configured"),
        ({}, POLICY.replace(f'issuer desk  {{ url "{DESK}"  audience "{AUDIENCE}"  records chains',
                            f'issuer desk  {{ url "{DESK}"  audience "{AUDIENCE}"'), "add `records chains` to this"),
        ({"clients": {"a": {"agent": "a", "issuer": "evil", "method": "token"}}}, POLICY, "no issuer `evil`"),
        ({"clients": {"a": {"agent": "a", "issuer": "acme", "method": "token"},
                      "b": {"agent": "a", "issuer": "other", "method": "token"}}}, POLICY, "two agents of different"),
        ({"clients": {"a": {"agent": "a", "issuer": "acme", "method": "dpop", "keys": "signing.json"}}}, POLICY,
         "the set publishes its private part"),
        ({"clients": {"a": {"agent": "a", "issuer": "acme", "method": "mtls"}}}, POLICY, "requires `certificates`"),
        ({"clients": {"a": {"agent": "a", "issuer": "acme", "method": "dpop"}}}, POLICY, "requires `keys`"),
    ],
)  # fmt: skip
def test_an_invalid_token_service_configuration_is_rejected_with_its_cause(
    tmp_path: Path, changes: dict[str, Any], policy: str, message: str
):
    with pytest.raises(IdentityConfigError, match=message):
        opened(Desk(tmp_path), policy, **changes)


def test_an_openbao_refresh_not_shorter_than_ahead_is_rejected(tmp_path: Path):
    """Each worker sees a new one when what OpenBao said before is too old."""
    raw = {
        "signing": {"keys": "bao-transit:transit/a", "issuer": "desk", "ahead": "10m"},
        "bao": {"address": "http://127.0.0.1:1", "token": "env:T", "refresh": "10m"},
    }
    with pytest.raises(IdentityConfigError, match="is not shorter than"):
        opened(Desk(tmp_path), **raw)


def test_an_openbao_key_can_sign_issued_tokens(tmp_path: Path, openbao: OpenBao, monkeypatch: pytest.MonkeyPatch):
    client = openbao.client
    if "transit/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("transit")
    client.secrets.transit.create_key("desk", key_type="ecdsa-p256")
    monkeypatch.setenv("BAO_TOKEN_OF_TEST", ROOT_TOKEN)
    raw = {
        "signing": {"keys": "bao-transit:transit/desk", "issuer": "desk"},
        "bao": {"address": openbao.address, "token": "env:BAO_TOKEN_OF_TEST"},
    }
    configuration = parse_identity_config(raw, tmp_path)
    keys = open_signing_keys(configuration, open_secrets(configuration), NOW)
    assert isinstance(keys, OpenBaoSigner)
    desk = Desk(tmp_path)
    desk.issuing, desk.keys = replace(desk.issuing, keys=keys), keys  # type: ignore[assignment]
    assert desk.decide(desk.exchange(scope=READ)).allowed


# ── Whole: from `identity.toml` to a decision ─────────────────────────────────────────────────


def test_the_token_service_works_with_only_an_identity_toml(tmp_path: Path):
    """Keys of the other issuer in a file; a client by DPoP; tokens of our own verified without asking anybody."""
    write_desk(tmp_path, int(time()))
    engine = Engine.load(tmp_path / "desk.policy", identity=tmp_path / "identity.toml")
    client = TestClient(create_app(engine, token="operator-of-this-test"))
    now = int(time())
    form = {
        "grant_type": TOKEN_EXCHANGE_GRANT,
        "subject_token": subject(iat=now - 60, exp=now + 600),
        "subject_token_type": ACCESS_TOKEN,
        "scope": READ,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion("summarizer", now),
    }
    answer = client.post("/token", data=form)
    assert answer.status_code == 200, answer.text
    raw = answer.json()["access_token"]
    found = client.post("/introspect", data={"token": raw}, headers=OPERATOR).json()
    assert found["cnf"] == {"jkt": key_of("summarizer").thumbprint()}
    url = "https://api.acme.example/v1/invoices"
    asked = {"request": {"method": "GET", "path": "/v1/invoices"},
             "credentials": {"authorization": f"DPoP {raw}", "dpop": dpop(raw, url, now), "url": url}}  # fmt: skip
    assert client.post("/decide", json=asked, headers=OPERATOR).json()["outcome"] == "allow"
    assert (
        client.post("/revoke", data={"chain": f"acme/{jti_of(form['subject_token'])}"}, headers=OPERATOR).json() == {}
    )
    again = {**asked, "credentials": {**asked["credentials"], "dpop": dpop(raw, url, now)}}
    assert client.post("/decide", json=again, headers=OPERATOR).json()["reasons"][0]["code"] == "revoked"

    form |= {"subject_token": subject(iat=now - 60, exp=now + 600), "task": json.dumps({"id": "a b:c?d"}),
             "client_assertion": assertion("summarizer", now)}  # fmt: skip
    raw = client.post("/token", data=form).json()["access_token"]
    path = "/tasks/a%20b:c%3Fd/complete"
    for url, status in ((f"{DESK}/tasks/a%20b:c/complete", 401), (f"{DESK}{path}", 200)):
        headers = {"Authorization": f"DPoP {raw}", "DPoP": dpop(raw, url, now, "POST")}
        assert client.post(path, headers=headers).status_code == status


def test_a_client_can_authenticate_with_only_a_dpop_proof(tmp_path: Path):
    """With the parts that verify proofs, and not by what other tests put in their place."""
    write_ring(tmp_path / "signing.json", new_ring("ES256", int(time()) - 10), new=True)
    (tmp_path / "acme.json").write_text(json.dumps({"keys": [{**ec().as_dict(private=False), "alg": "ES256"}]}))
    (tmp_path / "summarizer.json").write_text(json.dumps({"keys": [key_of("summarizer").as_dict(private=False)]}))
    raw = {
        "issuers": {"acme": {"keys": "acme.json"}}, "signing": {"keys": "file:signing.json", "issuer": "desk"},
        "clients": {"summarizer": {
            "agent": "summarizer", "issuer": "acme", "method": "dpop", "keys": "summarizer.json",
        }},
    }  # fmt: skip
    engine = Engine.from_text(POLICY).verify_credentials(parse_identity_config(raw, tmp_path))
    client, now = TestClient(create_app(engine, token="operator-of-this-test")), int(time())
    form = {
        "grant_type": TOKEN_EXCHANGE_GRANT,
        "subject_token": subject(iat=now - 60, exp=now + 600),
        "subject_token_type": ACCESS_TOKEN,
        "scope": READ,
        "client_id": "summarizer",
    }
    url = f"{DESK}/token"
    good = dpop(None, url, now, "POST")
    for proof_of, status in ((None, 401), (dpop(None, url, now, "POST", "clerk"), 401), (good, 200), (good, 400)):
        answer = client.post("/token", data=form, headers={} if proof_of is None else {"DPoP": proof_of})
        assert answer.status_code == status, answer.text
        if status == 200:
            found = client.post("/introspect", data={"token": answer.json()["access_token"]}, headers=OPERATOR).json()
            assert found["cnf"] == {"jkt": key_of("summarizer").thumbprint()}


def dpop(token: str | None, url: str, now: int, method: str = "GET", by: str = "summarizer") -> str:
    key = key_of(by)
    header = {
        "typ": "dpop+jwt",
        "alg": "ES256",
        "jwk": {name: key.as_dict(private=False)[name] for name in ("kty", "crv", "x", "y")},
    }
    ath = {} if token is None else {"ath": b64(sha256(token.encode()).digest())}
    return signed(header, {"htm": method, "htu": url, "iat": now, "jti": fresh(), **ath}, key)


def jti_of(token: str) -> str:
    part = token.split(".")[1]
    return str(json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))["jti"])


def test_a_missing_secret_is_rejected_at_startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    raw = {
        "issuers": {
            "acme": {
                "introspection": "https://login.acme.example/introspect", "client_id": "we",
                "client_secret": "env:SECRET_OF_THIS_TEST",
            },
        },
    }  # fmt: skip
    kernel = Engine.from_text(POLICY).kernel
    with pytest.raises(IdentityConfigError, match="`env:SECRET_OF_THIS_TEST`: the variable is not set"):
        build_authenticator(parse_identity_config(raw, tmp_path), kernel, MemoryMarks())
    monkeypatch.setenv("SECRET_OF_THIS_TEST", "hunter2-correct-horse")
    found = build_authenticator(parse_identity_config(raw, tmp_path), kernel, MemoryMarks())
    assert "hunter2" not in repr(found)


def test_the_jwks_endpoint_returns_503_if_reloaded_policies_issue_no_tokens(http: Http):
    issuing, http.desk.identity.issuing = http.desk.identity.issuing, None
    try:
        assert http.client.get("/jwks").status_code == 503
    finally:
        http.desk.identity.issuing = issuing
