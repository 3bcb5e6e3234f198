"""Opaque tokens: a real provider that is asked what they are, and one that answers what nobody wants."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import time
from typing import Any
from urllib.parse import parse_qs

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey

from policyengine.http.fetch import Fetcher
from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.identity.single_flight import MAX_WAITERS
from policyengine.identity.verify.introspection import (
    MAX_REQUESTS_AT_ONCE,
    IntrospectionCredentials,
    IntrospectionEndpoint,
    IntrospectionRouter,
    create_endpoints,
    parse_assertion_key,
)
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from tests.identity import providing
from tests.identity.finding import LONG, SHORT
from tests.identity.keys import key, private
from tests.identity.providing import Faulty, Gate, Handling, OpenIdProvider, answers, issuer
from tests.processes import wait_until

NOW = 1_800_000_000
SECRETS = {
    "env:BASIC": "a secret: + & %",
    "env:POST": "secret of post",
    "env:KEY": json.dumps(private("ES256", 9)),
    "env:PEM": key("ES256", 9).as_pem(private=True).decode(),
    "env:WRONG": "another secret",
}


def secret_of(reference: str) -> Callable[[], str]:
    return lambda: SECRETS[reference]


def asking(provider: OpenIdProvider, **settings: Any) -> IntrospectionRouter:
    given = {"introspection": f"{provider.url}/token/introspection", **settings}
    configuration = parse_identity_config({"issuers": {"acme": given}, "identity": {"timeout": "20s"}})
    return IntrospectionRouter(
        create_endpoints(configuration, [issuer(provider.url, audience="urn:opaque")], secret_of)
    )


def endpoint(server: Faulty, timeout: float = LONG, **changed: Any) -> IntrospectionEndpoint:
    client = IntrospectionCredentials("we", "client_secret_basic", lambda: "our secret")
    url = f"{server.url}/introspect"
    return replace(
        IntrospectionEndpoint("acme", "https://acme", None, url, client, Fetcher(), timeout=timeout), **changed
    )


def refusal(introspection: IntrospectionRouter, raw: str = "opaque", now: int = NOW) -> RefusalCode:
    with pytest.raises(CredentialError) as caught:
        introspection.introspect(raw, now)
    return caught.value.refusal


# ── A real provider ───────────────────────────────────────────────────────────────────────────

CLIENTS: dict[str, dict[str, str]] = {
    "basic": {"client_id": "basic:&", "client_secret": "env:BASIC"},
    "post": {"client_id": "post", "client_auth": "client_secret_post", "client_secret": "env:POST"},
    "key": {"client_id": "assertion", "client_auth": "private_key_jwt", "client_key": "env:KEY"},
    "key in PEM": {"client_id": "assertion", "client_auth": "private_key_jwt", "client_key": "env:PEM"},
}


@pytest.mark.parametrize("settings", CLIENTS.values(), ids=CLIENTS)
def test_a_real_provider_introspects_its_opaque_token(settings: dict[str, str], provider: OpenIdProvider) -> None:
    now = int(time())
    raw = provider.token("urn:opaque")
    token = asking(provider, **settings).introspect(raw, now)
    assert (token.kind, token.issuer, token.header) == ("opaque", "acme", {})
    assert token.claims["iss"] == provider.url
    assert (token.claims["client_id"], token.claims["scope"], token.claims["tenant"]) == ("svc", "read", "t1")
    assert "active" not in token.claims
    assert token.expires == now + 60


def test_a_real_provider_reports_an_unknown_token_and_a_foreign_audience(provider: OpenIdProvider) -> None:
    introspection = asking(provider, **CLIENTS["basic"])
    assert refusal(introspection, "made-up", int(time())) is RefusalCode.INACTIVE
    assert refusal(introspection, provider.token("urn:other:opaque"), int(time())) is RefusalCode.AUDIENCE


def test_a_real_provider_that_rejects_our_secret_counts_as_unavailable(
    provider: OpenIdProvider, caplog: pytest.LogCaptureFixture
) -> None:
    introspection = asking(provider, client_id="basic:&", client_secret="env:WRONG")
    assert refusal(introspection, "made-up", int(time())) is RefusalCode.PROVIDER
    assert "cannot introspect a token at `acme`: the server answers 401" in caplog.text
    assert "another secret" not in caplog.text


# ── What is kept ──────────────────────────────────────────────────────────────────────────────


def test_an_active_introspection_is_cached_until_expiry_or_for_a_minute(server: Faulty) -> None:
    introspection = IntrospectionRouter([endpoint(server)])
    server.pages["/introspect"] = {"active": True, "exp": NOW + 10}
    assert introspection.introspect("opaque", NOW).expires == NOW + 40, "with leeway"
    assert introspection.introspect("opaque", NOW + 39)
    assert len(server.asked) == 1
    server.pages["/introspect"] = {"active": True}
    assert introspection.introspect("opaque", NOW + 40).expires == NOW + 100
    server.pages["/introspect"] = {"active": False}
    assert introspection.introspect("opaque", NOW + 99)
    assert refusal(introspection, now=NOW + 100) is RefusalCode.INACTIVE


def test_an_inactive_introspection_is_cached_for_a_few_seconds(server: Faulty) -> None:
    introspection = IntrospectionRouter([endpoint(server)])
    server.pages["/introspect"] = {"active": False}
    for _ in range(50):
        assert refusal(introspection) is RefusalCode.INACTIVE
    assert len(server.asked) == 1
    server.pages["/introspect"] = {"active": True}
    assert refusal(introspection, now=NOW + 4) is RefusalCode.INACTIVE
    assert introspection.introspect("opaque", NOW + 5)


def test_concurrent_introspections_of_a_token_share_one_request(server: Faulty) -> None:
    gate = Gate({"active": True})
    server.pages["/introspect"] = gate
    introspection = IntrospectionRouter([endpoint(server)])
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(introspection.introspect, "opaque", NOW) for _ in range(8)]
        assert gate.reached.wait(LONG)
        gate.opened.set()
        assert len({id(one.result()) for one in asked}) == 1
    assert len(server.asked) == 1


def test_concurrent_introspections_are_bounded_and_the_excess_is_rejected(server: Faulty) -> None:
    gate = Gate({"active": True})
    server.pages["/introspect"] = gate
    introspection = IntrospectionRouter([endpoint(server)])
    most = min(MAX_REQUESTS_AT_ONCE, MAX_WAITERS)
    with ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(introspection.introspect, f"opaque{number}", NOW) for number in range(40)]
        wait_until(lambda: sum(one.done() for one in asked) == 40 - most)
        assert {str(one.exception()) for one in asked if one.done()} == {RefusalCode.PROVIDER.words}
        gate.opened.set()
    assert sum(one.exception() is None for one in asked) == most == len(server.asked)


# ── What is said ──────────────────────────────────────────────────────────────────────────────

JWT: providing.Page = answers(200, b"eyJhbGciOiJFUzI1NiJ9.eyJhY3RpdmUiOnRydWV9.AAAA")
ANSWERS: dict[str, tuple[Any, RefusalCode | None]] = {
    "active": ({"active": True, "aud": "api"}, None),
    "nobody says for whom": ({"active": True}, RefusalCode.MISSING_CLAIM),
    "an access token": ({"active": True, "aud": "api", "token_type": "Bearer", "typ": "at+jwt"}, None),
    "a refresh token": ({"active": True, "aud": "api", "token_use": "refresh_token"}, RefusalCode.TOKEN_TYPE),
    "a refresh token by its type": (
        {"active": True, "aud": "api", "token_type": "refresh_token"},
        RefusalCode.TOKEN_TYPE,
    ),
    "a refresh token of Keycloak": ({"active": True, "aud": "api", "typ": "Refresh"}, RefusalCode.TOKEN_TYPE),
    "no type at all": ({"active": True, "aud": "api", "token_type": None}, RefusalCode.TOKEN_TYPE),
    "bound to a key that nobody names": ({"active": True, "aud": "api", "token_type": "DPoP"}, RefusalCode.BOUND_HOW),
    "for us": ({"active": True, "iss": "https://acme", "aud": ["other", "api"], "exp": NOW, "nbf": NOW + 30}, None),
    "not active": ({"active": False, "exp": NOW + 99}, RefusalCode.INACTIVE),
    "active as text": ({"active": "true"}, RefusalCode.PROVIDER),
    "active as number": ({"active": 1}, RefusalCode.PROVIDER),
    "active as nothing": ({"active": None}, RefusalCode.PROVIDER),
    "no word of active": ({"sub": "alice"}, RefusalCode.PROVIDER),
    "active twice": (b'{"active": false, "active": true}', RefusalCode.PROVIDER),
    "no object": (b"[true]", RefusalCode.PROVIDER),
    "a JWT": (JWT, RefusalCode.PROVIDER),
    "another issuer": ({"active": True, "iss": "https://acme/"}, RefusalCode.ISSUER),
    "an issuer that is none": ({"active": True, "iss": None}, RefusalCode.ISSUER),
    "somebody else": ({"active": True, "aud": "api2"}, RefusalCode.AUDIENCE),
    "nobody": ({"active": True, "aud": []}, RefusalCode.AUDIENCE),
    "a part of the audience": ({"active": True, "aud": {"api": 1}}, RefusalCode.AUDIENCE),
    "expired": ({"active": True, "exp": NOW - 30}, RefusalCode.EXPIRED),
    "expiry as text": ({"active": True, "exp": str(NOW + 60)}, RefusalCode.CLAIM_TYPE),
    "expiry as truth": ({"active": True, "exp": True}, RefusalCode.CLAIM_TYPE),
    "expiry in milliseconds": ({"active": True, "exp": (NOW + 60) * 1_000}, RefusalCode.CLAIM_TYPE),
    "issued before there was time": ({"active": True, "iat": -(10**15)}, RefusalCode.CLAIM_TYPE),
    "not yet": ({"active": True, "nbf": NOW + 31}, RefusalCode.NOT_YET),
    "of the future": ({"active": True, "iat": NOW + 31}, RefusalCode.ISSUED_LATER),
    "an error of the server": (answers(500), RefusalCode.PROVIDER),
    "unauthorized": (answers(401), RefusalCode.PROVIDER),
    "an error with an answer": (answers(400, b'{"active": true}'), RefusalCode.PROVIDER),
    "a redirect": (providing.redirects_to("/elsewhere"), RefusalCode.PROVIDER),
    "too much": (providing.oversized, RefusalCode.PROVIDER),
    "too deep": (b'{"active": true, "a": ' + b"[" * 99 + b"]" * 99 + b"}", RefusalCode.PROVIDER),
}


@pytest.mark.parametrize(("page", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_each_introspection_response_leads_to_its_refusal_code(
    page: providing.Page, expected: RefusalCode | None, server: Faulty
) -> None:
    server.pages["/introspect"], server.pages["/elsewhere"] = page, {"active": True}
    introspection = IntrospectionRouter([endpoint(server, audience="api")])
    if expected is None:
        assert introspection.introspect("opaque", NOW).kind == "opaque"
    else:
        assert refusal(introspection) is expected
    assert server.asked == ["/introspect"]


@pytest.mark.parametrize("page", [providing.hangs, providing.drips_headers], ids=["hangs", "drips"])
def test_an_unresponsive_issuer_is_not_contacted_again_for_a_short_time(page: providing.Page, server: Faulty) -> None:
    introspection = IntrospectionRouter([endpoint(server, SHORT)])
    server.pages["/introspect"] = page
    for number in range(50):
        assert refusal(introspection, f"opaque{number}") is RefusalCode.PROVIDER
    assert len(server.asked) == 1
    assert refusal(introspection, now=NOW + 2) is RefusalCode.PROVIDER
    assert len(server.asked) == 2


def test_introspection_logs_neither_tokens_nor_secrets(server: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    shown = endpoint(server)
    introspection = IntrospectionRouter([shown])
    with caplog.at_level(logging.DEBUG):
        for page in (answers(500, b"our secret"), b'{"opaque": ', providing.garbage):
            server.pages["/introspect"] = page
            assert refusal(introspection, "opaque-token") is RefusalCode.PROVIDER
        server.pages["/introspect"] = {"active": True, "sub": "alice"}
        shown_too = introspection.introspect("opaque-token", NOW)
    told = caplog.text + repr(shown) + repr(shown_too)
    assert "cannot introspect a token at `acme`" in told
    for secret in ("opaque-token", "our secret", "alice"):
        assert secret not in told


# ── Who is asked ──────────────────────────────────────────────────────────────────────────────


def test_an_opaque_token_is_sent_only_to_the_issuer_of_its_prefix(server: Faulty) -> None:
    seen: list[tuple[str, str]] = []

    def noting(request: Handling) -> None:
        seen.append((request.path, parse_qs(request.form)["token"][0]))
        request.answer(b'{"active": true}')

    server.pages.update(dict.fromkeys(("/a", "/ab", "/rest"), noting))
    paths = {"a_": "/a", "a_b_": "/ab", "": "/rest"}
    introspection = IntrospectionRouter(
        [endpoint(server, prefix=prefix, endpoint=server.url + path) for prefix, path in paths.items()]
    )
    for raw in ("a_1", "a_b_1", "c"):
        introspection.introspect(raw, NOW)
    assert seen == [("/a", "a_1"), ("/ab", "a_b_1"), ("/rest", "c")]
    assert refusal(IntrospectionRouter([endpoint(server, prefix="a_")]), "b_1") is RefusalCode.UNKNOWN_ISSUER
    assert refusal(IntrospectionRouter([]), "b_1") is RefusalCode.UNKNOWN_ISSUER


@pytest.mark.parametrize("raw", ["", "a b", "a\r\nb", "a&active=true", "=a", "ä", "a\x00"])
def test_a_malformed_opaque_token_is_not_introspected(raw: str, server: Faulty) -> None:
    assert refusal(IntrospectionRouter([endpoint(server)]), raw) is RefusalCode.NOT_A_TOKEN
    assert refusal(IntrospectionRouter([endpoint(server)]), "a" * 5_000) is RefusalCode.TOO_LARGE
    assert not server.asked


def test_two_introspecting_issuers_without_distinct_prefixes_are_rejected(server: Faulty) -> None:
    with pytest.raises(IdentityConfigError) as caught:
        IntrospectionRouter([endpoint(server), endpoint(server, issuer="other")])
    assert str(caught.value) == (
        "issuers `acme` and `other` both introspect the same opaque tokens"
        " (set `token_prefix` of each to the beginning of its tokens)"
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"client_secret": "env:BASIC"},
            "`issuers.acme.client_id` is missing (introspection requires client credentials",
        ),
        ({"client_id": "we"}, "`issuers.acme.client_secret` is missing"),
        ({"client_id": "we", "client_auth": "private_key_jwt"}, "`issuers.acme.client_key` is missing"),
        ({"introspection": "http://a.example/"}, "`issuers.acme.introspection`: the URL must begin with `https://`"),
    ],
)
def test_the_error_names_the_missing_introspection_setting(settings: dict[str, str], why: str) -> None:
    with pytest.raises(IdentityConfigError) as caught:
        asking(OpenIdProvider("https://a.example"), **settings)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize("text", ["", "secret", "{}", '{"kty": "oct", "k": "c2VjcmV0"}', "-----BEGIN X-----"])
def test_an_invalid_client_key_is_reported_without_quoting_it(text: str) -> None:
    with pytest.raises(IdentityConfigError) as caught:
        parse_assertion_key(text)
    assert str(caught.value) == "the key of a client is neither a private key in PEM nor a private JWK"
    public_only = json.dumps(key("ES256", 9).as_dict(private=False))
    with pytest.raises(IdentityConfigError):
        parse_assertion_key(public_only)


@pytest.mark.parametrize(
    "made",
    [
        OKPKey.generate_key("Ed448"),
        OKPKey.generate_key("X25519"),
        ECKey.generate_key("secp256k1"),
        ECKey.generate_key("P-256", {"use": "enc"}),
        ECKey.generate_key("P-256", {"alg": "ES384"}),
        ECKey.generate_key("P-256", {"alg": "none"}),
        ECKey.generate_key("P-256", {"alg": "HS256"}),
    ],
)
def test_a_key_that_cannot_sign_assertions_is_rejected_at_startup(made: ECKey | OKPKey) -> None:
    text = json.dumps(made.as_dict(private=True))
    with pytest.raises(IdentityConfigError, match="cannot sign assertions"):
        IntrospectionCredentials("we", "private_key_jwt", lambda: text).authenticated(
            {"token": "opaque"}, "https://acme", NOW
        )
    settings = {
        "introspection": "https://a/i",
        "client_id": "we",
        "client_auth": "private_key_jwt",
        "client_key": "env:K",
    }
    configuration = parse_identity_config({"issuers": {"acme": settings}})
    with pytest.raises(IdentityConfigError, match=r"`issuers\.acme\.client_key`: the key of a client cannot sign"):
        create_endpoints(configuration, [issuer("https://a")], lambda reference: lambda: text)


@pytest.mark.parametrize("kind", ["RS256", "ES256", "ES384", "EdDSA"])
def test_each_kind_of_private_key_is_read_from_jwk_and_pem(kind: str) -> None:
    for text in (json.dumps(private(kind)), key(kind).as_pem(private=True).decode()):
        assert parse_assertion_key(text).thumbprint() == key(kind).thumbprint()


def test_a_client_assertion_is_short_lived_unique_and_addressed_to_one_issuer() -> None:
    client = IntrospectionCredentials("we", "private_key_jwt", secret_of("env:KEY"))
    seen = set()
    for _ in range(2):
        body, headers = client.authenticated({"token": "opaque"}, "https://acme", NOW)
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        claims = jwt.decode(form["client_assertion"], key("ES256", 9), algorithms=["ES256"]).claims
        assert (claims["iss"], claims["sub"], claims["aud"], claims["exp"] - NOW) == ("we", "we", "https://acme", 60)
        seen.add(claims["jti"])
        assert headers == {}
    assert len(seen) == 2
