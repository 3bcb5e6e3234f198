"""The console in a real browser: with a real provider, by keyboard, in light and dark, and under attack."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from policyengine.server.console.guard import ConsoleGuard
from policyengine.server.listeners import bind_listener
from tests.browser import brightness
from tests.console.chromium import Chromium, chromium
from tests.console.world import CLIENT, SECRET, World, console, login_of
from tests.identity.providing import openid_provider

OVERFLOW = """[...document.querySelectorAll("body *:not(.unseen):not(.jump):not(svg *)")]
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
    && !one.closest(".scroll, pre")).map(one => one.outerHTML.slice(0, 90))"""
UNLABELLED = """[...document.querySelectorAll(
    "input:not([type=hidden]), select, textarea, button, a, nav, svg[role=img]")]
  .filter(one => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")))
  .map(one => one.outerHTML.slice(0, 90))"""
COLOURS = """["color", "backgroundColor"].map(name => getComputedStyle(document.body)[name])"""
# The lowest contrast of any text with its background, as WCAG 2 defines it.
CONTRAST = """(() => {
  const parse = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(one => one / 255)
    .map(one => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = one => { for (; one; one = one.parentElement) {
    const [r, g, b, a = 1] = parse(getComputedStyle(one).backgroundColor); if (a > 0) return [r, g, b]; }
    return [255, 255, 255]; };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some(part => part.nodeType === 3 && part.textContent.trim())) continue;
    if (one.closest(".unseen, .jump, noscript, svg, option") || !one.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))].sort((a, b) => b - a);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${one.outerHTML.slice(0, 80)}`);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def browser(open_browser: Chromium) -> Chromium:
    """A browser that knows no site."""
    open_browser.call("Network.clearBrowserCookies")
    open_browser.call("Network.clearBrowserCache")
    open_browser.open("about:blank")
    open_browser.look()
    open_browser.complaints.clear()
    return open_browser


def sign_in(browser: Chromium, world: World) -> None:
    browser.open(world.new_link())
    browser.click("main button")
    assert browser.url == f"{world.url}/"


@contextmanager
def other_site(page: str) -> Iterator[str]:
    """A page of another site, `localhost` instead of `127.0.0.1`."""

    class Serving(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Serving) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


# ── Signing in ────────────────────────────────────────────────────────────────────────────────


def test_a_person_signs_in_at_a_real_provider_and_comes_back(tmp_path: Path, browser: Chromium) -> None:
    listener = bind_listener(("127.0.0.1", 0), "127.0.0.1")
    redirect = f"http://127.0.0.1:{listener.getsockname()[1]}/sign-in/callback"
    client = {
        "client_id": CLIENT, "client_secret": SECRET, "redirect_uris": [redirect],
        "grant_types": ["authorization_code"], "response_types": ["code"],
    }  # fmt: skip
    rules = {"view": ["claim.groups:team-alice"]}
    with listener, openid_provider([client], people=True) as provider, ExitStack() as entered:
        world = entered.enter_context(console(tmp_path, provider.url, login_of(), listener=listener, **rules))
        browser.open(f"{world.url}/log?outcome=deny")
        assert browser.url.startswith(f"{world.url}/sign-in?next=")
        browser.click("main a.button")
        assert browser.url.startswith(provider.url)
        browser.fill("input[name=login]", "alice")
        browser.fill("input[name=password]", "any")
        browser.click("button[type=submit]")
        if browser.url.startswith(provider.url):
            browser.click("button[type=submit]")  # consent
        assert browser.url == f"{world.url}/log?outcome=deny"
        assert "alice of acme · view" in browser.text
        browser.click("form.who button")
        assert browser.url == f"{world.url}/sign-in"
        browser.open(f"{world.url}/log")
        assert browser.url.startswith(f"{world.url}/sign-in?")
        assert [event for event, _ in world.records()] == ["console_signed_in", "console_signed_out"]


def test_signing_in_with_a_link_works_by_keyboard(world: World, browser: Chromium) -> None:
    browser.open(world.links[0])
    browser.key("Tab", 9)
    assert browser.js("document.activeElement.textContent") == "Skip to the content"
    for _ in range(5):
        if browser.js("document.activeElement.matches('main button')"):
            break
        browser.key("Tab", 9)
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = browser.loaded
    browser.key("Enter", 13, "\r")
    browser.wait(before)
    assert browser.url == f"{world.url}/"
    assert "view, approve, halt" in browser.text


# ── Pages ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_is_labelled_and_has_contrast(world: World, browser: Chromium, dark: bool) -> None:
    long = "agent-" + "x" * 300
    allowed, confirm = world.decide(body={"amount": 1}), world.decide(agent={"id": long + "\u202e", "issuer": "acme"})
    pages = (
        "/",
        "/log",
        "/log?outcome=x",
        f"/decisions/{allowed.id}",
        f"/decisions/{confirm.id}",
        "/decisions/x",
        "/behavior",
    )
    sign_in(browser, world)
    for width in (1280, 400):
        for path in pages:
            browser.look(width, dark)
            browser.open(f"{world.url}{path}")
            assert browser.js("document.documentElement.scrollWidth") <= width
            assert browser.js(OVERFLOW) == []
            assert browser.js(UNLABELLED) == []
            assert browser.js(CONTRAST) == []
            ink, paper = browser.js(COLOURS)
            assert (brightness(paper) < brightness(ink)) == dark
            assert browser.js("document.querySelectorAll('h1').length") == 1
            assert browser.js("document.documentElement.lang") == "en"
    assert [one for one in browser.complaints if "status of 40" not in one] == []


def test_the_overview_shows_new_decisions_without_a_reload(world: World, browser: Chromium) -> None:
    sign_in(browser, world)
    assert browser.js("document.querySelector('[data-count=confirm]').textContent") == "0"
    for _ in range(3):
        world.decide()
    browser.until("document.querySelector('[data-count=confirm]').textContent === '3'")
    browser.until("document.querySelectorAll('#traffic path').length === 4")
    assert browser.complaints == []


def test_the_overview_says_when_the_session_has_ended(world: World, browser: Chromium) -> None:
    sign_in(browser, world)
    for session in list(world.server.console.sessions._sessions.values()):
        world.server.console.sessions.end(session, "idle")
    browser.until("document.getElementById('traffic-state').textContent.includes('your session has ended')")


def test_the_walk_opens_where_it_fails(world: World, browser: Chromium) -> None:
    decision = world.decide(request={"method": "GET", "path": "/invoices/66"})
    sign_in(browser, world)
    browser.open(f"{world.url}/decisions/{decision.id}")
    assert 'params.id = "66"' in browser.text
    assert browser.js("[...document.querySelectorAll('.gates details')].some(one => !one.open)")
    assert browser.js("getComputedStyle(document.querySelector('.mark-no .sign')).color") != browser.js(
        "getComputedStyle(document.querySelector('.mark-yes .sign')).color"
    )


# ── Attacks ───────────────────────────────────────────────────────────────────────────────────

SCRIPTS = (
    "<script>window.pwned=1</script>", '"><img src=x onerror=window.pwned=1>', "<svg onload=window.pwned=1>",
    "</pre></textarea><script>window.pwned=1</script>", "' autofocus onfocus=window.pwned=1 '",
    "\u202e<b>reversed</b>",
)  # fmt: skip


def test_nothing_that_agents_write_runs(world: World, browser: Chromium) -> None:
    for text in SCRIPTS:
        world.decide(agent={"id": text, "issuer": text}, user={"id": text}, body={"amount": 900, "note": text})
    sign_in(browser, world)
    browser.open(f"{world.url}/log")
    paths = browser.js("[...document.querySelectorAll('.records a')].map(one => one.getAttribute('href'))")
    assert len(paths) == len(SCRIPTS)
    for path in ("/log", *paths, "/log?agent=%22%3E%3Cimg%20src=x%20onerror=window.pwned=1%3E"):
        browser.open(f"{world.url}{path}")
        assert browser.js("window.pwned") is None
        assert (
            browser.js("document.querySelectorAll('img, script:not([src]), [onerror], [onload], [onfocus]').length")
            == 0
        )
        assert "\u202e" not in browser.js("document.body.textContent")
    assert browser.complaints == []


def test_the_browser_runs_no_script_that_the_console_does_not_serve(world: World, browser: Chromium) -> None:
    """If a page could be made to contain markup, the policy of the page still stops it."""
    sign_in(browser, world)
    injected = """
        const script = document.createElement("script"); script.text = "window.pwned = 1"; document.body.append(script);
        const link = document.createElement("a"); link.setAttribute("onclick", "window.pwned = 1");
        document.body.append(link); link.click();
        const style = document.createElement("style"); style.textContent = "body { display: none }";
        document.body.append(style);
    """
    browser.js(f"(() => {{ try {{ {injected} }} catch (error) {{ return String(error); }} }})()")
    assert browser.js("window.pwned") is None
    assert browser.js("getComputedStyle(document.body).display") != "none"


def test_no_site_can_frame_a_page(world: World, browser: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clickjacking: the console in a transparent frame over a button, if the request of the frame were answered."""
    monkeypatch.setattr(ConsoleGuard, "host_refusal", lambda guard, scope: None)
    sign_in(browser, world)
    with other_site(f'<iframe src="{world.url}/" width="800" height="600"></iframe>') as url:
        browser.open(url)
        [complaint] = browser.complaints
        assert "frame-ancestors 'none'" in complaint
        assert "blocked" in complaint


def test_no_site_can_send_a_form_in_the_name_of_a_person(world: World, browser: Chromium) -> None:
    """CSRF, with the token that the attacker has read somewhere, in a real browser with its cookies."""
    sign_in(browser, world)
    token = browser.js("document.querySelector('[name=csrf]').value")
    form = f'<form method="post" action="{world.url}/sign-out"><input name="csrf" value="{token}"></form>'
    with other_site(form) as url:
        browser.open(url)
        before = browser.loaded
        browser.js("document.forms[0].submit()")
        browser.wait(before)
        assert "may not send requests here" in browser.text
    browser.open(f"{world.url}/")
    assert "view, approve, halt" in browser.text
