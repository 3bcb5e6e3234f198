"""Links that sign in once: who can spend one, and how often."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from policyengine.server.console.links import LINK_SECONDS, OneTimeLink
from tests.console.world import Provider, Visitor, World, console, login_of


def secret_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["secret"][0]


def path_of(link: str) -> str:
    return link.partition("//")[2].partition("/")[1] + link.partition("//")[2].partition("/")[2]


def test_the_console_prints_a_link_that_signs_in(world: World) -> None:
    visitor = world.visitor()
    assert visitor.sign_in_with(world.links[0]).location == "/"
    assert "view, approve, halt" in visitor.get("/").text
    assert world.records() == [
        (
            "console_signed_in",
            {"user": "operator", "by": "link", "roles": ["view", "approve", "halt"], "address": "127.0.0.1"},
        )
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_program_that_previews_the_link_does_not_spend_it(world: World, method: str) -> None:
    link = world.links[0]
    for _ in range(3):
        page = Visitor(world.url).send(method, path_of(link))
        assert page.status == 200
    assert world.records() == []
    assert world.visitor().sign_in_with(link).status == 303


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "TRACE", "PATCH"])
def test_other_methods_do_not_spend_the_link(world: World, method: str) -> None:
    assert world.visitor().send(method, path_of(world.links[0])).status == 405
    assert world.visitor().sign_in_with(world.links[0]).status == 303


def test_a_link_signs_in_once(world: World) -> None:
    assert world.visitor().sign_in_with(world.links[0]).status == 303
    second = world.visitor()
    page = second.sign_in_with(world.links[0])
    assert page.status == 403
    assert "already used" in page.text
    assert second.session is None
    assert world.records()[-1][1]["code"] == "link"


@pytest.mark.parametrize("secret", ["", "x", "\ud83d\ude00"])
def test_a_wrong_secret_signs_nobody_in_and_spends_nothing(world: World, secret: str) -> None:
    visitor = world.visitor()
    token = visitor.get("/sign-in").field("csrf")
    secret = secret.encode("utf-16", "surrogatepass").decode("utf-16")
    assert visitor.post("/sign-in/link", {"csrf": token, "secret": secret}).status == 403
    assert world.visitor().sign_in_with(world.links[0]).status == 303


def test_the_secret_is_in_no_log(world: World) -> None:
    world.visitor().sign_in_with(world.links[0])
    assert secret_of(world.links[0]) not in world.log.read_text()


def test_another_site_cannot_spend_the_link_in_a_browser(world: World) -> None:
    """Login CSRF: a page of another site posts the secret of its own link."""
    visitor, secret = world.visitor(), secret_of(world.links[0])
    token = visitor.get("/sign-in").field("csrf")
    form = {"secret": secret, "csrf": token}
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1"},
    ):  # fmt: skip
        assert visitor.post("/sign-in/link", form, **headers).status == 403
    assert visitor.post("/sign-in/link", {"secret": secret}).status == 403
    assert visitor.post("/sign-in/link", {"secret": secret, "csrf": "x" * 43}).status == 403
    assert visitor.session is None
    assert visitor.post("/sign-in/link", form, Origin=world.url).status == 303


def test_a_new_link_is_printed_and_not_shown(world: World) -> None:
    visitor = world.visitor()
    world.server.console.link = OneTimeLink()
    token = visitor.get("/sign-in").field("csrf")
    page = visitor.post("/sign-in/link/new", {"csrf": token})
    assert page.status == 200
    assert len(world.links) == 2
    assert secret_of(world.links[1]) not in page.text
    assert world.visitor().sign_in_with(world.links[1]).status == 303


def test_links_are_not_printed_again_at_once(world: World) -> None:
    visitor = world.visitor()
    token = visitor.get("/sign-in").field("csrf")
    for _ in range(3):
        assert visitor.post("/sign-in/link/new", {"csrf": token}).status == 200
    assert len(world.links) == 1
    assert world.visitor().sign_in_with(world.links[0]).status == 303


def test_a_link_is_valid_for_five_minutes() -> None:
    now = 0.0
    link = OneTimeLink(lambda: now)
    secret = link.renew()
    assert secret is not None
    now = LINK_SECONDS
    assert not link.spend(secret)
    fresh = link.renew()
    assert fresh is not None
    now += LINK_SECONDS - 1
    assert not link.spend(secret)
    assert link.spend(fresh)
    assert not link.spend(fresh)


def test_there_are_no_links_where_people_sign_in_at_an_issuer(tmp_path: Path, provider: Provider) -> None:
    with console(tmp_path, provider.url, login_of(), view=["*"]) as world:
        assert world.links == []
        visitor = world.visitor()
        assert visitor.get("/sign-in/link?secret=x").status == 404
        assert visitor.post("/sign-in/link", {"secret": "x"}).status == 404
        assert visitor.post("/sign-in/link/new", {}).status == 404


def test_there_is_no_sign_in_at_an_issuer_with_links(world: World) -> None:
    assert world.visitor().get("/sign-in/start").status == 404
    assert world.visitor().get("/sign-in/callback?state=x&code=y").status == 404


def test_attempts_are_throttled(world: World) -> None:
    visitor = world.visitor()
    token = visitor.get("/sign-in").field("csrf")
    statuses = [visitor.post("/sign-in/link", {"csrf": token, "secret": "x"}).status for _ in range(62)]
    assert statuses == [403] * 60 + [429] * 2
    assert visitor.post("/sign-in/link", {"csrf": token, "secret": "x"}).headers["Retry-After"] == "60"
