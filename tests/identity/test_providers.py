"""Keys of issuers over HTTP: a real provider that rotates, and one that is down, slow, or answers what nobody wants."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jws import extract_compact

from policyengine.http.fetch import Fetcher
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.issuer_metadata import metadata_urls
from policyengine.identity.keys.issuer_keys import (
    DiscoveryJwksLoader,
    KeySources,
    RemoteKeySource,
    UrlJwksLoader,
)
from policyengine.identity.keys.jwks import JwkSet, KeySource
from policyengine.identity.single_flight import MAX_WAITERS
from policyengine.identity.verify.introspection import IntrospectionRouter, create_endpoints
from policyengine.identity.verify.tokens import TokenVerifier, TrustedIssuer
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from tests.identity import providing
from tests.identity.finding import LONG, SHORT, at_url, refusal
from tests.identity.keys import jwks, public
from tests.identity.providing import Faulty, Gate, OpenIdProvider, answers, issuer, kept_for
from tests.ports import free_port
from tests.processes import wait_until


def discovered(server: Faulty, timeout: float = LONG, **times: int) -> RemoteKeySource:
    return RemoteKeySource("acme", DiscoveryJwksLoader("acme", server.url, Fetcher()), timeout=timeout, **times)


# ── A real provider ───────────────────────────────────────────────────────────────────────────


def sources(provider: OpenIdProvider, **settings: Any) -> KeySource:
    configuration = parse_identity_config({"issuers": {"acme": settings}, "identity": {"timeout": "20s"}})
    return KeySources(configuration).of(issuer(provider.url))


def header_of(token: str) -> dict[str, Any]:
    return dict(extract_compact(token.encode()).headers())


def test_a_token_of_a_real_provider_verifies_with_the_discovered_key(provider: OpenIdProvider) -> None:
    token = provider.token("urn:api")
    header = header_of(token)
    (found,) = sources(provider).find(header["kid"], header["alg"], 0)
    claims = jwt.decode(token, found, algorithms=["ES256"]).claims
    assert (claims["iss"], claims["aud"], claims["tenant"]) == (provider.url, "urn:api", "t1")


def test_a_rotated_provider_key_is_fetched_immediately(provider: OpenIdProvider) -> None:
    source = sources(provider)
    before = header_of(provider.token("urn:api"))
    assert source.find(before["kid"], "ES256", 0)
    new = provider.rotate()
    after = provider.token("urn:api")
    assert header_of(after)["kid"] == new != before["kid"]
    (found,) = source.find(new, "ES256", 1)
    assert jwt.decode(after, found, algorithms=["ES256"]).claims["client_id"] == "svc"
    assert source.find(before["kid"], "ES256", 1), "what it signed before is valid still"


# ── Discovery ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "first", "second"),
    [
        ("https://a", "https://a/.well-known/openid-configuration", "https://a/.well-known/oauth-authorization-server"),
        (
            "https://a/",
            "https://a/.well-known/openid-configuration",
            "https://a/.well-known/oauth-authorization-server",
        ),
        (
            "https://a:8/t/1",
            "https://a:8/t/1/.well-known/openid-configuration",
            "https://a:8/.well-known/oauth-authorization-server/t/1",
        ),
    ],
)
def test_metadata_urls_follow_openid_and_oauth_rules(url: str, first: str, second: str) -> None:
    assert metadata_urls(url) == (first, second)


def test_discovery_falls_back_to_oauth_metadata(server: Faulty) -> None:
    url = server.url + "/tenant"
    server.pages["/.well-known/oauth-authorization-server/tenant"] = {"issuer": url, "jwks_uri": f"{server.url}/jwks"}
    server.pages["/jwks"] = jwks(public("ES256"))
    source = RemoteKeySource("acme", DiscoveryJwksLoader("acme", url, Fetcher()), timeout=LONG)
    assert source.find("es256-1", "ES256", 0)
    assert len(server.asked) == 3


def test_metadata_is_fetched_again_only_after_the_keys_fail(server: Faulty) -> None:
    server.metadata()
    server.pages["/jwks"] = jwks(public("ES256"))
    source = discovered(server, cache=10)
    assert source.find("es256-1", "ES256", 0)
    assert source.find("es256-1", "ES256", 10)
    assert [one for one in server.asked if "well-known" in one] == ["/.well-known/openid-configuration"]
    server.metadata(jwks_uri=f"{server.url}/moved")
    del server.pages["/jwks"]
    server.pages["/moved"] = jwks(public("ES256", 2))
    assert source.find("es256-1", "ES256", 20), "what was known counts"
    assert source.find("es256-2", "ES256", 30)


# ── What is kept ──────────────────────────────────────────────────────────────────────────────


def test_keys_are_fetched_again_only_after_the_cache_expires(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=300)
    for now in (0, 100, 239):
        assert source.find("es256-1", "ES256", now)
    assert len(server.asked) == 1
    server.pages["/jwks"] = jwks(public("ES256", 2))
    assert source.find("es256-2", "ES256", 300)
    assert refusal(source, "es256-1", 300) is RefusalCode.UNKNOWN_KEY


def test_keys_are_refreshed_in_the_background_before_the_cache_expires(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=100)
    assert source.find("es256-1", "ES256", 0)
    gate = Gate(jwks(public("ES256"), public("ES256", 2)))
    server.pages["/jwks"] = gate
    for now in (80, 81, 82):
        assert source.find("es256-1", "ES256", now), "though the answer is not there yet"
    assert gate.reached.wait(LONG)
    gate.opened.set()
    wait_until(lambda: not source.busy)
    assert source.find("es256-2", "ES256", 159)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("max-age=600", 600),
        ("public, Max-Age=600, immutable", 600),
        ("max-age=5", 60),
        ("no-store", 60),
        ("max-age=600, no-cache", 60),
        ("max-age=99999999999999999999", 3_600),
        ("max-age=-1", 300),
        ("s-maxage=10", 300),
        ("", 300),
    ],
)
def test_cache_control_of_the_issuer_sets_the_key_cache_within_bounds(said: str, kept: int, server: Faulty) -> None:
    server.pages["/jwks"] = kept_for(jwks(public("ES256")), said)
    source = at_url(server, cache=300)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"] = jwks()
    early = int(kept * 0.8) - 1
    assert source.find("es256-1", "ES256", early)
    assert len(server.asked) == 1
    assert refusal(source, "es256-1", kept) is RefusalCode.UNKNOWN_KEY


def test_a_withdrawn_key_is_unknown_after_the_next_fetch(server: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    server.pages["/jwks"] = jwks(public("ES256"), public("ES256", 2))
    source = at_url(server, cache=100, stale=1_000)
    assert source.find("es256-2", "ES256", 0)
    server.pages["/jwks"] = jwks()
    assert refusal(source, "es256-2", 100) is RefusalCode.UNKNOWN_KEY, "an empty set is an answer too"
    assert "no usable key" in caplog.text


def test_a_clock_set_back_does_not_extend_the_key_cache(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert source.find("es256-1", "ES256", 10_000)
    assert source.find("es256-1", "ES256", 9_999)
    assert len(server.asked) == 1
    assert source.find("es256-1", "ES256", 5_000)
    assert len(server.asked) == 2


# ── Key ids that are not known ────────────────────────────────────────────────────────────────


def test_a_flood_of_unknown_key_ids_fetches_keys_at_a_bounded_rate(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=3_600)
    assert source.find("es256-1", "ES256", 0)
    for number in range(3_000):
        assert refusal(source, f"made up {number}", number // 100) is RefusalCode.UNKNOWN_KEY
        assert source.find("es256-1", "ES256", number // 100)
    assert len(server.asked) == 1 + 3, "once in ten seconds"


def test_a_new_key_is_found_after_made_up_key_ids(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert refusal(source, "made up", 0) is RefusalCode.UNKNOWN_KEY
    server.pages["/jwks"] = jwks(public("ES256"), public("ES256", 2))
    assert source.find("es256-2", "ES256", 1), "the first answer was no request because of a key id"
    server.pages["/jwks"] = jwks(public("ES256", 3))
    assert refusal(source, "es256-3", 10) is RefusalCode.UNKNOWN_KEY
    assert source.find("es256-3", "ES256", 11)


def test_an_unknown_key_id_is_refused_as_provider_error_while_the_issuer_is_down(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"] = answers(503)
    assert refusal(source, "new", 1) is RefusalCode.PROVIDER
    assert refusal(source, "new", 2) is RefusalCode.UNKNOWN_KEY
    assert source.find("es256-1", "ES256", 2), "what is known counts"


def test_concurrent_lookups_of_a_new_key_share_one_fetch(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert source.find("es256-1", "ES256", 0)
    gate = Gate(jwks(public("ES256"), public("ES256", 2)))
    server.pages["/jwks"] = gate
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(source.find, "es256-2", "ES256", 1)
        assert gate.reached.wait(LONG)
        second = threads.submit(source.find, "es256-2", "ES256", 1)
        wait_until(lambda: second.done() or source._flights._waiting == 2)
        gate.opened.set()
        assert first.result() == second.result()
    assert len(server.asked) == 2


def test_an_unknown_key_id_triggers_no_fetch_just_after_a_failed_one(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=100)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"] = answers(503)
    assert source.find("es256-1", "ES256", 80)
    wait_until(lambda: len(server.asked) == 2 and not source.busy)
    assert refusal(source, "new", 81) is RefusalCode.PROVIDER
    assert len(server.asked) == 2


# ── Who does not answer ───────────────────────────────────────────────────────────────────────

BAD: dict[str, providing.Page] = {
    "hangs": providing.hangs,
    "drips its headers": providing.drips_headers,
    "drips its body": providing.drips_body,
    "ends too early": providing.ends_early,
    "says garbage": providing.garbage,
    "is too large": providing.oversized,
    "never ends": providing.endless,
    "is compressed": providing.compressed,
    "is no JSON": b"<html>Sign in</html>",
    "is no JWKS": {"error": "temporarily_unavailable"},
    "is an error": answers(500),
    "is not there": answers(404),
    "is no content": answers(204, b""),
    "redirects": providing.redirects_to("/elsewhere"),
}


@pytest.mark.parametrize("page", BAD.values(), ids=BAD)
def test_known_keys_survive_bad_responses_until_stale_and_unknown_keys_are_refused_in_time(
    page: providing.Page, server: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    server.pages["/elsewhere"] = server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=100, stale=1_000)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"], source.timeout = page, SHORT
    begun = monotonic()
    for now in (100, 101, 500, 1_099):
        assert source.find("es256-1", "ES256", now)
    assert refusal(source, now=1_100) is RefusalCode.PROVIDER
    assert monotonic() - begun < LONG, "each of them waits for its own deadline at most"
    assert refusal(at_url(server, SHORT), now=0) is RefusalCode.PROVIDER, "and what was not known is refused"
    wait_until(lambda: "the keys of `acme` cannot be read: " in caplog.text)
    assert "/elsewhere" not in server.asked


def test_an_unreachable_key_server_is_not_contacted_again_for_a_short_time(server: Faulty) -> None:
    server.pages["/jwks"] = answers(503)
    source = at_url(server)
    for _ in range(50):
        assert refusal(source, now=0) is RefusalCode.PROVIDER
    assert len(server.asked) == 1
    server.pages["/jwks"] = jwks(public("ES256"))
    assert refusal(source, now=4) is RefusalCode.PROVIDER
    assert source.find("es256-1", "ES256", 5)


def test_only_the_first_lookup_waits_if_a_fetch_overruns_its_deadline() -> None:
    """A name service that hangs is in nobody's hand."""
    ends = threading.Event()

    def load(until: float) -> tuple[JwkSet, int | None]:
        ends.wait(LONG)
        return JwkSet(()), None

    source = RemoteKeySource("acme", load, timeout=SHORT)
    assert refusal(source, now=0) is RefusalCode.PROVIDER
    source.timeout, begun = LONG, monotonic()
    for now in range(5):
        assert refusal(source, now=now) is RefusalCode.PROVIDER
    assert monotonic() - begun < LONG
    ends.set()


