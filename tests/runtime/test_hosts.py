"""Names that a listener without a token answers to, and pages that it does not answer."""

from __future__ import annotations

import pytest

from policyengine.http.host_check import (
    AllowedHostError,
    AllowedHosts,
    gateway_refusal,
    parse_allowed_host,
    url_host_names,
)

LOCAL = AllowedHosts()
NAMED = AllowedHosts.of(["pdp.example", "*.sites.example", "10.0.0.5", "fd00::0:1"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:8080", "localhost.", "localhost.:80", "127.0.0.1", "127.0.0.1:8080", "127.255.255.254",
        "[::1]", "[::1]:65535",
    ],
)  # fmt: skip
def test_loopback_hosts_are_accepted(host: str) -> None:
    assert LOCAL.answers(host.encode())
    assert LOCAL.at_once({b"host": host.encode()})
    assert LOCAL.refusal("POST", [(b"host", host.encode())]) is None


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "rebound.example", "localhost.example", "xlocalhost", "a.localhost", "localhost:", "localhost:123456",
        "localhost:80:80", "localhost/", "localhost@evil.example", "evil.example#localhost", "localhost..",
        "localhost,x",
        "127.0.0.1.evil.example", "127.0.0.256", "127.0.0.01", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0",
        "128.0.0.1", "[::1%lo]", "[::1%25lo]", "::1", "[::2]", "[::ffff:127.0.0.1]", "[::1", "[::1].evil.example",
        "lоcalhost", "localhost\0", "localhost\n", "10.0.0.5", "pdp.example",
    ],
)  # fmt: skip
def test_every_other_host_is_refused(host: str) -> None:
    assert not LOCAL.answers(host.encode())
    assert not LOCAL.at_once({b"host": host.encode()})
    refused = LOCAL.refusal("GET", [(b"host", host.encode())])
    assert refused is not None
    assert refused.header == "host"


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("pdp.example", True), ("PDP.example:443", True), ("pdp.example.", True), ("a.pdp.example", False),
        ("a.sites.example", True), ("a.b.sites.example:1", True), ("sites.example", False), ("asites.example", False),
        ("10.0.0.5:9", True), ("10.0.0.6", False), ("[fd00::1]", True), ("[fd00:0::1]:80", False), ("fd00::1", False),
        ("localhost", True), ("pdp.example\0", False),
    ],
)  # fmt: skip
def test_an_allowed_host_is_accepted_and_a_similar_one_is_refused(host: str, answered: bool) -> None:
    assert NAMED.answers(host.encode()) is answered
    assert NAMED.at_once({b"host": host.encode()}) is answered


def test_a_star_accepts_every_host() -> None:
    assert AllowedHosts.of(["*"]).answers(b"rebound.example")


@pytest.mark.parametrize(
    ("host", "own", "answered"),
    [
        ("10.1.2.3:9090", "10.1.2.3", True), ("10.1.2.4:9090", "10.1.2.3", False), ("[fd00::5]:1", "fd00::5", True),
        ("10.1.2.3", None, False), ("gateway.example", "gateway.example", False),
        ("10.1.2.3.nip.io", "10.1.2.3", False),
        ("0.0.0.0", "10.1.2.3", False), ("10.1.2.3", "/run/policy.sock", False),
    ],
)  # fmt: skip
def test_the_ip_address_of_the_listener_is_accepted_as_a_host(host: str, own: str | None, answered: bool) -> None:
    assert LOCAL.answers(host.encode(), own) is answered


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]])
def test_a_request_without_exactly_one_host_is_refused(hosts: list[bytes]) -> None:
    refused = LOCAL.refusal("GET", [(b"host", one) for one in hosts])
    assert refused is not None
    assert "Host" in refused.message


# ── Pages ─────────────────────────────────────────────────────────────────────────────────────

NAVIGATION = ("sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: document")


