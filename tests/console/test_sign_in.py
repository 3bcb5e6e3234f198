"""Signing in at an issuer: what is asked, what is accepted, and every attack on it."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from policyengine.engine import Engine
from policyengine.server.console import sign_in
from policyengine.server.console.sign_in import own_path
from policyengine.server.console.throttle import MAX_ATTEMPTS_PER_ADDRESS
from policyengine.server.listeners import ServeError
from policyengine.stores.base import StoreError
from tests.console.world import CLIENT, Provider, StartedLogin, Visitor, World, console, login_of


def sign_in_as(world: World, provider: Provider, user: str = "alice", path: str = "/") -> tuple[Visitor, Any]:
    started = StartedLogin.of(world.visitor(), path)
    provider.claims = {"sub": user}
    return started.visitor, started.answer(code=provider.code(started.asked["nonce"]))


def refusal(world: World) -> str:
    """Return the code of the last record that somebody was not signed in."""
    event, details = world.records()[-1]
    assert event == "console_refused"
    return str(details["code"])


# ── The flow ──────────────────────────────────────────────────────────────────────────────────


def test_a_page_leads_to_the_sign_in_and_back_to_it(signing: World, provider: Provider) -> None:
    visitor = signing.visitor()
    page = visitor.get("/log?agent=bot")
    assert (page.status, page.location) == (303, "/sign-in?next=/log%3Fagent%3Dbot")
    page = visitor.get(page.location)
    start = re.search(r'href="(/sign-in/start[^"]*)"', page.text)
    assert start is not None
    started = StartedLogin.of(visitor, "/log?agent=bot")
    page = started.answer(code=provider.code(started.asked["nonce"]))
    assert (page.status, page.location) == (303, "/log?agent=bot")
    assert visitor.get("/").status == 200


def test_the_request_to_the_provider_has_state_nonce_and_a_pkce_challenge(signing: World) -> None:
    asked = StartedLogin.of(signing.visitor()).asked
    assert asked.keys() == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
        "code_challenge_method",
    }  # fmt: skip
    assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", CLIENT, "openid")
    assert asked["redirect_uri"] == f"{signing.url}/sign-in/callback"
    assert asked["code_challenge_method"] == "S256"
    assert all(len(asked[name]) == 43 for name in ("state", "nonce", "code_challenge"))


def test_every_sign_in_has_its_own_state_nonce_and_challenge(signing: World) -> None:
    first, second = (StartedLogin.of(signing.visitor()).asked for _ in range(2))
    assert all(first[name] != second[name] for name in ("state", "nonce", "code_challenge"))


def test_the_code_is_redeemed_with_the_verifier_of_the_challenge(signing: World, provider: Provider) -> None:
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 303
    [form] = provider.forms
    digest = sha256(form["code_verifier"].encode()).digest()
    assert urlsafe_b64encode(digest).decode().rstrip("=") == started.asked["code_challenge"]
    assert form["redirect_uri"] == started.asked["redirect_uri"]
    assert provider.headers[0]["Authorization"].startswith("Basic ")


def test_a_public_client_sends_its_id_and_no_secret(tmp_path: Path, provider: Provider) -> None:
    with console(tmp_path, provider.url, login_of(secret=None), view=["*"]) as world:
        assert sign_in_as(world, provider)[1].status == 303
    assert provider.forms[0]["client_id"] == CLIENT
    assert "Authorization" not in provider.headers[0]


def test_a_sign_in_and_a_sign_out_are_records(signing: World, provider: Provider) -> None:
    visitor, _ = sign_in_as(signing, provider)
    page = visitor.get("/")
    assert visitor.post("/sign-out", {"csrf": page.field("csrf")}).status == 303
    assert signing.records() == [
        (
            "console_signed_in",
            {"user": "alice", "issuer": "acme", "by": "issuer", "roles": ["view"], "address": "127.0.0.1"},
        ),
        ("console_signed_out", {"user": "alice", "issuer": "acme", "why": "signed out"}),
    ]


def test_the_user_is_named_by_the_claim_of_the_settings(tmp_path: Path, provider: Provider) -> None:
    from policyengine.identity.config.model import parse_identity_config

    configuration = parse_identity_config({"issuers": {"acme": {"user": "email"}}})
    with console(tmp_path, provider.url, login_of(configuration), view=["id:fay@acme.example"]) as world:
        provider.claims = {"email": "fay@acme.example"}
        started = StartedLogin.of(world.visitor())
        assert started.answer(code=provider.code(started.asked["nonce"])).status == 303
        assert started.visitor.get("/").status == 200
        provider.claims = {"email": None}
        started = StartedLogin.of(world.visitor())
        assert started.answer(code=provider.code(started.asked["nonce"])).status == 403
        assert refusal(world) == "user"


# ── Attacks on the answer ─────────────────────────────────────────────────────────────────────


def test_an_answer_with_the_state_of_another_browser_is_refused(signing: World, provider: Provider) -> None:
    """Login CSRF: the attacker's own answer in the browser of a victim, who has started nothing, or another sign-in."""
    theirs = StartedLogin.of(signing.visitor())
    code = provider.code(theirs.asked["nonce"])
    victim = signing.visitor()
    page = victim.get(f"/sign-in/callback?state={theirs.asked['state']}&code={code}")
    assert page.status == 403
    own = StartedLogin.of(victim)
    page = own.answer(state=theirs.asked["state"], code=code)
    assert page.status == 403
    assert victim.session is None
    assert refusal(signing) == "state"
    assert provider.forms == []