def test_a_refused_connection_makes_the_provider_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{free_port()}/jwks"
    source = RemoteKeySource("acme", UrlJwksLoader("acme", url, Fetcher()), timeout=LONG)
    assert refusal(source) is RefusalCode.PROVIDER
    assert "the keys of `acme` cannot be read: the server cannot be reached: connection refused" in caplog.text


def test_concurrent_lookups_share_one_fetch_and_waiters_are_bounded(server: Faulty) -> None:
    gate = Gate(jwks(public("ES256")))
    server.pages["/jwks"] = gate
    source = at_url(server)

    def ask(_: int) -> RefusalCode | None:
        try:
            source.find("es256-1", "ES256", 0)
        except CredentialError as refused:
            return refused.refusal
        return None

    with ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(ask, number) for number in range(40)]
        wait_until(lambda: sum(one.done() for one in asked) == 40 - MAX_WAITERS)
        assert {one.result() for one in asked if one.done()} == {RefusalCode.PROVIDER}, (
            "those for whom there is no room"
        )
        gate.opened.set()
    assert sorted(str(one.result()) for one in asked) == ["None"] * MAX_WAITERS + ["provider"] * (40 - MAX_WAITERS)
    assert len(server.asked) == 1


def test_a_hanging_issuer_does_not_delay_lookups_at_another_issuer(server: Faulty) -> None:
    server.pages["/slow"], server.pages["/jwks"] = providing.hangs, jwks(public("ES256"))
    slow, quick = at_url(server, path="/slow"), at_url(server)
    with ThreadPoolExecutor(MAX_WAITERS) as threads:
        waiting = [threads.submit(slow.find, "es256-1", "ES256", 0) for _ in range(MAX_WAITERS)]
        wait_until(lambda: "/slow" in server.asked)
        for now in range(0, 3_000, 100):
            assert quick.find("es256-1", "ES256", now)
        assert not any(one.done() for one in waiting), "all of that while they wait"
        server.ends.set()
        assert {type(one.exception()) for one in waiting} == {CredentialError}


