"""A webhook URL leads neither into the private network nor to the metadata service of a cloud."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from policyengine.http.address_guard import AddressGuard, AddressRefusedError
from policyengine.http.fetch import FetchError
from policyengine.http.poster import HttpPoster
from policyengine.webhooks.webhook_client import check_webhook_url
from tests.audit.sinks.receivers import certificate, http_receiver
from tests.webhooks.sending import post, target

PUBLIC = ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")
PRIVATE = (
    "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "198.18.0.1", "100.64.0.1", "255.255.255.255", "192.0.0.9",
    "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1",
    "2002:7f00:1::", "2002:a00:1::", "fc00::1", "fec0::1", "2001:db8::1", "100::1", "3fff::1",
)  # fmt: skip
NEVER = (
    "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::",
    "fe80::1", "fe80::1%eth0", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "0.0.0.0", "0.1.2.3",
    "::", "224.0.0.1", "ff02::1", "name", "",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_used(address: str) -> None:
    assert AddressGuard().admits(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_may_be_used_only_if_that_is_permitted(address: str) -> None:
    assert (AddressGuard().admits(address), AddressGuard(private=True).admits(address)) == (False, True)


@pytest.mark.parametrize("address", NEVER)
def test_a_metadata_or_link_local_address_may_never_be_used(address: str) -> None:
    assert not AddressGuard().admits(address)
    assert not AddressGuard(private=True).admits(address)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "gopher://127.0.0.1/", "http://example.com/", "https://user:pw@example.com/",
        "https://example.com@127.0.0.1/", "https:///x", "https://example.com/#x", "https://exa mple.com/", "//x", "",
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:169.254.169.254]/", "https://169.254.169.254/latest/",
        "http://127.0.0.1/", "http://localhost/", "https://10.0.0.1:8443/", "https://[fe80::1%25eth0]/",
    ],
)  # fmt: skip
def test_a_url_that_leads_elsewhere_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(FetchError):
        check_webhook_url(url, private=False)


def test_loopback_is_permitted_by_a_setting_only() -> None:
    check_webhook_url("http://127.0.0.1:9/", private=True)
    check_webhook_url("https://10.0.0.1/", private=True)
    for url in ("https://169.254.169.254/", "http://10.0.0.1/", "https://[::ffff:169.254.169.254]/"):
        with pytest.raises(FetchError):
            check_webhook_url(url, private=True)


# Host names, and other spellings of addresses, are resolved when the connection is made.
NAMES = (
    "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "2852039166", "[::ffff:7f00:1]", "[::]"
)  # fmt: skip


@pytest.mark.parametrize("host", NAMES)
def test_another_spelling_of_an_address_is_not_connected_to(host: str) -> None:
    with http_receiver() as receiver:
        with pytest.raises(FetchError):
            post(target(None, url=f"https://{host}:{receiver.port}/", allow_private=False))
        assert receiver.connections == 0


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the host `hook.example` have other addresses each time; return the list of questions."""
    real, left, asked = socket.getaddrinfo, list(answers), list[str]()

    def resolve(host: Any, port: Any, *given: Any, **more: Any) -> Any:
        if host != "hook.example":
            return real(host, port, *given, **more)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_a_name_with_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(AddressRefusedError):
        AddressGuard().resolve("hook.example", 443)


def test_a_name_that_is_rebound_after_the_check_leads_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The connection is made to the address that was checked; the name is not resolved again."""
    asked = resolving(monkeypatch, ["127.0.0.1"], ["169.254.169.254"], ["169.254.169.254"])
    with http_receiver() as receiver:
        poster = HttpPoster(
            f"http://hook.example:{receiver.port}/", plain_http=True, guard=AddressGuard(private=True), timeout=30
        )
        assert poster.post(b"{}", {"Content-Type": "application/json"}).status == 202
        assert poster.post(b"{}", {"Content-Type": "application/json"}).status == 202
        poster.close()
        with pytest.raises(FetchError, match="may not be used"):
            poster.post(b"{}", {})
        assert asked == ["hook.example"] * 2
        assert [one.headers["host"] for one in receiver.requests] == [f"hook.example:{receiver.port}"] * 2


def test_a_name_that_does_not_exist_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*given: Any, **more: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FetchError, match="cannot be reached: name or service not known"):
        post(target(None, url="https://hook.example/"))


def test_the_certificate_must_be_that_of_the_name_and_not_of_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca, context = certificate(tmp_path)
    resolving(monkeypatch, ["127.0.0.1"])
    with http_receiver(context) as receiver:
        to = target(None, url=f"https://hook.example:{receiver.port}/", ca=ca)
        with pytest.raises(FetchError, match="certificate verify failed"):
            post(to)
        trusted = target(None, url=f"https://127.0.0.1:{receiver.port}/", ca=ca)
        assert post(trusted) == 202
        with pytest.raises(FetchError, match="certificate verify failed"):
            post(target(None, url=trusted.url))


def test_a_redirect_to_the_metadata_service_is_not_followed() -> None:
    with http_receiver() as receiver, http_receiver() as other:
        receiver.statuses, receiver.headers = [307], {"Location": f"http://127.0.0.1:{other.port}/latest/meta-data/"}
        assert post(target(receiver)) == 307
        assert other.connections == 0


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as receiver, http_receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(target(receiver)) == 202
        assert proxy.connections == 0
