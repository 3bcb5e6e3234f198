"""What every page of the console is protected from: other sites, other hosts, frames, huge and odd requests."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from starlette.responses import RedirectResponse, Response

from policyengine.audit import SystemEvent
from policyengine.server.console import app
from policyengine.server.console.context import ConsolePage, ConsoleVisit
from policyengine.server.console.pages.table import PAGES
from policyengine.server.console.roles import ConsoleRole
from tests.console.world import Provider, StartedLogin, Visitor, World, console

PATHS = (
    "/", "/log", "/sign-in", "/counts", "/approvals", "/halts", "/traffic", "/static/console.css", "/nowhere",
    "/sign-in/link?secret=x",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers_that_protect_it(world: World, path: str) -> None:
    for visitor in (world.visitor(), world.operator()):
        headers = visitor.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "unsafe" not in policy
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert ("no-store" in headers["Cache-Control"]) == (not path.startswith("/static"))
        assert "Strict-Transport-Security" not in headers
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.method} {page.path}")
def test_every_page_needs_a_session(world: World, page: ConsolePage) -> None:
    found = world.visitor().send(page.method, page.path.replace("{id}", "01M8MQQTMGEW6CZHTAECMQM3ZG"), "")
    if page.method == "GET":
        assert (found.status, found.text) == (303, "")
        assert found.location.startswith("/sign-in?next=/")
    else:
        assert found.status == 403
        assert "you are not signed in" in found.text


# ── CSRF ──────────────────────────────────────────────────────────────────────────────────────


def test_a_form_without_the_token_of_the_session_does_nothing(world: World) -> None:
    visitor, other = world.operator(), world.operator()
    token, foreign = visitor.get("/").field("csrf"), other.get("/").field("csrf")
    assert token != foreign
    for form in ({}, {"csrf": ""}, {"csrf": foreign}, {"csrf": token[:-1]}, {"csrf": token + "x"}, {"csrf": "é"}):
        assert visitor.post("/sign-out", form).status == 403
    assert visitor.get("/").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)  # fmt: skip
def test_a_form_of_another_site_does_nothing_even_with_the_token(world: World, headers: dict[str, str]) -> None:
    visitor = world.operator()
    token = visitor.get("/").field("csrf")
    assert visitor.post("/sign-out", {"csrf": token}, **headers).status == 403
    assert visitor.get("/").status == 200


def test_following_a_link_signs_nobody_out(world: World) -> None:
    visitor = world.operator()
    token = visitor.get("/").field("csrf")
    assert visitor.get(f"/sign-out?csrf={token}").status == 405
    assert visitor.get("/").status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data", ""])
def test_a_body_that_is_no_form_does_nothing(world: World, kind: str) -> None:
    visitor = world.operator()
    token = visitor.get("/").field("csrf")
    page = visitor.send("POST", "/sign-out", f"csrf={token}", {"Content-Type": kind})
    assert page.status == 400
    assert visitor.get("/").status == 200


@pytest.mark.parametrize("body", ["x=" + "y" * 20_000, "a=1&" * 60, "csrf=a&csrf=b", "%ff=é", "a=%ff"])
def test_a_form_that_is_too_large_or_malformed_does_nothing(world: World, body: str) -> None:
    visitor = world.operator()
    assert visitor.send("POST", "/sign-out", body.encode(), {}).status == 400
    assert visitor.get("/").status == 200


# ── Other hosts and sites ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(world: World, host: str) -> None:
    """DNS rebinding: the name of another site resolves to this machine, so that its page reads the answer."""
    page = world.operator().get("/", Host=host)
    assert page.status in (400, 403)
    assert "operator" not in page.text


def test_loopback_names_and_those_of_the_settings_are_accepted(tmp_path: Path) -> None:
    with console(tmp_path, public_url="https://console.example.com", allowed_hosts=["*.internal.example"]) as world:
        for host in ("127.0.0.1:1", "localhost", "console.example.com", "a.internal.example"):
            assert world.visitor().get("/sign-in", Host=host).status == 200
        assert world.visitor().get("/sign-in", Host="console.example.org").status == 403


def test_another_site_cannot_load_a_page_in_the_background(world: World) -> None:
    visitor = world.operator()
    for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "script")):
        headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": dest}
        assert visitor.get("/traffic", **headers).status == 403


def test_a_link_on_another_site_leads_to_a_page(world: World) -> None:
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert world.operator().get("/log", **headers).status == 200


# ── Odd requests ──────────────────────────────────────────────────────────────────────────────


def test_huge_cookies_are_refused(world: World) -> None:
    assert world.visitor().get("/sign-in", Cookie="a=" + "x" * 9_000).status == 431
    assert world.visitor().get("/sign-in", Cookie="a=" + "x" * 7_000).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_refused(world: World, method: str) -> None:
    page = world.operator().send(method, "/")
    assert page.status == 405


def test_a_head_request_has_no_content(world: World) -> None:
    page = world.operator().send("HEAD", "/")
    assert (page.status, page.text) == (200, "")


@pytest.mark.parametrize("path", ["/static/..%2f..%2fapp.py", "/static/../app.py", "/static/app.py", "/static/"])
def test_only_listed_files_are_served(world: World, path: str) -> None:
    assert world.operator().get(path).status == 404


@pytest.mark.parametrize("path", ["/decide", "/evaluate", "/metrics", "/healthz", "/docs", "/token"])
def test_the_console_serves_nothing_of_the_decision_api(world: World, path: str) -> None:
    visitor = world.operator()
    assert visitor.get(path).status == 404
    assert visitor.send("POST", path, "{}", {"Content-Type": "application/json"}).status == 404


def test_many_silent_connections_do_not_stop_the_console(world: World) -> None:
    address = (world.url.partition("//")[2].partition(":")[0], int(world.url.rpartition(":")[2]))
    silent = [socket.create_connection(address) for _ in range(200)]
    try:
        assert Visitor(world.url).get("/sign-in").status == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_failure_shows_no_detail(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from policyengine.server.console.pages import overview

    visitor = world.operator()
    monkeypatch.setattr(overview, "count_traffic", lambda console: 1 / 0)
    page = visitor.get("/")
    assert page.status == 500
    assert page.text == "the console failed to answer\n"
    assert page.headers["X-Frame-Options"] == "DENY"


# ── A page for an act ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """A row in the table of pages: an act for people who may approve. Return the forms of all acts."""
    done: list[dict[str, str]] = []

    async def answer_act(visit: ConsoleVisit) -> Response:
        assert visit.console.records.act(SystemEvent.CONSOLE_SIGNED_IN, visit.person, by="link")
        done.append(dict(visit.form))
        return RedirectResponse("/", 303)

    act = ConsolePage("/act/{id}", answer_act, ConsoleRole.APPROVE, "POST")
    monkeypatch.setattr(app, "PAGES", (*app.PAGES, act))
    return done


def test_an_act_needs_its_role_and_the_token_of_the_session(
    acts: list[dict[str, str]], signing: World, provider: Provider
) -> None:
    for user, status in (("bob", 403), ("alice", 403), ("fay", 303)):
        provider.claims = {"sub": user}
        login = StartedLogin.of(signing.visitor())
        assert login.answer(code=provider.code(login.asked["nonce"])).status == 303
        token = login.visitor.get("/").field("csrf")
        assert login.visitor.post("/act/7", {"csrf": token[:-1], "reason": "x"}).status == 403
        assert login.visitor.post("/act/7", {"csrf": token, "reason": "because"}).status == status
        assert login.visitor.get("/act/7").status == 405
    assert acts == [{"reason": "because"}]
    assert signing.visitor().post("/act/7", {"csrf": token, "reason": "x"}).status == 403


def test_two_browsers_of_one_person_have_tokens_of_their_own(
    acts: list[dict[str, str]], signing: World, provider: Provider
) -> None:
    visitors = []
    for _ in range(2):
        provider.claims = {"sub": "fay"}
        login = StartedLogin.of(signing.visitor())
        login.answer(code=provider.code(login.asked["nonce"]))
        visitors.append(login.visitor)
    tokens = [visitor.get("/").field("csrf") for visitor in visitors]
    assert visitors[0].post("/act/7", {"csrf": tokens[1]}).status == 403
    assert visitors[1].post("/act/7", {"csrf": tokens[1]}).status == 303
    assert len(acts) == 1


def test_a_row_without_a_title_is_not_in_the_menu(acts: list[dict[str, str]], tmp_path: Path) -> None:
    with console(tmp_path) as world:
        menu = world.operator().get("/").text.partition("<nav")[2].partition("</nav>")[0]
        assert [title for title in ("Overview", "Log", "act") if title in menu] == ["Overview", "Log"]
