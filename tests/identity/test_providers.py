"""Keys of issuers over HTTP: a real provider that rotates, and one that is down, slow, or answers what nobody wants."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jws import extract_compact

from policyengine.identity.configuration import Configuration, IdentityError, configuration_of
from policyengine.identity.fetching import Fetcher, FetchError, fetcher_of, fresh_for, url_of
from policyengine.identity.flights import MOST_WAITING
from policyengine.identity.keysets import FileKeys, Keys, KeySource
from policyengine.identity.providers import AtUrl, Discovered, KeySources, RemoteKeys, metadata_urls
from policyengine.runtime.refusals import Refusal, Refused
from policyengine.semantics.kernel import Issuer
from tests.identity import providing
from tests.identity.keys import jwks, public
from tests.identity.providing import Faulty, Gate, OpenIdProvider, answers, faulty, issuer, kept_for

SHORT = 0.1  # seconds, where there will be no answer
LONG = 20.0  # where there will


def discovered(server: Faulty, timeout: float = LONG, **times: int) -> RemoteKeys:
    return RemoteKeys("acme", Discovered("acme", server.url, Fetcher()), timeout=timeout, **times)


def at_url(server: Faulty, timeout: float = LONG, path: str = "/jwks", **times: int) -> RemoteKeys:
    return RemoteKeys("acme", AtUrl("acme", server.url + path, Fetcher()), timeout=timeout, **times)


def refusal(source: KeySource, kid: str | None = "es256-1", now: int = 0) -> Refusal:
    with pytest.raises(Refused) as caught:
        source.find(kid, "ES256", now)
    return caught.value.refusal


def wait_for(done: Callable[[], object]) -> None:
    until = monotonic() + LONG
    while not done():
        assert monotonic() < until, "it took too long"


# ── A real provider ───────────────────────────────────────────────────────────────────────────


def sources(provider: OpenIdProvider, **settings: Any) -> KeySource:
    configuration = configuration_of({"issuers": {"acme": settings}, "identity": {"timeout": "20s"}})
    return KeySources(configuration).of(issuer(provider.url))


def header_of(token: str) -> dict[str, Any]:
    return dict(extract_compact(token.encode()).headers())


def test_a_token_of_a_real_provider_is_verified_by_the_key_that_is_found(provider: OpenIdProvider) -> None:
    token = provider.token("urn:api")
    header = header_of(token)
    (found,) = sources(provider).find(header["kid"], header["alg"], 0)
    claims = jwt.decode(token, found, algorithms=["ES256"]).claims
    assert (claims["iss"], claims["aud"], claims["tenant"]) == (provider.url, "urn:api", "t1")


def test_a_provider_that_rotates_its_keys_is_asked_for_the_new_one_at_once(provider: OpenIdProvider) -> None:
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
def test_metadata_lie_behind_the_path_or_in_front_of_it(url: str, first: str, second: str) -> None:
    assert metadata_urls(url) == (first, second)


def test_where_there_is_no_openid_the_metadata_of_oauth_are_read(server: Faulty) -> None:
    url = server.url + "/tenant"
    server.pages["/.well-known/oauth-authorization-server/tenant"] = {"issuer": url, "jwks_uri": f"{server.url}/jwks"}
    server.pages["/jwks"] = jwks(public("ES256"))
    source = RemoteKeys("acme", Discovered("acme", url, Fetcher()), timeout=LONG)
    assert source.find("es256-1", "ES256", 0)
    assert len(server.asked) == 3


def test_metadata_are_read_once_until_keys_cannot_be(server: Faulty) -> None:
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


def test_keys_are_asked_for_once_until_they_end(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=300)
    for now in (0, 100, 239):
        assert source.find("es256-1", "ES256", now)
    assert len(server.asked) == 1
    server.pages["/jwks"] = jwks(public("ES256", 2))
    assert source.find("es256-2", "ES256", 300)
    assert refusal(source, "es256-1", 300) is Refusal.UNKNOWN_KEY


def test_keys_are_renewed_before_they_end_and_nobody_waits_for_that(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=100)
    assert source.find("es256-1", "ES256", 0)
    gate = Gate(jwks(public("ES256"), public("ES256", 2)))
    server.pages["/jwks"] = gate
    for now in (80, 81, 82):
        assert source.find("es256-1", "ES256", now), "though the answer is not there yet"
    assert gate.reached.wait(LONG)
    gate.opened.set()
    wait_for(lambda: not source.busy)
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
def test_the_issuer_says_how_long_within_bounds(said: str, kept: int, server: Faulty) -> None:
    server.pages["/jwks"] = kept_for(jwks(public("ES256")), said)
    source = at_url(server, cache=300)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"] = jwks()
    early = int(kept * 0.8) - 1
    assert source.find("es256-1", "ES256", early)
    assert len(server.asked) == 1
    assert refusal(source, "es256-1", kept) is Refusal.UNKNOWN_KEY


def test_what_is_taken_back_is_gone_with_the_next_answer(server: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    server.pages["/jwks"] = jwks(public("ES256"), public("ES256", 2))
    source = at_url(server, cache=100, stale=1_000)
    assert source.find("es256-2", "ES256", 0)
    server.pages["/jwks"] = jwks()
    assert refusal(source, "es256-2", 100) is Refusal.UNKNOWN_KEY, "an empty set is an answer too"
    assert "no key that could be used" in caplog.text


def test_a_clock_that_goes_back_keeps_no_key_for_longer(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert source.find("es256-1", "ES256", 10_000)
    assert source.find("es256-1", "ES256", 9_999)
    assert len(server.asked) == 1
    assert source.find("es256-1", "ES256", 5_000)
    assert len(server.asked) == 2


def test_keys_can_be_asked_for_before_somebody_needs_them(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    source.warm(0)
    wait_for(lambda: server.asked and not source.busy)
    assert source.find("es256-1", "ES256", 0)
    assert len(server.asked) == 1


# ── Key ids that are not known ────────────────────────────────────────────────────────────────


def test_a_flood_of_unknown_key_ids_asks_the_issuer_at_a_bounded_rate(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=3_600)
    assert source.find("es256-1", "ES256", 0)
    for number in range(3_000):
        assert refusal(source, f"made up {number}", number // 100) is Refusal.UNKNOWN_KEY
        assert source.find("es256-1", "ES256", number // 100)
    assert len(server.asked) == 1 + 3, "once in ten seconds"


def test_a_key_that_is_new_is_found_though_others_were_made_up_before(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert refusal(source, "made up", 0) is Refusal.UNKNOWN_KEY
    server.pages["/jwks"] = jwks(public("ES256"), public("ES256", 2))
    assert source.find("es256-2", "ES256", 1), "the first answer was no request because of a key id"
    server.pages["/jwks"] = jwks(public("ES256", 3))
    assert refusal(source, "es256-3", 10) is Refusal.UNKNOWN_KEY
    assert source.find("es256-3", "ES256", 11)


def test_an_unknown_key_id_while_the_issuer_is_down_is_refused_for_that(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"] = answers(503)
    assert refusal(source, "new", 1) is Refusal.PROVIDER
    assert refusal(source, "new", 2) is Refusal.UNKNOWN_KEY
    assert source.find("es256-1", "ES256", 2), "what is known counts"


def test_whoever_comes_while_the_issuer_is_asked_for_a_new_key_gets_it_too(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server)
    assert source.find("es256-1", "ES256", 0)
    gate = Gate(jwks(public("ES256"), public("ES256", 2)))
    server.pages["/jwks"] = gate
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(source.find, "es256-2", "ES256", 1)
        assert gate.reached.wait(LONG)
        second = threads.submit(source.find, "es256-2", "ES256", 1)
        wait_for(lambda: second.done() or source._flights._waiting == 2)
        gate.opened.set()
        assert first.result() == second.result()
    assert len(server.asked) == 2


def test_a_key_id_is_not_asked_for_just_after_the_issuer_did_not_answer(server: Faulty) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=100)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"] = answers(503)
    assert source.find("es256-1", "ES256", 80)
    wait_for(lambda: len(server.asked) == 2 and not source.busy)
    assert refusal(source, "new", 81) is Refusal.PROVIDER
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
def test_an_answer_that_is_none_is_a_refusal_in_time_and_what_was_known_counts_for_a_while(
    page: providing.Page, server: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    server.pages["/elsewhere"] = server.pages["/jwks"] = jwks(public("ES256"))
    source = at_url(server, cache=100, stale=1_000)
    assert source.find("es256-1", "ES256", 0)
    server.pages["/jwks"], source.timeout = page, SHORT
    begun = monotonic()
    for now in (100, 101, 500, 1_099):
        assert source.find("es256-1", "ES256", now)
    assert refusal(source, now=1_100) is Refusal.PROVIDER
    assert monotonic() - begun < LONG, "each of them waits for its own deadline at most"
    assert refusal(at_url(server, SHORT), now=0) is Refusal.PROVIDER, "and what was not known is refused"
    wait_for(lambda: "the keys of `acme` cannot be read: " in caplog.text)
    assert "/elsewhere" not in server.asked


def test_one_that_was_not_reached_is_left_alone_for_a_moment(server: Faulty) -> None:
    server.pages["/jwks"] = answers(503)
    source = at_url(server)
    for _ in range(50):
        assert refusal(source, now=0) is Refusal.PROVIDER
    assert len(server.asked) == 1
    server.pages["/jwks"] = jwks(public("ES256"))
    assert refusal(source, now=4) is Refusal.PROVIDER
    assert source.find("es256-1", "ES256", 5)


def test_where_not_even_the_deadline_is_kept_only_the_first_waits() -> None:
    """A name service that hangs is in nobody's hand."""
    ends = threading.Event()

    def load(until: float) -> tuple[Keys, int | None]:
        ends.wait(LONG)
        return Keys(()), None

    source = RemoteKeys("acme", load, timeout=SHORT)
    assert refusal(source, now=0) is Refusal.PROVIDER
    source.timeout, begun = LONG, monotonic()
    for now in range(5):
        assert refusal(source, now=now) is Refusal.PROVIDER
    assert monotonic() - begun < LONG
    ends.set()