@pytest.mark.parametrize("state", [None, "", "x" * 43, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_an_answer_without_the_state_is_refused(signing: World, provider: Provider, state: str | None) -> None:
    started = StartedLogin.of(signing.visitor())
    assert started.answer(state=state, code=provider.code(started.asked["nonce"])).status == 403
    assert provider.forms == []


def test_a_repeated_parameter_is_refused(signing: World, provider: Provider) -> None:
    started = StartedLogin.of(signing.visitor())
    code = provider.code(started.asked["nonce"])
    page = started.visitor.get(f"/sign-in/callback?state={started.asked['state']}&code={code}&code=other")
    assert page.status == 403
    assert provider.forms == []


def test_an_answer_counts_once(signing: World, provider: Provider) -> None:
    """Replay: the same state and the same cookie with a new code, and with the same one."""
    started = StartedLogin.of(signing.visitor())
    cookies = dict(started.visitor.cookies)
    code = provider.code(started.asked["nonce"])
    assert started.answer(code=code).status == 303
    for again in (code, provider.code(started.asked["nonce"])):
        thief = Visitor(signing.url, dict(cookies))
        page = StartedLogin(thief, "", started.asked).answer(code=again)
        assert page.status == 403
        assert thief.session is None
        assert refusal(signing) == "replayed"
    assert len(provider.forms) == 1


def test_answers_that_sign_nobody_in_are_throttled_before_their_state_is_spent(signing: World) -> None:
    statuses = [StartedLogin.of(signing.visitor()).answer(error="access_denied").status for _ in range(62)]
    assert statuses == [403] * MAX_ATTEMPTS_PER_ADDRESS + [429] * 2
    assert len(signing.server.console.spent._spent) == MAX_ATTEMPTS_PER_ADDRESS


def test_a_code_that_the_provider_does_not_accept_signs_nobody_in(signing: World) -> None:
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code="stolen").status == 403
    assert refusal(signing) == "code"


@pytest.mark.parametrize("code", ["", "x" * 3_000, "é"])
def test_a_malformed_code_is_not_sent_to_the_provider(signing: World, provider: Provider, code: str) -> None:
    assert StartedLogin.of(signing.visitor()).answer(code=code).status == 403
    assert provider.forms == []


def test_a_sign_in_expires(signing: World, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "LOGIN_SECONDS", 0)
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 403
    assert refusal(signing) == "expired"


def test_a_person_who_cancels_is_not_signed_in(signing: World, provider: Provider) -> None:
    page = StartedLogin.of(signing.visitor()).answer(
        error="access_denied", error_description="<script>alert(1)</script>"
    )
    assert page.status == 403
    assert "<script>alert" not in page.text
    assert "access_denied" not in page.text
    assert signing.records()[-1][1]["code"] == "cancelled"
    assert signing.records()[-1][1]["why"] == "access_denied"
    assert provider.forms == []


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "another-client"}, "token"),
        ({"aud": [CLIENT, "another-client"]}, "client"),
        ({"aud": [CLIENT, "another-client"], "azp": "another-client"}, "client"),
        ({"azp": "another-client"}, "client"),
        ({"iss": "https://other.example"}, "token"),
        ({"exp": 1_000_000_000}, "token"),
        ({"exp": None}, "token"),
        ({"iat": None}, "token"),
        ({"iat": 1_000_000_000}, "token"),
        ({"iat": 4_000_000_000, "exp": 4_000_000_300}, "token"),
        ({"sub": None}, "token"),
        ({"sub": 7}, "token"),
    ],
    ids=str,
)  # fmt: skip
def test_an_id_token_with_wrong_claims_signs_nobody_in(
    signing: World, provider: Provider, claims: dict[str, Any], code: str
) -> None:
    provider.claims = claims
    started = StartedLogin.of(signing.visitor())
    page = started.answer(code=provider.code(started.asked["nonce"]))
    assert page.status == 403
    assert started.visitor.session is None
    assert refusal(signing) == code


