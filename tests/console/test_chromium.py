"""The console in a real browser: with a real provider, by keyboard, in light and dark, and under attack."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest

from policyengine.identity.login.open_id_client import Person
from policyengine.server.console.guard import ConsoleGuard
from policyengine.server.console.roles import RoleRules
from policyengine.server.listeners import bind_listener
from tests.browser import brightness
from tests.chromium import Chromium
from tests.console.answering import Answers, answering
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


def check_page(browser: Chromium, url: str) -> None:
    """Check that a page fits, has names for everything that can be used, and contrast, wide and narrow, in both color
    schemes."""
    browser.open(url)
    assert browser.js(UNLABELLED) == []
    assert browser.js("document.querySelectorAll('h1').length") == 1
    assert browser.js("document.documentElement.lang") == "en"
    for width, dark in product((1280, 400), (False, True)):
        browser.look(width, dark)
        assert browser.js("innerWidth") == width
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js(OVERFLOW) == []
        assert browser.js(CONTRAST) == []
        ink, paper = browser.js(COLOURS)
        assert (brightness(paper) < brightness(ink)) == dark


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


def test_every_page_fits_is_labelled_and_has_contrast(world: World, browser: Chromium) -> None:
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
    for path in pages:
        check_page(browser, f"{world.url}{path}")
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


# ── Answers, halts and traffic ────────────────────────────────────────────────────────────────


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    with answering(tmp_path) as found:
        yield found


def enter_as(browser: Chromium, answers: Answers, user: str) -> None:
    """Give the browser the session of a person."""
    [(name, value)] = answers.person(user).cookies.items()
    browser.call("Network.setCookie", name=name, value=value, url=answers.world.url, httpOnly=True)


def tab_to(browser: Chromium, selector: str) -> None:
    """Press the tab key until the element has the focus, which must be visible."""
    for _ in range(60):
        browser.key("Tab", 9)
        if browser.js(f"document.activeElement.matches({json.dumps(selector)})"):
            assert browser.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"no focus on {selector}")


def press(browser: Chromium, selector: str) -> None:
    """Go to a link or a button by keyboard, and follow it."""
    tab_to(browser, selector)
    before = browser.loaded
    browser.key("Enter", 13, "\r")
    browser.wait(before)


def write(browser: Chromium, selector: str, text: str) -> None:
    tab_to(browser, selector)
    browser.call("Input.insertText", text=text)


def test_a_person_approves_and_denies_by_keyboard_only(answers: Answers, browser: Chromium) -> None:
    first, second = answers.open(body={"amount": 900}), answers.open(body={"amount": 901})
    enter_as(browser, answers, "fay")
    browser.open(f"{answers.world.url}/")
    press(browser, 'nav a[href="/approvals"]')
    press(browser, f'a[href="/approvals/{first}"]')
    assert "refund of 900" in browser.js("document.querySelector('h1').textContent")
    press(browser, ".answer form[action$='/approve'] button")
    assert browser.js("document.querySelector('[role=status]').textContent").count("now passes, once") == 1
    press(browser, 'main a[href="/approvals"]')
    press(browser, f'a[href="/approvals/{second}"]')
    write(browser, "#reason", "paid already")
    press(browser, ".answer form[action$='/deny'] button")
    assert browser.js("document.querySelector('h1').textContent") == "Denied"
    assert (answers.state(first), answers.state(second)) == ("approved", "denied")
    assert browser.complaints == []


def test_an_operator_halts_and_lifts_by_keyboard_only(answers: Answers, browser: Chromium) -> None:
    enter_as(browser, answers, "hal")
    browser.open(f"{answers.world.url}/")
    press(browser, 'nav a[href="/halts"]')
    press(browser, 'a[href="/halts/new"]')
    write(browser, "#f-agent", "bot")
    write(browser, "#f-reason", "it repeats refunds")
    press(browser, ".halt-form button")
    assert browser.js("document.activeElement.tagName") == "BODY"
    assert "a halt needs an end" in browser.js("document.getElementById('e-end').textContent")
    write(browser, "#f-end", "2h")
    press(browser, ".halt-form button")
    press(browser, "main form button")
    [halt] = answers.world.engine.halts
    assert (halt.agent, halt.by) == ("bot", "hal of acme")
    assert "Requests are halted." in browser.text
    press(browser, f'main a[href="/halts/{halt.id}"]')
    write(browser, "#reason", "mended")
    press(browser, "main form button")
    assert answers.world.engine.halts == ()
    assert "Requests are halted." not in browser.text


def test_the_inbox_shows_new_requests_and_keeps_the_focus(answers: Answers, browser: Chromium) -> None:
    first = answers.open(body={"amount": 900})
    enter_as(browser, answers, "fay")
    browser.open(f"{answers.world.url}/approvals")
    tab_to(browser, f'a[href="/approvals/{first}"]')
    browser.js("document.querySelector('[data-live]').dataset.interval = 50")
    browser.js("document.dispatchEvent(new Event('visibilitychange'))")
    answers.clock.now += 1
    second = answers.open(body={"amount": 901}, agent={"id": "bot\u202e<b>", "issuer": "acme"})
    browser.until("document.querySelectorAll('[data-rows=mine] tr').length === 2")
    assert browser.js("document.querySelector('[data-rows=mine] a').getAttribute('href')") == f"/approvals/{second}"
    assert browser.js("document.activeElement.getAttribute('href')") == f"/approvals/{first}"
    assert browser.js("document.querySelector('[data-rows=mine] .odd').textContent") == "U+202E"
    assert browser.js("document.querySelectorAll('[data-rows] b').length") == 0
    assert browser.js("document.querySelector('nav .count').textContent") == "2"
    for id in (first, second):
        answers.desk.deny(id, answers.world.server.console.proved(Person("gus", "acme")))
    browser.until("document.querySelector('[data-filled=mine]').hidden")
    assert browser.js("document.querySelector('nav .count')") is None
    assert "0 requests wait for you." in browser.text
    assert browser.complaints == []


def test_the_traffic_can_be_paused(answers: Answers, browser: Chromium) -> None:
    count = "document.querySelectorAll('[data-rows=traffic] tr').length"
    enter_as(browser, answers, "alice")
    browser.open(f"{answers.world.url}/traffic")
    browser.js("document.querySelector('[data-live]').dataset.interval = 50")
    answers.world.decide()
    browser.js("document.dispatchEvent(new Event('visibilitychange'))")
    browser.until(f"{count} === 1")
    tab_to(browser, "[data-pause]")
    browser.key("Enter", 13, "\r")
    assert browser.js("document.activeElement.textContent") == "Resume"
    assert browser.js("document.activeElement.getAttribute('aria-pressed')") == "true"
    answers.world.decide()
    browser.js("window.waiting = setTimeout; window.setTimeout = () => { window.planned = true; }")
    browser.js("document.dispatchEvent(new Event('visibilitychange'))")
    assert browser.js("window.planned") is None
    browser.js("window.setTimeout = window.waiting")
    browser.key("Enter", 13, "\r")
    browser.until(f"{count} === 2")
    assert browser.complaints == []


def test_a_form_is_sent_once_however_often_its_button_is_pressed(answers: Answers, browser: Chromium) -> None:
    id = answers.open()
    enter_as(browser, answers, "fay")
    browser.open(f"{answers.world.url}/approvals/{id}")
    before = browser.loaded
    browser.js("(button => { button.click(); button.click(); })(document.querySelector('.answer button'))")
    browser.wait(before)
    assert browser.js("document.querySelector('h1').textContent") == "Approved"
    assert [event for event, _ in answers.acts()] == ["console_answered"]


def test_the_pages_of_answers_and_halts_fit_and_have_contrast(answers: Answers, browser: Chromium) -> None:
    long = "x" * 300
    body = {"amount": 900, "note": long, long: {"list": [long, 1, None, {}]}, "odd": "\u202e"}
    id = answers.open(body=body, agent={"id": f"bot{long}", "issuer": "acme"}, user={"id": long})
    two = answers.open("/wipe")
    answers.desk.approve(two, answers.world.server.console.proved(Person("fay", "acme")))
    halt = answers.world.engine.halt(agent=long, reason=long, end=timedelta(hours=1), by=long)
    rules = answers.world.server.console
    rules.rules = RoleRules.of(approve=["*"], halt=["*"])
    paths = (
        "/approvals", f"/approvals/{id}", f"/approvals/{two}", "/approvals/x", "/traffic", "/halts", "/halts/new",
        f"/halts/{halt.id}",
    )  # fmt: skip
    enter_as(browser, answers, "gus")
    for path in paths:
        check_page(browser, f"{answers.world.url}{path}")
    assert [one for one in browser.complaints if "status of 40" not in one] == []


def test_no_site_can_frame_an_approval(answers: Answers, browser: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clickjacking: the page in a transparent frame over a button, if the request of the frame were answered."""
    monkeypatch.setattr(ConsoleGuard, "host_refusal", lambda guard, scope: None)
    id = answers.open()
    enter_as(browser, answers, "fay")
    with other_site(f'<iframe src="{answers.world.url}/approvals/{id}" width="800" height="600"></iframe>') as url:
        browser.open(url)
        assert any("frame-ancestors 'none'" in one for one in browser.complaints)