def test_a_port_where_nobody_listens_is_a_provider_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    source = RemoteKeys("acme", AtUrl("acme", f"http://127.0.0.1:{port}/jwks", Fetcher()), timeout=LONG)
    assert refusal(source) is Refusal.PROVIDER
    assert "the keys of `acme` cannot be read: it cannot be reached: connection refused" in caplog.text


def test_many_who_need_keys_at_once_ask_once_and_few_wait(server: Faulty) -> None:
    gate = Gate(jwks(public("ES256")))
    server.pages["/jwks"] = gate
    source = at_url(server)

    def ask(_: int) -> Refusal | None:
        try:
            source.find("es256-1", "ES256", 0)
        except Refused as refused:
            return refused.refusal
        return None

    with ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(ask, number) for number in range(40)]
        wait_for(lambda: sum(one.done() for one in asked) == 40 - MOST_WAITING)
        assert {one.result() for one in asked if one.done()} == {Refusal.PROVIDER}, "those for whom there is no room"
        gate.opened.set()
    assert sorted(str(one.result()) for one in asked) == ["None"] * MOST_WAITING + ["provider"] * (40 - MOST_WAITING)
    assert len(server.asked) == 1


def test_an_issuer_that_hangs_delays_nobody_who_asks_another_one(server: Faulty) -> None:
    server.pages["/slow"], server.pages["/jwks"] = providing.hangs, jwks(public("ES256"))
    slow, quick = at_url(server, path="/slow"), at_url(server)
    with ThreadPoolExecutor(MOST_WAITING) as threads:
        waiting = [threads.submit(slow.find, "es256-1", "ES256", 0) for _ in range(MOST_WAITING)]
        wait_for(lambda: "/slow" in server.asked)
        for now in range(0, 3_000, 100):
            assert quick.find("es256-1", "ES256", now)
        assert not any(one.done() for one in waiting), "all of that while they wait"
        server.ends.set()
        assert {type(one.exception()) for one in waiting} == {Refused}


