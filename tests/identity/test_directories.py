"""Directories of keys that are asked over HTTP, at the origin in `Signature-Agent`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import pytest

from policyengine.http.fetch import Fetcher
from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.identity.issuer_documents import DocumentError
from policyengine.identity.keys.agent_directories import (
    MEDIA_TYPE,
    WELL_KNOWN,
    SignatureAgentKeyLoader,
    is_origin,
    open_agent_directories,
)
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from tests.identity.bound_world import NOW, Message, World, directory_of, ec_key, ed_key, issuer
from tests.identity.providing import Faulty, Handling, hangs

SETTINGS: dict[str, Any] = {"signatures": {}, "identity": {"timeout": "300ms"}}


def directory(text: str, kind: str = MEDIA_TYPE, status: int = 200) -> Any:
    def page(request: Handling) -> None:
        request.answer(text.encode(), status, Content_Type=kind)

    return page


@pytest.fixture
def asking(server: Faulty, bound_files: Path) -> World:
    """A front whose directory is asked for."""
    return World(bound_files, SETTINGS, issuers=(issuer("crawler", server.url),))


def signed(server: Faulty, nonce: str = "n-1", key: Any = None) -> Any:
    return Message(agent=f'"{server.url}"', nonce=nonce).credentials(key or ed_key())


def test_the_key_directory_of_an_origin_identifies_the_signer(server: Faulty, asking: World) -> None:
    server.pages[WELL_KNOWN] = directory(directory_of(ed_key()), f"{MEDIA_TYPE.title()}; charset=utf-8")
    proved = asking.prove(signed(server))
    assert proved.facts["agent"] == {"id": server.url.partition("://")[2], "issuer": "crawler"}
    assert asking.refusal(signed(server, "n-2")) == "proved"
    assert server.asked == [WELL_KNOWN]


def test_an_unknown_directory_key_triggers_fetches_at_a_bounded_rate(server: Faulty, asking: World) -> None:
    server.pages[WELL_KNOWN] = directory(directory_of(ed_key()))
    assert asking.refusal(signed(server)) == "proved"
    assert [asking.refusal(signed(server, key=ec_key("late"))) for _ in range(3)] == ["unknown_key"] * 3
    assert len(server.asked) == 2
    server.pages[WELL_KNOWN] = directory(directory_of(ed_key(), ec_key("late")))
    asking.now += 10
    assert asking.refusal(signed(server, "n-2", ec_key("late"))) == "proved"


def test_an_expired_directory_key_is_fetched_again(server: Faulty, asking: World) -> None:
    server.pages[WELL_KNOWN] = directory(directory_of(ed_key(), exp=int(time()) + 3_600))
    asking.now = int(time())
    fresh = Message(agent=f'"{server.url}"', created=asking.now, expires=asking.now + 9_999)
    assert asking.refusal(replace(fresh, nonce="n-1").credentials()) == "proved"
    asking.now += 3_600
    later = replace(fresh, created=asking.now, nonce="n-2")
    assert asking.refusal(later.credentials()) == "unknown_key"
    server.pages[WELL_KNOWN] = directory(directory_of(ed_key(), exp=asking.now + 60))
    asking.now += 10
    assert asking.refusal(later.credentials()) == "proved"


@pytest.mark.parametrize("page", [
    directory(directory_of(ed_key()), "application/json"), directory("[]"), directory('{"keys": 1}'), directory("{"),
    directory(directory_of(ed_key()), status=500), None, hangs,
], ids=["another type", "a list", "no keys", "no JSON", "fails", "is not there", "hangs"])  # fmt: skip
def test_a_signature_is_rejected_if_the_origin_has_no_valid_directory(server: Faulty, asking: World, page: Any) -> None:
    server.pages[WELL_KNOWN] = page
    assert asking.refusal(signed(server)) == "provider"


def test_an_origin_missing_from_the_policy_is_never_contacted(server: Faulty, asking: World) -> None:
    given = Message(agent=f'"{server.url}/"').credentials()
    assert asking.refusal(given) == "unknown_issuer"
    assert asking.refusal(replace(given, signature_agent='"http://127.0.0.1:1"')) == "unknown_issuer"
    assert server.asked == []


def test_a_redirect_of_a_key_directory_is_not_followed(server: Faulty, asking: World) -> None:
    server.pages[WELL_KNOWN] = lambda request: request.answer(b"", 302, Location="/elsewhere")
    assert asking.refusal(signed(server)) == "provider"
    assert server.asked == [WELL_KNOWN]


def test_directory_keys_expire_by_wall_clock_time(server: Faulty) -> None:
    server.pages[WELL_KNOWN] = directory(directory_of(ed_key(), exp=NOW))
    fetcher = Fetcher()
    found = {
        at: len(SignatureAgentKeyLoader(server.url, fetcher, lambda at=at: at)(fetcher.clock() + 5)[0].usable)
        for at in (NOW - 1, NOW)
    }
    assert found == {NOW - 1: 1, NOW: 0}
    server.pages[WELL_KNOWN] = b"{}"
    with pytest.raises(DocumentError, match="its content type is not"):
        SignatureAgentKeyLoader(server.url, fetcher)(fetcher.clock() + 5)


@pytest.mark.parametrize(("url", "origin"), [
    ("https://crawler.example", True), ("https://crawler.example:8443", True), ("http://127.0.0.1:80", True),
    ("https://crawler.example/", False), ("https://crawler.example/x", False), ("https://Crawler.example", False),
    ("https://u@crawler.example", False), ("spiffe://crawler.example", False), ("crawler.example", False), ("", False),
    ("https://crawler.example?x", False), ("https://crawler.example#x", False),
])  # fmt: skip
def test_only_a_canonical_origin_is_accepted(url: str, origin: bool) -> None:
    assert is_origin(url) is origin


def test_a_directory_over_plain_http_on_a_remote_host_is_rejected(tmp_path: Path) -> None:
    known = open_agent_directories(
        {}, parse_identity_config(SETTINGS, tmp_path), [issuer("crawler", "http://crawler.example")]
    )
    with pytest.raises(CredentialError) as refused:
        known.key("http://crawler.example", "x", NOW)
    assert refused.value.refusal == RefusalCode.PROVIDER


def test_a_missing_ca_file_of_a_directory_is_rejected(tmp_path: Path) -> None:
    raw = {**SETTINGS, "issuers": {"crawler": {"ca": "no.pem"}}}
    with pytest.raises(IdentityConfigError, match="cannot be used"):
        open_agent_directories({}, parse_identity_config(raw, tmp_path), [issuer("crawler", "https://crawler.example")])