def test_a_fetch_replaces_the_key_set_as_a_whole(server: Faulty) -> None:
    """Each answer is whole: the keys of one moment or of another."""
    server.pages["/jwks"] = jwks(public("ES256"), public("ES256", 2))
    source = at_url(server, cache=100)
    assert source.find("es256-1", "ES256", 0)
    gate = Gate(jwks(public("ES256", 2), public("ES256", 3)))
    server.pages["/jwks"] = gate
    with ThreadPoolExecutor(1) as threads:
        new = threads.submit(source.find, "es256-3", "ES256", 1)
        assert gate.reached.wait(LONG)
        assert source.find("es256-1", "ES256", 1), "as long as nothing else is known"
        gate.opened.set()
        assert new.result()
    assert refusal(source, "es256-1", 2) is RefusalCode.UNKNOWN_KEY
    assert source.find("es256-2", "ES256", 2)


# ── All together ──────────────────────────────────────────────────────────────────────────────


def test_a_token_verifier_accepts_jwt_and_opaque_tokens_of_a_real_provider(
    provider: OpenIdProvider,
) -> None:
    given = {
        "introspection": f"{provider.url}/token/introspection",
        "client_id": "post",
        "client_auth": "client_secret_post",
        "client_secret": "env:POST",
    }
    configuration = parse_identity_config({"issuers": {"acme": given}, "identity": {"timeout": "20s"}})
    api, opaque = issuer(provider.url, audience="urn:api"), issuer(provider.url, audience="urn:opaque")
    asked = IntrospectionRouter(create_endpoints(configuration, [opaque], lambda reference: lambda: "secret of post"))
    trusted = TrustedIssuer("acme", "urn:api", None, configuration.issuers["acme"], KeySources(configuration).of(api))
    verifier = TokenVerifier({provider.url: trusted}, asked)
    now = int(time())
    signed, told = (verifier.verify(provider.token(resource), now) for resource in ("urn:api", "urn:opaque"))
    assert (signed.kind, told.kind) == ("jwt", "opaque")
    assert signed.claims["client_id"] == told.claims["client_id"] == "svc"