def test_keys_that_rotate_while_they_are_read_are_never_mixed(server: Faulty) -> None:
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
    assert refusal(source, "es256-1", 2) is Refusal.UNKNOWN_KEY
    assert source.find("es256-2", "ES256", 2)


# ── Over TLS ──────────────────────────────────────────────────────────────────────────────────


def over_tls(server: Faulty, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.pages["/jwks"] = jwks(public("ES256"))


def test_a_server_is_trusted_by_the_certificates_that_are_configured(
    certificate: tuple[Path, Path],
) -> None:
    with faulty() as secure:
        over_tls(secure, certificate)
        url = f"https://127.0.0.1:{secure.server_port}/jwks"
        trusting = fetcher_of(Path(certificate[0].name), False, Configuration(folder=certificate[0].parent))
        assert RemoteKeys("acme", AtUrl("acme", url, trusting), timeout=LONG).find("es256-1", "ES256", 0)
        with pytest.raises(FetchError, match="certificate verify failed"):
            Fetcher().get(url, monotonic() + LONG)
        elsewhere = url.replace("127.0.0.1", "localhost")
        with pytest.raises(FetchError, match="certificate verify failed"):
            trusting.get(elsewhere, monotonic() + LONG)


def test_certificates_that_are_none_are_told_of_at_once(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no such file"):
        fetcher_of(Path("missing.pem"), False, Configuration(folder=tmp_path))
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(IdentityError, match="no certificate in PEM"):
        fetcher_of(Path("none.pem"), False, Configuration(folder=tmp_path))


def test_no_proxy_of_the_environment_is_asked(server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert at_url(server).find("es256-1", "ES256", 0)


def test_a_proxy_that_is_configured_is_asked_for_whoever_is_elsewhere(certificate: tuple[Path, Path]) -> None:
    """It sees names and what is enciphered, no more; TLS is with the issuer itself."""
    with faulty() as secure, providing.proxy(secure.server_port) as (url, asked):
        over_tls(secure, certificate)
        given = {"identity": {"proxy": url, "timeout": "20s"}, "issuers": {"acme": {"ca": certificate[0].name}}}
        configuration = configuration_of(given, certificate[0].parent)
        one = issuer("https://acme.example", keys="https://keys.acme.example/jwks")
        assert KeySources(configuration).of(one).find("es256-1", "ES256", 0)
        assert asked == ["CONNECT keys.acme.example:443 HTTP/1.1"]
        assert secure.asked == ["/jwks"]


def test_a_proxy_that_lets_nobody_through_is_a_provider_that_is_down(
    server: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    source = RemoteKeys(
        "acme", AtUrl("acme", "https://keys.acme.example/jwks", Fetcher(proxy=server.url)), timeout=LONG
    )
    assert refusal(source) is Refusal.PROVIDER
    assert "the proxy does not let us through" in caplog.text


@pytest.mark.parametrize(
    "proxy", ["https://proxy.example", "socks5://proxy.example", "http://user:secret@proxy.example"]
)
def test_what_is_no_proxy_is_told_at_once(proxy: str) -> None:
    with pytest.raises(IdentityError, match=r"^`identity.proxy`: ") as caught:
        KeySources(configuration_of({"identity": {"proxy": proxy}})).of(issuer("https://a"))
    assert "secret" not in str(caught.value)


# ── URLs and the configuration ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example/jwks",
        "http://localhost.example/jwks",
        "http://127.0.0.1.example/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https://user:password@a/",
        "https://a@b/",
        "https://a/#there",
        "https://a/ b",
        "https://a/\r\nHost: b",
        "https://a:99999/",
        "https://[::1/",
        "https://ä.example/",
        "https://a\\b/",
        "https://a/" + "a" * 3_000,
        "//a/b",
        "a",
        "",
    ],
)
def test_what_is_not_asked(url: str) -> None:
    with pytest.raises(FetchError):
        url_of(url)


@pytest.mark.parametrize("url", ["https://a", "http://localhost:1/x", "http://127.1.2.3/", "http://[::1]:8/?a=b"])
def test_what_is_asked(url: str) -> None:
    assert url_of(url).hostname


def test_plain_http_is_asked_where_that_is_wanted() -> None:
    assert url_of("http://keycloak:8080/realms/a", plain_http=True).port == 8080


@pytest.mark.parametrize(("said", "found"), [("max-age=1", 1), ("private", None), ('max-age="7"', 7), ("no-cache", 0)])
def test_what_cache_control_says(said: str, found: int | None) -> None:
    assert fresh_for(said) == found


def made(settings: dict[str, Any], one: Issuer, folder: Path = Path()) -> KeySource:
    configuration = configuration_of({"issuers": {"acme": settings}}, folder)
    return KeySources(configuration).of(one)


def test_the_settings_go_before_the_policy_and_both_before_discovery(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(jwks(public("ES256"))))
    for settings, keys in (({"keys": "keys.json"}, "https://a/"), ({}, "file:keys.json"), ({}, "keys.json")):
        source = made(settings, issuer("https://a", keys=keys), tmp_path)
        assert isinstance(source, FileKeys)
        assert source.find("es256-1", "ES256", 0)
    assert isinstance(made({}, issuer("https://a", keys="https://a/jwks")), RemoteKeys)
    assert isinstance(made({}, issuer("https://a")), RemoteKeys)


def test_the_bundle_of_a_trust_domain_has_keys_of_a_use_of_its_own(tmp_path: Path) -> None:
    bundle = jwks(public("ES256", use="jwt-svid"), public("ES256", 2, use="x509-svid"))
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    source = made({"keys": "bundle.json"}, issuer("spiffe://acme.example"), tmp_path)
    assert source.find("es256-1", "ES256", 0)
    assert refusal(source, "es256-2") is Refusal.WRONG_KEY_USE
    assert refusal(made({"keys": "bundle.json"}, issuer("https://acme"), tmp_path)) is Refusal.WRONG_KEY_USE


@pytest.mark.parametrize(
    ("settings", "url", "keys", "why"),
    [
        ({}, None, None, "issuer `acme` has no `keys`, and none can be discovered (say where they are)"),
        ({}, "spiffe://acme.example", None, "issuer `acme` has no `keys`, and none can be discovered"),
        ({}, "http://a.example", None, "`issuer acme: url`: it is not asked over `https://` (`plain_http = true`"),
        ({"keys": "https://u:secret@a/"}, None, None, "`issuers.acme.keys`: its URL has no host, or a user or a"),
        ({"ca": "missing.pem"}, "https://a", None, "the certificates of `missing.pem` cannot be used: no such file"),
    ],
)
def test_what_cannot_be_set_up_is_said(settings: dict[str, Any], url: str | None, keys: str | None, why: str) -> None:
    with pytest.raises(IdentityError) as caught:
        made(settings, issuer(url, keys=keys))
    assert str(caught.value).startswith(why)
    assert "secret" not in str(caught.value)


def test_for_other_policies_what_is_known_of_an_issuer_stays_if_it_is_the_same() -> None:
    sources = KeySources(Configuration())
    known = sources.of(issuer("https://a"))
    assert sources.of(issuer("https://a", audience="another")) is known
    assert sources.of(issuer("https://b")) is not known
    assert sources.of(issuer("https://a", keys="https://a/other")) is not known


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cache", "1s"),
        ("cache", "2d"),
        ("stale", "8d"),
        ("introspection_cache", "1ms"),
        ("introspection_cache", "11m"),
        ("client_auth", "none"),
        ("cache", 300),
    ],
)
def test_a_setting_that_is_out_of_bounds_is_named(setting: str, value: object) -> None:
    with pytest.raises(IdentityError, match=f"`identity.toml`: `issuers.acme.{setting}`: "):
        configuration_of({"issuers": {"acme": {setting: value}}})


def test_plain_http_is_a_setting() -> None:
    assert made({"plain_http": True}, issuer("http://keycloak:8080/realms/a"))
    assert Configuration().identity.timeout == timedelta(seconds=2)
