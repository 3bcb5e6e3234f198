"""How issuers are asked: over TLS, through a proxy, by which URLs, and as the configuration says."""

from __future__ import annotations

import json
import ssl
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from policyengine.http.fetch import Fetcher, FetchError, cache_lifetime, parse_fetch_url
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError, parse_identity_config
from policyengine.identity.http_fetch import create_fetcher
from policyengine.identity.keys.issuer_keys import KeySources, RemoteKeySource, UrlJwksLoader
from policyengine.identity.keys.jwks import JwksFile, KeySource
from policyengine.kernel import Issuer
from policyengine.runtime.credential_errors import RefusalCode
from tests.identity import providing
from tests.identity.finding import LONG, at_url, refusal
from tests.identity.keys import jwks, public
from tests.identity.providing import Faulty, faulty, issuer

# ── Over TLS ──────────────────────────────────────────────────────────────────────────────────


def over_tls(server: Faulty, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.pages["/jwks"] = jwks(public("ES256"))


def test_a_key_server_is_trusted_only_by_the_configured_certificates(
    certificate: tuple[Path, Path],
) -> None:
    with faulty() as secure:
        over_tls(secure, certificate)
        url = f"https://127.0.0.1:{secure.server_port}/jwks"
        trusting = create_fetcher(Path(certificate[0].name), False, IdentityConfig(folder=certificate[0].parent))
        assert RemoteKeySource("acme", UrlJwksLoader("acme", url, trusting), timeout=LONG).find("es256-1", "ES256", 0)
        with pytest.raises(FetchError, match="certificate verify failed"):
            Fetcher().get(url, monotonic() + LONG)
        elsewhere = url.replace("127.0.0.1", "localhost")
        with pytest.raises(FetchError, match="certificate verify failed"):
            trusting.get(elsewhere, monotonic() + LONG)


def test_an_invalid_ca_file_is_rejected_at_startup(tmp_path: Path) -> None:
    with pytest.raises(IdentityConfigError, match="no such file"):
        create_fetcher(Path("missing.pem"), False, IdentityConfig(folder=tmp_path))
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(IdentityConfigError, match="no PEM certificate"):
        create_fetcher(Path("none.pem"), False, IdentityConfig(folder=tmp_path))


def test_proxy_environment_variables_are_ignored(server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/jwks"] = jwks(public("ES256"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert at_url(server).find("es256-1", "ES256", 0)


def test_a_configured_proxy_tunnels_requests_to_remote_issuers(certificate: tuple[Path, Path]) -> None:
    """It sees names and what is enciphered, no more; TLS is with the issuer itself."""
    with faulty() as secure, providing.proxy(secure.server_port) as (url, asked):
        over_tls(secure, certificate)
        given = {"identity": {"proxy": url, "timeout": "20s"}, "issuers": {"acme": {"ca": certificate[0].name}}}
        configuration = parse_identity_config(given, certificate[0].parent)
        one = issuer("https://acme.example", keys="https://keys.acme.example/jwks")
        assert KeySources(configuration).of(one).find("es256-1", "ES256", 0)
        assert asked == ["CONNECT keys.acme.example:443 HTTP/1.1"]
        assert secure.asked == ["/jwks"]


def test_a_proxy_that_refuses_the_connection_makes_the_provider_unavailable(
    server: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    source = RemoteKeySource(
        "acme", UrlJwksLoader("acme", "https://keys.acme.example/jwks", Fetcher(proxy=server.url)), timeout=LONG
    )
    assert refusal(source) is RefusalCode.PROVIDER
    assert "the proxy refuses the connection" in caplog.text


@pytest.mark.parametrize(
    "proxy", ["https://proxy.example", "socks5://proxy.example", "http://user:secret@proxy.example"]
)
def test_an_invalid_proxy_url_is_rejected_without_its_secret(proxy: str) -> None:
    with pytest.raises(IdentityConfigError, match=r"^`identity.proxy`: ") as caught:
        KeySources(parse_identity_config({"identity": {"proxy": proxy}})).of(issuer("https://a"))
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
def test_an_unsafe_fetch_url_is_rejected(url: str) -> None:
    with pytest.raises(FetchError):
        parse_fetch_url(url)


@pytest.mark.parametrize("url", ["https://a", "http://localhost:1/x", "http://127.1.2.3/", "http://[::1]:8/?a=b"])
def test_an_https_or_loopback_fetch_url_is_accepted(url: str) -> None:
    assert parse_fetch_url(url).hostname


def test_plain_http_is_accepted_if_it_is_enabled() -> None:
    assert parse_fetch_url("http://keycloak:8080/realms/a", plain_http=True).port == 8080


@pytest.mark.parametrize(("said", "found"), [("max-age=1", 1), ("private", None), ('max-age="7"', 7), ("no-cache", 0)])
def test_the_cache_lifetime_is_read_from_cache_control(said: str, found: int | None) -> None:
    assert cache_lifetime(said) == found


def made(settings: dict[str, Any], one: Issuer, folder: Path = Path()) -> KeySource:
    configuration = parse_identity_config({"issuers": {"acme": settings}}, folder)
    return KeySources(configuration).of(one)


def test_settings_override_keys_in_the_policy_which_override_discovery(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(jwks(public("ES256"))))
    for settings, keys in (({"keys": "keys.json"}, "https://a/"), ({}, "file:keys.json"), ({}, "keys.json")):
        source = made(settings, issuer("https://a", keys=keys), tmp_path)
        assert isinstance(source, JwksFile)
        assert source.find("es256-1", "ES256", 0)
    assert isinstance(made({}, issuer("https://a", keys="https://a/jwks")), RemoteKeySource)
    assert isinstance(made({}, issuer("https://a")), RemoteKeySource)


def test_a_trust_domain_bundle_provides_only_keys_for_jwt_svids(tmp_path: Path) -> None:
    bundle = jwks(public("ES256", use="jwt-svid"), public("ES256", 2, use="x509-svid"))
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    source = made({"keys": "bundle.json"}, issuer("spiffe://acme.example"), tmp_path)
    assert source.find("es256-1", "ES256", 0)
    assert refusal(source, "es256-2") is RefusalCode.WRONG_KEY_USE
    assert refusal(made({"keys": "bundle.json"}, issuer("https://acme"), tmp_path)) is RefusalCode.WRONG_KEY_USE


@pytest.mark.parametrize(
    ("settings", "url", "keys", "why"),
    [
        ({}, None, None, "issuer `acme` has no `keys`, and none can be discovered (set `keys`)"),
        ({}, "spiffe://acme.example", None, "issuer `acme` has no `keys`, and none can be discovered"),
        ({}, "http://a.example", None, "`issuer acme: url`: the URL must begin with `https://` (`plain_http = true`"),
        ({"keys": "https://u:secret@a/"}, None, None, "`issuers.acme.keys`: the URL must have a host, and neither"),
        ({"ca": "missing.pem"}, "https://a", None, "the certificates of `missing.pem` cannot be used: no such file"),
    ],
)
def test_an_invalid_issuer_configuration_is_rejected_with_its_cause(
    settings: dict[str, Any], url: str | None, keys: str | None, why: str
) -> None:
    with pytest.raises(IdentityConfigError) as caught:
        made(settings, issuer(url, keys=keys))
    assert str(caught.value).startswith(why)
    assert "secret" not in str(caught.value)


def test_a_reloaded_policy_keeps_the_key_source_of_an_unchanged_issuer() -> None:
    sources = KeySources(IdentityConfig())
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
def test_the_error_names_the_issuer_setting_that_is_out_of_bounds(setting: str, value: object) -> None:
    with pytest.raises(IdentityConfigError, match=f"`identity.toml`: `issuers.acme.{setting}`(?:: | must be one of )"):
        parse_identity_config({"issuers": {"acme": {setting: value}}})


def test_the_plain_http_setting_allows_an_http_issuer() -> None:
    assert made({"plain_http": True}, issuer("http://keycloak:8080/realms/a"))
    assert IdentityConfig().identity.timeout == timedelta(seconds=2)
