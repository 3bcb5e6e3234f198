"""The pages of halts: setting and lifting them, what they say, and every way round the role."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.halts.errors import HaltError
from policyengine.stores.base import StoreError
from policyengine.time_formats import format_epoch_seconds
from tests.console.answering import Answers, answering, send
from tests.console.world import Page, Visitor

FORM = {"agent": "bot", "reason": "it repeats refunds", "end": "2h"}
HOUR = timedelta(hours=1)


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Answers]:
    with answering(tmp_path) as answers:
        yield answers


def check(visitor: Visitor, **form: str) -> Page:
    return send(visitor, "/halts/check", form)


def confirm(visitor: Visitor, page: Page) -> Page:
    """Send the form of the confirmation."""
    return visitor.post("/halts", dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text.partition("<main")[2])))


def halt(visitor: Visitor, **form: str) -> Page:
    page = check(visitor, **form)
    assert page.status == 200, page.text
    return confirm(visitor, page)


# ── Setting and lifting ───────────────────────────────────────────────────────────────────────


def test_an_operator_halts_an_agent_after_a_confirmation(found: Answers) -> None:
    hal = found.person("hal")
    page = check(hal, **FORM)
    assert "agent bot" in page.text
    assert found.world.engine.halts == ()
    assert found.world.decide(body={"amount": 1}).allowed
    assert confirm(hal, page).status == 201
    [set_] = found.world.engine.halts
    assert (set_.agent, set_.reason, set_.by) == ("bot", "it repeats refunds", "hal of acme")
    assert set_.until - set_.since == 7_200
    assert str(found.world.decide(body={"amount": 1}).gate) == "halted"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("agent", "bot*"), ("issuer", "acme"), ("user", "alice"), ("chain_root", "planner"), ("task", "t-1"),
        ("tool", "mail/*"), ("place", "POST /refunds"), ("package", "shop"),
    ],
)  # fmt: skip
def test_every_scope_can_be_halted(found: Answers, name: str, text: str) -> None:
    assert halt(found.person("hal"), reason="x", end="1h", **{name: text}).status == 201
    [set_] = found.world.engine.halts
    assert set_.scope == {name: text}


def test_everything_can_be_halted(found: Answers) -> None:
    end = format_epoch_seconds(found.clock.now + 60)
    page = halt(found.person("hal"), reason="incident", end=end, everything="yes")
    assert page.status == 201
    assert found.world.engine.halts[0].everything
    assert "Everything is halted." in page.text


def test_the_confirmation_says_how_many_recent_requests_the_halt_covers(found: Answers) -> None:
    for amount in (1, 2, 900):
        found.world.engine.decide(
            {"request": {"method": "POST", "path": "/refunds"}, "agent": {"id": "bot-2", "issuer": "acme"},
             "user": {"id": "alice"}, "body": {"amount": amount}}
        )  # fmt: skip
    found.world.engine.decide({"request": {"method": "GET", "path": "/health"}})
    text = check(found.person("hal"), agent="bot-2", reason="x", end="1h").text
    assert "the log has 4 requests" in text
    assert "would have covered <b>3</b> of them, 2 of which were allowed" in text
    assert "No recent request matches" in check(found.person("hal"), agent="bott", reason="x", end="1h").text
    assert "is not counted" in check(found.person("hal"), package="shop", reason="x", end="1h").text


def test_requests_of_an_hour_ago_are_not_counted(found: Answers) -> None:
    found.world.decide()
    found.clock.now += 3_700
    assert "the log has 0 requests" in check(found.person("hal"), **FORM).text


def test_a_halt_is_lifted_with_a_reason(found: Answers) -> None:
    hal, engine = found.person("hal"), found.world.engine
    set_ = engine.halt(agent="bot", reason="it repeats", end=HOUR)
    assert "it repeats" in hal.get(f"/halts/{set_.id}").text
    page = send(hal, f"/halts/{set_.id}/lift", {"reason": "it was mended"})
    assert (page.status, engine.halts) == (200, ())
    assert "Requests are halted" not in page.text
    [lifting] = engine.halting.liftings
    assert (lifting.reason, lifting.by) == ("it was mended", "hal of acme")
    assert "it was mended" in hal.get("/halts").text


def test_lifting_without_a_reason_says_so_beside_the_field(found: Answers) -> None:
    set_ = found.world.engine.halt(agent="bot", reason="it repeats", end=HOUR)
    page = send(found.person("hal"), f"/halts/{set_.id}/lift", {"reason": " "})
    assert page.status == 400
    assert "lifting a halt needs a reason" in page.text.partition('id="e-reason"')[2]
    assert found.world.engine.halts == (set_,)


def test_what_people_do_is_on_record(found: Answers) -> None:
    hal = found.person("hal")
    halt(hal, **FORM)
    [set_] = found.world.engine.halts
    for _ in range(2):
        send(hal, f"/halts/{set_.id}/lift", {"reason": "mended"})
    who = {"user": "hal", "issuer": "acme", "by": "issuer", "halt": set_.id}
    done, lifted, refused = found.acts()
    assert done == ("console_halted", {**who, "result": "done"})
    assert lifted == ("console_lifted", {**who, "result": "done", "reason": "mended"})
    assert refused[1]["result"].startswith(f"refused: the halt `{set_.id}` was already lifted")


# ── What is said ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/", "/log", "/approvals", "/traffic", "/halts", "/decisions/x", "/approvals/x"])
def test_every_page_says_that_something_is_halted(found: Answers, path: str) -> None:
    visitor = found.person("alice")
    assert "are halted" not in visitor.get(path).text
    found.world.engine.halt(agent="bot", reason="it repeats <refunds>", end=HOUR)
    page = visitor.get(path).text
    assert "Requests are halted." in page
    assert "it repeats &lt;refunds&gt;" in page


def test_several_halts_are_counted(found: Answers) -> None:
    for agent in ("a", "b"):
        found.world.engine.halt(agent=agent, reason="x", end=HOUR)
    assert "2 halts are in effect." in found.person("alice").get("/").text


def test_pages_for_everybody_say_nothing_of_halts(found: Answers) -> None:
    found.world.engine.halt(agent="bot", reason="it repeats", end=HOUR)
    assert "halt" not in found.world.visitor().get("/sign-in").text


def test_a_viewer_sees_halts_and_no_form(found: Answers) -> None:
    set_ = found.world.engine.halt(agent="bot", reason="it repeats", end=HOUR)
    for path in ("/halts", f"/halts/{set_.id}"):
        page = found.person("alice").get(path)
        assert (page.status, "it repeats" in page.text) == (200, True)
        assert page.text.count('method="post"') == 1  # signing out
        assert 'href="/halts/new"' not in page.text


def test_unreadable_halts_are_said(tmp_path: Path) -> None:
    file = tmp_path / "halts.json"
    file.write_text('{"halts": []}')
    with answering(tmp_path, engine_options={"halt_file": file}) as found:
        file.write_text("{")
        for _ in range(2):
            found.world.engine.halting.refresh()
        assert "cannot be read" in found.person("alice").get("/").text


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"issuer": "acne"}, "issuer", "did you mean `acme`?"),
        ({"package": "shopp"}, "package", "did you mean `shop`?"),
        ({"place": "refunds"}, "place", ""),
        ({"agent": "x" * 1_001}, "agent", "has 1,001 characters"),
        ({"agent": "a\x07b"}, "agent", "a control character"),
        ({"end": "soon"}, "end", "is neither a duration nor a time"),
        ({"end": "2000d"}, "end", "a halt lasts at most"),
        ({"end": "2020-01-01T00:00:00Z"}, "end", "is in the past"),
        ({"end": ""}, "end", "a halt needs an end"),
        ({"reason": ""}, "reason", "a halt needs a reason"),
        ({"reason": "x" * 501}, "reason", "has 501 characters"),
        ({"agent": ""}, "halt", "the halt covers nothing"),
        ({"everything": "yes"}, "halt", "a halt of everything has no `agent`"),
    ],
)
def test_a_mistake_is_said_beside_its_field(found: Answers, form: dict[str, str], field: str, words: str) -> None:
    page = check(found.person("hal"), **{**FORM, **form})
    assert page.status == 400
    assert re.findall(r'id="e-(\w+)"', page.text) == [field]
    assert words in page.text.replace("&#39;", "'")
    assert 'aria-invalid="true"' in page.text
    assert 'value="2h"' in page.text or "end" in form  # what was filled in stays


def test_the_form_is_filled_in_from_a_link_and_halts_nothing(found: Answers) -> None:
    page = found.person("hal").get("/halts/new?agent=bot&reason=%22%3E%3Cimg%3E&end=2h")
    assert 'value="bot"' in page.text
    assert "<img" not in page.text
    assert found.world.engine.halts == ()


def test_a_store_that_does_not_accept_the_change_is_said(found: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise StoreError("the store is gone")

    hal, set_ = found.person("hal"), found.world.engine.halt(agent="x", reason="x", end=HOUR)
    monkeypatch.setattr(found.world.engine.store.halts, "save", fail)
    pages = [halt(hal, **FORM), send(hal, f"/halts/{set_.id}/lift", {"reason": "x"})]
    for page in pages:
        assert (page.status, "the change may or may not be in effect" in page.text) == (503, True)


def test_a_halt_that_does_not_fit_is_said(found: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: object) -> None:
        raise HaltError("there are already 256 such halts", "lift some of them")

    monkeypatch.setattr(found.world.engine, "halt", refuse)
    page = halt(found.person("hal"), **FORM)
    assert (page.status, "lift some of them" in page.text) == (400, True)


# ── Attacks ───────────────────────────────────────────────────────────────────────────────────


def a_viewer(found: Answers, path: str) -> Page:
    return send(found.person("alice"), path, FORM)


def an_approver(found: Answers, path: str) -> Page:
    return send(found.person("fay"), path, FORM)


def no_token(found: Answers, path: str) -> Page:
    return found.person("hal").post(path, FORM)


def token_of_another_session(found: Answers, path: str) -> Page:
    return found.person("hal").post(path, {"csrf": found.person("hal").get("/").field("csrf"), **FORM})


def another_origin(found: Answers, path: str) -> Page:
    return send(found.person("hal"), path, FORM, Origin="https://evil.example")


def rebound_name(found: Answers, path: str) -> Page:
    return send(found.person("hal"), path, FORM, Host="evil.example")


def no_session(found: Answers, path: str) -> Page:
    return found.world.visitor().post(path, {"csrf": "x", **FORM}, Authorization="Bearer of-an-operator-of-the-api")


ATTACKS: tuple[Callable[[Answers, str], Page], ...] = (
    a_viewer, an_approver, no_token, token_of_another_session, another_origin, rebound_name, no_session,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.replace("_", " "))
def test_nobody_halts_or_lifts_by(found: Answers, attack: Callable[[Answers, str], Page]) -> None:
    set_ = found.world.engine.halt(agent="x", reason="x", end=HOUR)
    for path in ("/halts", "/halts/check", f"/halts/{set_.id}/lift"):
        assert attack(found, path).status == 403
    assert found.world.engine.halts == (set_,)


def test_following_a_link_halts_and_lifts_nothing(found: Answers) -> None:
    hal, set_ = found.person("hal"), found.world.engine.halt(agent="x", reason="x", end=HOUR)
    for path in (f"/halts/{set_.id}/lift?reason=x", "/halts/check?agent=bot&reason=x&end=2h"):
        assert hal.get(path).status in (404, 405)
    assert hal.get("/halts?agent=bot&reason=x&end=2h").status == 200
    assert found.world.engine.halts == (set_,)


def test_a_double_click_halts_once(found: Answers) -> None:
    hal = found.person("hal")
    page = check(hal, **FORM)
    assert [confirm(hal, page).status for _ in range(2)] == [201, 409]
    assert len(found.world.engine.halts) == 1


def test_a_form_without_a_confirmation_halts_nothing(found: Answers) -> None:
    assert send(found.person("hal"), "/halts", FORM).status == 409
    assert found.world.engine.halts == ()


def test_the_halt_is_checked_again_when_it_is_confirmed(found: Answers) -> None:
    hal = found.person("hal")
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', check(hal, **FORM).text.partition("<main")[2]))
    assert hal.post("/halts", {**fields, "issuer": "acne"}).status == 400
    assert hal.post("/halts", {**fields, "reason": "a\r\nb"}).status == 400
    assert found.world.engine.halts == ()


@pytest.mark.parametrize("text", ["<script>pwned</script>", '"><img src=x>', "a\u202eb"])
def test_names_and_reasons_are_no_markup(found: Answers, text: str) -> None:
    hal = found.person("hal")
    pages = [check(hal, agent=text, reason=text, end="1h")]
    set_ = found.world.engine.halt(agent=text, reason=text, end=HOUR, by=text)
    pages += [hal.get("/halts"), hal.get(f"/halts/{set_.id}"), hal.get("/")]
    pages += [send(hal, f"/halts/{set_.id}/lift", {"reason": text}), hal.get("/halts")]
    for page in pages:
        assert page.status == 200
        assert not any(one in page.text for one in ("<script>pwned", "<img", "\u202eb</", ": \u202e"))


@pytest.mark.parametrize("id", ["x", "%0d%0aX:y", "..%2fnew", "\u00e9".encode().hex()])
def test_an_unknown_halt_is_not_found(found: Answers, id: str) -> None:
    assert found.person("hal").get(f"/halts/{id}").status == 404
    assert send(found.person("hal"), f"/halts/{id}/lift", {"reason": "x"}).status == 404


def test_a_halt_in_the_file_is_lifted_there(tmp_path: Path) -> None:
    file = tmp_path / "halts.json"
    file.write_text('{"halts": [{"id": "f1", "agent": "x", "reason": "y", "until": "2099-01-01T00:00:00Z"}]}')
    file.chmod(0o600)
    with answering(tmp_path, engine_options={"halt_file": file}) as found:
        page = send(found.person("hal"), "/halts/f1/lift", {"reason": "x"})
        assert (page.status, "remove it there" in page.text) == (400, True)