def test_a_second_audience_is_accepted_if_the_token_was_issued_to_the_console(
    signing: World, provider: Provider
) -> None:
    provider.claims = {"aud": [CLIENT, "api"], "azp": CLIENT}
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 303


def test_an_unsigned_id_token_signs_nobody_in(
    signing: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "token", provider.unsigned)
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 403
    assert refusal(signing) == "token"


def test_an_id_token_of_another_key_signs_nobody_in(signing: World, provider: Provider) -> None:
    provider.key = ECKey.generate_key("P-256", {"kid": "k1", "alg": "ES256", "use": "sig"})
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 403
    assert refusal(signing) == "token"


def test_an_answer_of_another_issuer_is_refused_before_the_code_is_sent(signing: World, provider: Provider) -> None:
    """Mix-up: the answer of another provider, which would receive the code of this one (RFC 9207)."""
    started = StartedLogin.of(signing.visitor())
    page = started.answer(code=provider.code(started.asked["nonce"]), iss="https://evil.example")
    assert page.status == 403
    assert refusal(signing) == "issuer"
    assert provider.forms == []


def test_a_provider_that_names_itself_must_do_so(signing: World, provider: Provider) -> None:
    provider.metadata(authorization_response_iss_parameter_supported=True)
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 403
    assert refusal(signing) == "issuer"
    started = StartedLogin.of(signing.visitor())
    assert started.answer(code=provider.code(started.asked["nonce"]), iss=provider.url).status == 303


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://other.example"},
        {"authorization_endpoint": "http://other.example/auth"},
        {"token_endpoint": "http://other.example/token"},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_metadata_of_another_issuer_or_without_https_starts_no_sign_in(
    signing: World, provider: Provider, changed: dict[str, Any]
) -> None:
    provider.metadata(**changed)
    page = signing.visitor().get("/sign-in/start")
    assert page.status == 502
    assert refusal(signing) == "provider"


def test_a_provider_that_fails_signs_nobody_in(signing: World, provider: Provider) -> None:
    started = StartedLogin.of(signing.visitor())
    provider.status = 500
    assert started.answer(code=provider.code(started.asked["nonce"])).status == 502
    assert refusal(signing) == "provider"


# ── Redirects ─────────────────────────────────────────────────────────────────────────────────

ELSEWHERE = (
    "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
    "/\n/evil.example", "javascript:alert(1)", "/ /evil.example", "evil", "", "/" + "x" * 2_000, "/sign-in/start",
    "/<script>", '/"x', "/é",
)  # fmt: skip


@pytest.mark.parametrize("path", ELSEWHERE, ids=repr)
def test_a_sign_in_leads_to_no_other_site(signing: World, provider: Provider, path: str) -> None:
    _, page = sign_in_as(signing, provider, path=path)
    assert (page.status, page.location) == (303, "/")


@pytest.mark.parametrize("path", ["/", "/log", "/log?agent=a%20b&outcome=deny", "/decisions/01M8", "/a//b"])
def test_a_path_of_the_console_is_kept(path: str) -> None:
    assert own_path(path) == path


# ── Roles ─────────────────────────────────────────────────────────────────────────────────────


def test_a_person_without_a_role_sees_no_page(signing: World, provider: Provider) -> None:
    visitor, page = sign_in_as(signing, provider, "bob")
    assert page.status == 303
    for path in ("/", "/log", "/counts", "/approvals", "/traffic", "/halts", "/decisions/01M8MQQTMGEW6CZHTAECMQM3ZG"):
        page = visitor.get(path)
        assert page.status == 403
        assert "needs the role <b>view</b>" in page.text
    assert 'href="/log"' not in page.text