def test_no_site_can_approve_in_the_name_of_a_person(answers: Answers, browser: Chromium) -> None:
    id = answers.open()
    enter_as(browser, answers, "fay")
    browser.open(f"{answers.world.url}/approvals/{id}")
    token = browser.js("document.querySelector('.answer [name=csrf]').value")
    path = f"{answers.world.url}/approvals/{id}/approve"
    with other_site(f'<form method="post" action="{path}"><input name="csrf" value="{token}"></form>') as url:
        browser.open(url)
        before = browser.loaded
        browser.js("document.forms[0].submit()")
        browser.wait(before)
    assert answers.state(id) == "pending"


def test_nothing_in_an_approval_runs(answers: Answers, browser: Chromium) -> None:
    enter_as(browser, answers, "fay")
    for text in SCRIPTS:
        body = {"amount": 900, "note": text, text: text}
        id = answers.open(agent={"id": f"bot{text}", "issuer": "acme"}, user={"id": text}, body=body)
        browser.open(f"{answers.world.url}/approvals/{id}")
        browser.fill("#reason", text)
        browser.click(".answer form[action$='/deny'] button")
        browser.open(f"{answers.world.url}/approvals/{id}")
        assert browser.js("window.pwned") is None
        assert browser.js("document.querySelectorAll('img, script:not([src]), [onerror], [onload]').length") == 0
    assert browser.complaints == []