def asked(method: str, *lines: str, host: str = "127.0.0.1:8080", allowed: AllowedHosts = NAMED) -> str | None:
    """The header for which it is refused."""
    pairs = [line.partition(": ") for line in (f"host: {host}", *lines)]
    found = allowed.refusal(method, [(name.encode(), value.encode()) for name, _, value in pairs])
    return None if found is None else found.header


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("origin: http://127.0.0.1:8080",),
        ("origin: https://127.0.0.1:8080", "sec-fetch-site: same-origin"),
        ("origin: https://PDP.example",),
        ("origin: https://pdp.example:8443", "sec-fetch-site: cross-site"),
        ("sec-fetch-site: same-origin",),
        ("sec-fetch-site: none",),
    ],
)
def test_pages_of_this_server_and_of_allowed_hosts_are_accepted(lines: tuple[str, ...]) -> None:
    assert asked("POST", *lines) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "http://127.0.0.1:3000", "http://localhost:8080", "http://127.0.0.1",
        "file://", "chrome-extension://abc", "http://127.0.0.1:8080.evil.example", "http://evil@127.0.0.1:8080",
        "http://127.0.0.1:8080/", "http://127.0.0.1:8080, http://evil.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(method: str, origin: str) -> None:
    assert asked(method, f"origin: {origin}") == "origin"
    assert asked(method, f"origin: {origin}", "sec-fetch-site: same-origin") == "origin"
    assert asked(method, "origin: http://127.0.0.1:8080", f"origin: {origin}") == "origin"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "nonsense"])
def test_a_cross_site_request_without_an_origin_is_refused(site: str) -> None:
    assert asked("GET", f"sec-fetch-site: {site}") == "sec-fetch-site"
    assert asked("POST", f"sec-fetch-site: {site}") == "sec-fetch-site"
    assert asked("GET", "sec-fetch-site: none", f"sec-fetch-site: {site}") == "sec-fetch-site"


def test_a_cross_site_navigation_is_the_only_accepted_cross_site_request() -> None:
    assert asked("GET", *NAVIGATION) is None
    assert asked("POST", *NAVIGATION) == "sec-fetch-site"
    assert asked("GET", *NAVIGATION[:2], "sec-fetch-dest: iframe") == "sec-fetch-site"
    assert asked("GET", NAVIGATION[0], "sec-fetch-mode: no-cors", NAVIGATION[2]) == "sec-fetch-site"


def test_a_star_does_not_accept_foreign_origins() -> None:
    every = AllowedHosts.of(["*"])
    assert asked("POST", "origin: http://evil.example", allowed=every) == "origin"


@pytest.mark.parametrize("name", ["origin", "sec-fetch-site"])
def test_a_request_with_browser_headers_does_not_take_the_fast_path(name: str) -> None:
    assert not NAMED.at_once({b"host": b"localhost", name.encode(): b"none"})


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("x-envoy-internal", True), ("x-forwarded-for", True), ("x-envoy-auth-partial-body", True),
        ("content-type", False), ("x-requested-with", False), ("accept", False),
    ],
)  # fmt: skip
def test_a_gateway_is_recognized_by_headers_that_no_page_can_send(line: str, shown: bool) -> None:
    assert (gateway_refusal([(b"host", b"localhost"), (line.encode(), b"")]) is None) is shown


# ── Names ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("PDP.Example.", "pdp.example"), ("fd00::0001", "[fd00::1]"), ("[fd00::1]", "[fd00::1]"), ("*", "*"),
        ("*.a.example", "*.a.example"), ("10.0.0.1", "10.0.0.1"), (" a_b.example ", "a_b.example"),
    ],
)  # fmt: skip
def test_an_allowed_host_is_parsed_to_its_compared_form(given: str, name: str) -> None:
    assert parse_allowed_host(given) == name


@pytest.mark.parametrize(
    "given",
    [
        "",
        "pdp.example:80",
        "http://pdp.example",
        "a/b",
        "*.",
        "a.*",
        "**",
        "a b",
        "[::1",
        "::1%lo",
        "é.example",
        "-a",
        "a..b,",
    ],
)
def test_an_invalid_allowed_host_is_rejected(given: str) -> None:
    with pytest.raises(AllowedHostError) as error:
        AllowedHosts.of(["a.example", given])
    assert "is not a host name" in error.value.message
    assert "without scheme, port or path" in error.value.hint


@pytest.mark.parametrize(
    ("url", "names"),
    [
        (None, ()), ("https://pdp.example/x", ("pdp.example",)), ("http://PDP.example:80", ("pdp.example",)),
        ("http://[fd00::1]:80/a", ("[fd00::1]",)), ("nonsense", ()),
    ],
)  # fmt: skip
def test_url_host_names_returns_the_host_of_a_url(url: str | None, names: tuple[str, ...]) -> None:
    assert url_host_names(url) == names