def test_a_role_is_lost_when_the_entities_change(signing: World, provider: Provider) -> None:
    from policyengine.entities.store import EntityStore

    visitor, _ = sign_in_as(signing, provider)
    assert visitor.get("/").status == 200
    signing.engine.replace_directory(EntityStore())
    assert visitor.get("/").status == 403


def test_who_may_approve_may_view(signing: World, provider: Provider) -> None:
    visitor, _ = sign_in_as(signing, provider, "fay")
    assert "view, approve" in visitor.get("/").text


def test_a_claim_gives_a_role(tmp_path: Path, provider: Provider) -> None:
    with console(tmp_path, provider.url, login_of(), view=["claim.groups:ops"]) as world:
        for groups, status in ((["ops", "x"], 200), ("ops", 200), (["x"], 403), ({"ops": 1}, 403), (None, 403)):
            provider.claims = {"groups": groups}
            started = StartedLogin.of(world.visitor())
            assert started.answer(code=provider.code(started.asked["nonce"])).status == 303
            assert started.visitor.get("/").status == status


# ── Starting ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"login": login_of(issuer="acmee"), "view": ["*"]}, "no policy names the issuer `acmee`"),
        ({"login": login_of()}, "no person may use the console"),
        ({"login": login_of(), "view": ["ops"]}, "`ops` is not a rule for a role"),
        ({"host": "0.0.0.0"}, "people must sign in at an issuer, over HTTPS"),
        ({"host": "0.0.0.0", "login": login_of(), "view": ["*"]}, "people must sign in at an issuer, over HTTPS"),
        ({"public_url": "http://console.example.com"}, "must begin with `https://`"),
        ({"public_url": "https://console.example.com/x"}, "is not the URL of a console"),
        ({"allowed_hosts": ["http://x"]}, "is not a host name"),
    ],
)
def test_a_console_does_not_start_with_settings_that_are_not_safe(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ServeError, match=re.escape(words)), console(tmp_path, **options):
        pass


def test_a_user_who_was_revoked_has_no_role(signing: World, provider: Provider) -> None:
    visitor, _ = sign_in_as(signing, provider)
    other, _ = sign_in_as(signing, provider, "fay")
    now = int(time.time())
    signing.engine.store.marks.revoke(["user:acme/alice", "user:other/fay"], now + 60, now)
    assert visitor.get("/").status == 403
    assert other.get("/").status == 200


def test_while_the_store_does_not_answer_people_may_only_view(
    signing: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(names: object, now: int) -> frozenset[str]:
        raise StoreError("the store is gone")

    visitor, _ = sign_in_as(signing, provider, "fay")
    assert "view, approve" in visitor.get("/").text
    monkeypatch.setattr(signing.engine.store.marks, "revoked", fail)
    page = visitor.get("/")
    assert page.status == 200
    assert "approve" not in page.text


def test_a_provider_that_fails_is_not_asked_again_at_once(signing: World, provider: Provider) -> None:
    provider.metadata(token_endpoint=None)
    for _ in range(5):
        assert signing.visitor().get("/sign-in/start").status == 502
    assert provider.server.asked.count("/.well-known/openid-configuration") == 1


def test_a_client_with_a_key_proves_itself_with_an_assertion(tmp_path: Path, provider: Provider) -> None:
    key = ECKey.generate_key("P-256", {"kid": "c1"})
    private = key.as_pem(private=True).decode()
    login = login_of(method="private_key_jwt", secret=lambda: private)
    with console(tmp_path, provider.url, login, view=["*"]) as world:
        assert sign_in_as(world, provider)[1].status == 303
    [form] = provider.forms
    claims = jwt.decode(form["client_assertion"], key, algorithms=["ES256"]).claims
    assert (claims["iss"], claims["aud"]) == (CLIENT, provider.url)
    assert "client_secret" not in form


def test_policies_without_the_issuer_start_no_sign_in(signing: World) -> None:
    signing.server.console.reloading.current = Engine.from_text("anyone { may GET /health }", log=signing.engine.log)
    assert signing.visitor().get("/sign-in/start").status == 502
    assert "no policy names the issuer `acme`" in str(signing.records()[-1])
