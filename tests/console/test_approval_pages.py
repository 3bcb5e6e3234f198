"""The inbox and the page of an approval: what people see, who may answer, and every way round that."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.approvals.eligibility import ApproverRefusal, ProvedPerson
from policyengine.approvals.links import approval_url
from policyengine.audit import OnFailure
from policyengine.control_characters import split_invisible
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.server.console.notices import KEPT_SECONDS, WaitingCounts
from policyengine.server.console.pages import approvals
from policyengine.server.console.pages.approval import tree_lines
from policyengine.stores.base import StoreError
from policyengine.typesystem import EntityRef
from tests.console.answering import POLICY, Answers, answer, answering, send
from tests.console.world import Page, Provider, StartedLogin, console, login_of


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Answers]:
    with answering(tmp_path) as answers:
        yield answers


# ── The inbox ─────────────────────────────────────────────────────────────────────────────────


def test_people_see_what_waits_for_them_and_what_waits_for_others(found: Answers) -> None:
    found.open(body={"amount": 900, "note": "first"})
    found.open("/own")
    page = found.person("fay").get("/approvals")
    mine, _, others = page.text.partition("<h2>For others</h2>")
    assert "refund of 900: &#34;first&#34;" in mine
    assert "bot for alice" in mine
    assert "own" in others
    assert "refund" not in others
    assert "1 request waits for you." in mine


def test_a_viewer_sees_all_that_waits_and_no_button(found: Answers) -> None:
    id = found.open()
    viewer = found.person("alice")
    listed, shown = viewer.get("/approvals"), viewer.get(f"/approvals/{id}")
    assert f'href="/approvals/{id}"' in listed.text
    assert "For you" not in listed.text
    assert shown.status == 200
    assert "you do not have the role `approve`" in shown.text
    for page in (listed, shown):
        assert page.text.count('method="post"') == 1  # signing out


def test_the_menu_has_the_number_of_requests_that_wait_for_the_person(found: Answers) -> None:
    for amount in (900, 901):
        found.open(body={"amount": amount})
    assert '<span class="count" data-waiting>2</span>' in found.person("fay").get("/log").text
    assert 'class="count"' not in found.person("bob").get("/log").text
    assert 'class="count"' not in found.person("alice").get("/log").text


def test_the_number_in_the_menu_is_counted_once_a_second_for_each_person(found: Answers) -> None:
    now, engine, fay = [0.0], found.world.engine, ProvedPerson("fay", "acme")
    counts = WaitingCounts(lambda: now[0])
    assert counts.count(engine, fay) == 0
    found.open()
    assert (counts.count(engine, fay), counts.count(engine, ProvedPerson("gus", "acme"))) == (0, 1)
    now[0] = KEPT_SECONDS
    assert counts.count(engine, fay) == 1
    found.open("/wipe")
    counts.forget()
    assert counts.count(engine, fay) == 2


def test_the_number_in_the_menu_falls_with_an_answer(found: Answers) -> None:
    visitor, id = found.person("fay"), found.open()
    assert 'class="count"' in visitor.get("/").text
    assert 'class="count"' not in answer(visitor, id).text


def test_the_script_gets_the_same_rows_and_keeps_no_session_alive(found: Answers) -> None:
    visitor = found.person("fay")
    id = found.open(body={"amount": 900}, agent={"id": "bot\u202eb", "issuer": "acme"}, user={"id": "alice"})
    told = json.loads(visitor.get("/approvals/waiting").text)
    [row] = told["tables"]["mine"]
    assert row["cells"][0]["href"] == f"/approvals/{id}"
    assert row["cells"][1]["parts"] == [["bot", False], ["U+202E", True], ["b for alice", False]]
    assert (told["waiting"], told["status"]) == (1, "1 request waits for you.")
    sessions = found.world.server.console.sessions
    began = sessions._clock()
    for minutes, path, status in ((20, "/approvals/waiting", 200), (31, "/approvals", 303)):
        sessions._clock = lambda passed=60 * minutes: began + passed
        assert visitor.get(path).status == status


def test_the_inbox_is_bounded(found: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MAX_APPROVALS_SHOWN", 2)
    for amount in (900, 901, 902):
        found.open(body={"amount": amount})
        found.clock.now += 1
    page = found.person("fay").get("/approvals").text
    assert "3 requests wait for you." in page
    assert [number in page for number in ("refund of 900", "refund of 901", "refund of 902")] == [False, True, True]


def test_policies_without_a_confirm_have_no_inbox(tmp_path: Path) -> None:
    with console(tmp_path, policy="language 1\npackage x\nanyone {{ may GET /health }}") as world:
        visitor = world.operator()
        assert 'href="/approvals"' not in visitor.get("/").text
        assert "request no approvals" in visitor.get("/approvals").text
        assert visitor.get(f"/approvals/{'a' * 48}").status == 404
        assert json.loads(visitor.get("/approvals/waiting").text)["waiting"] == 0


# ── Everything that an approver must see ──────────────────────────────────────────────────────


def test_the_page_shows_everything_about_the_request(found: Answers) -> None:
    found.open(body={"amount": 200, "note": "before"})
    id = found.open(
        body={
            "amount": 900,
            "note": "lunch",
            "card": {"token": "4242-secret", "last4": "4242"},
            "list": [1, None, True],
        }
    )
    page = found.person("fay").get(f"/approvals/{id}").text
    for text in (
        "refund of 900: &#34;lunch&#34;", "large refunds", "POST /refunds", "role finance", "15m",
            "<dd>bot</dd>", "<dd>acme</dd>",
        "<dd>alice</dd>", "These are the words of the requester", '<span class="number">900</span>',
        '<q class="text">4242</q>', '<span class="word">null</span>', '<span class="word">true</span>',
        "UTC, within 1d.", "2 confirm", "Other approvals: 1 pending",
    ):  # fmt: skip
        assert text in page, text
    assert "4242-secret" not in page
    assert "redacted:" in page


def test_the_page_shows_the_rows_of_the_user_and_of_what_the_rule_reads_without_secrets(found: Answers) -> None:
    id = found.open("/invoices/7/void")
    page = found.person("fay").get(f"/approvals/{id}").text.partition("What the entities say")[2]
    for text in ("user <q>alice</q>", "invoice <q>7</q>", "user &#34;gus&#34;", "user <q>gus</q>"):
        assert text in page
    assert "hunter2" not in page


def test_the_console_and_the_api_show_the_same(found: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    from policyengine.engine import approval_context
    from policyengine.server.console.pages import approval

    shown: list[dict[str, object]] = []

    def describe(*given: Any) -> dict[str, object]:
        shown.append(approval_context.describe_details(*given))
        return shown[-1]

    monkeypatch.setattr(approval, "describe_details", describe)
    found.person("fay").get(f"/approvals/{found.open()}")
    assert {"question", "directory", "history", "requester", "rule"} <= set(shown[0])


def test_without_a_log_the_history_is_unknown(tmp_path: Path) -> None:
    with answering(tmp_path, log=False) as found:
        id = found.open()
        assert "this server writes no decision log" in found.person("fay").get(f"/approvals/{id}").text


def test_an_approval_by_two_shows_who_approved(found: Answers) -> None:
    id = found.open("/wipe")
    page = answer(found.person("fay"), id)
    assert "1 more person must approve" in page.text
    shown = found.person("gus").get(f"/approvals/{id}").text
    assert "1 of 2" in shown
    assert "fay of acme" in shown
    assert "(1 of 2 have approved)" in found.person("gus").get("/approvals").text
    assert "You have approved this request" in found.person("fay").get(f"/approvals/{id}").text
    assert "now passes, once" in answer(found.person("gus"), id).text
    assert found.state(id) == "approved"


@pytest.mark.parametrize("id", ["x", "A" * 48, "a" * 47, "a" * 48, "..%2f..", "%0d%0aSet-Cookie:x=1", "%00"])
def test_an_unknown_approval_is_not_found(found: Answers, id: str) -> None:
    for page in (found.person("fay").get(f"/approvals/{id}"), answer(found.person("fay"), id)):
        assert page.status == 404
        assert page.headers["Set-Cookie"] is None


def test_lines_of_a_tree_have_the_kind_of_each_value() -> None:
    lines = tree_lines({"a": {}, "b": [{"c": 1.5}], "d": False, "e": "", "f": None})
    assert [(one.name, one.kind, one.text) for one in lines] == [
        ("a", "object", "empty"), ("b", "list", ""), ("d", "word", "false"), ("e", "text", ""), ("f", "word", "null"),
    ]  # fmt: skip
    assert lines[1].parts[0].parts[0].text == "1.5"


def test_invisible_characters_are_split_from_text() -> None:
    assert [*split_invisible("")] == []
    assert [*split_invisible("\u200b\u200b")] == [("U+200B", True), ("U+200B", True)]
    assert [*split_invisible("a\tb\n")] == [("a\tb", False), ("U+000A", True)]
    assert [*split_invisible("a\u3164b\u2714\ufe0f")] == [("a", False), ("U+3164", True), ("b\u2714\ufe0f", False)]


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


def test_an_approved_request_passes_once(found: Answers) -> None:
    id = found.open()
    page = answer(found.person("fay"), id)
    assert (page.status, "Exactly this request now passes, once, within 15m." in page.text) == (200, True)
    assert [found.world.decide().allowed for _ in range(2)] == [True, False]
    assert found.state(id) == "spent"
    assert "A request has passed with this approval" in found.person("gus").get(f"/approvals/{id}").text


def test_a_denial_has_a_reason_on_one_line(found: Answers) -> None:
    id = found.open()
    page = answer(found.person("fay"), id, "deny", reason=" already\r\nX-Injected: paid ")
    assert page.status == 200
    assert found.state(id) == "denied"
    refusal = found.find(id).approval.refusal
    assert refusal is not None
    assert refusal.reason == "already X-Injected: paid"
    assert "fay has denied this request" in found.person("gus").get(f"/approvals/{id}").text


def test_an_answer_is_two_records_with_the_person_and_the_issuer(found: Answers) -> None:
    id = found.open()
    answer(found.person("fay"), id)
    who = {"user": "fay", "issuer": "acme", "by": "issuer", "approval": id}
    assert found.acts() == [("console_answered", {**who, "answer": "approve", "result": "approved"})]
    [vote] = found.find(id).approval.votes
    assert (vote.by, vote.issuer) == ("fay", "acme")
    answer(found.person("gus"), id, "deny")
    _, told = found.acts()[-1]
    assert (told["user"], told["answer"]) == ("gus", "deny")
    assert told["result"].startswith("refused: the approval is approved")


def test_nothing_changes_if_the_answer_cannot_be_recorded(found: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor, id, log = found.person("fay"), found.open(), found.world.engine.log
    assert log is not None
    assert log.on_failure is OnFailure.DENY
    monkeypatch.setattr(log.system, "_write", lambda details, moment: False)
    assert answer(visitor, id).status == 503
    assert found.state(id) == "pending"


def test_a_store_that_does_not_answer_is_said(found: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor, id = found.person("fay"), found.open()

    def fail(*given: object) -> None:
        raise StoreError("the store is gone")

    for name in ("find", "rows"):
        monkeypatch.setattr(found.world.engine.store.approvals, name, fail)
    assert visitor.get("/approvals").status == 200
    assert "The approvals are unknown" in visitor.get("/approvals").text
    assert visitor.get("/approvals/waiting").status == 503
    assert visitor.get(f"/approvals/{id}").status == 503
    assert answer(visitor, id).status == 503


# ── The person with a link ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", [POLICY, POLICY.replace("role finance within", "role finance from acme within")])
def test_a_person_with_a_link_answers_nothing_without_an_issuer(tmp_path: Path, policy: str) -> None:
    with answering(tmp_path, link_user="fay", policy=policy) as found:
        visitor, id = found.world.operator(), found.open()
        assert "no issuer vouches for the person who signs in with a link" in visitor.get(f"/approvals/{id}").text
        assert answer(visitor, id).status == 403
        assert found.state(id) == "pending"


@pytest.mark.parametrize(
    ("user", "settings", "status"),
    [("fay", {}, 200), ("bob", {}, 403), ("alice", {}, 403), ("fay", {"issuers": ("other",)}, 403)],
    ids=["named by the rule", "not named", "the requester", "of an issuer that may not name approvers"],
)
def test_a_person_with_a_link_and_an_issuer_is_that_user_and_no_more(
    tmp_path: Path, user: str, settings: dict[str, Any], status: int
) -> None:
    with answering(tmp_path, link_user=user, link_issuer="acme", settings=settings) as found:
        id = found.open()
        assert answer(found.world.operator(), id).status == status
        assert found.state(id) == ("approved" if status == 200 else "pending")
        [(_, told)] = found.acts()
        assert (told["user"], told.get("issuer"), told["by"]) == (user, None, "link")


def test_a_revoked_user_with_a_link_may_not_answer(tmp_path: Path) -> None:
    with answering(tmp_path, link_user="fay", link_issuer="acme") as found:
        visitor, id = found.world.operator(), found.open()
        now = int(time.time())
        found.world.engine.store.marks.revoke(["user:acme/fay"], now + 60, now)
        assert answer(visitor, id).status == 403
        assert found.state(id) == "pending"
        assert visitor.get("/halts").status == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"link_issuer": "acne"}, "no policy names the issuer `acne`"),
        ({"link_issuer": "acme", "login": login_of(), "view": ["*"]}, "has no effect with `[console] issuer`"),
    ],
)
def test_a_wrong_issuer_of_links_starts_no_console(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    from policyengine.server.listeners import ServeError

    with pytest.raises(ServeError, match=re.escape(words)), console(tmp_path, **options):
        pass


# ── Attacks ───────────────────────────────────────────────────────────────────────────────────


def no_token(found: Answers, id: str) -> Page:
    return found.person("fay").post(f"/approvals/{id}/approve", {})


def token_of_another_session(found: Answers, id: str) -> Page:
    token = found.person("fay").get("/").field("csrf")
    return found.person("fay").post(f"/approvals/{id}/approve", {"csrf": token})


def token_of_another_person(found: Answers, id: str) -> Page:
    return found.person("gus").post(f"/approvals/{id}/approve", {"csrf": found.person("fay").get("/").field("csrf")})


def another_origin(found: Answers, id: str) -> Page:
    return send(found.person("fay"), f"/approvals/{id}/approve", Origin="https://evil.example")


def cross_site(found: Answers, id: str) -> Page:
    return send(found.person("fay"), f"/approvals/{id}/approve", Sec_Fetch_Site="cross-site")


def rebound_name(found: Answers, id: str) -> Page:
    return send(found.person("fay"), f"/approvals/{id}/approve", Host="evil.example")


def token_in_the_query(found: Answers, id: str) -> Page:
    visitor = found.person("fay")
    return visitor.post(f"/approvals/{id}/approve?csrf={visitor.get('/').field('csrf')}", {})


def body_of_json(found: Answers, id: str) -> Page:
    visitor = found.person("fay")
    body = json.dumps({"csrf": visitor.get("/").field("csrf")})
    return visitor.send("POST", f"/approvals/{id}/approve", body, {"Content-Type": "application/json"})


def planted_session(found: Answers, id: str) -> Page:
    """Session fixation: the id of a session that an attacker chose."""
    visitor = found.world.visitor()
    visitor.cookies[found.world.server.console.cookies.name("session")] = "chosen-by-an-attacker"
    return visitor.post(f"/approvals/{id}/approve", {"csrf": "chosen-by-an-attacker"})


def ended_session(found: Answers, id: str) -> Page:
    visitor = found.person("fay")
    token, old = visitor.get("/").field("csrf"), dict(visitor.cookies)
    visitor.post("/sign-out", {"csrf": token})
    visitor.cookies = old
    return visitor.post(f"/approvals/{id}/approve", {"csrf": token})


def bearer_token(found: Answers, id: str) -> Page:
    """The token of an agent, or of a person, is no session."""
    return found.world.visitor().post(
        f"/approvals/{id}/approve", {"csrf": "x"}, Authorization="Bearer eyJhbGciOiJub25lIn0.e30."
    )


def a_viewer(found: Answers, id: str) -> Page:
    return answer(found.person("alice"), id)


def not_named_by_the_rule(found: Answers, id: str) -> Page:
    return answer(found.person("bob"), id)


def the_agent_itself(found: Answers, id: str) -> Page:
    """A person whose name is that of the requesting agent."""
    return answer(found.person("bot"), id)


def an_agent_in_another_spelling(found: Answers, id: str) -> Page:
    found.world.engine.replace_directory(EntityStore([EntityData(EntityRef("user", "BOT"), {"roles": ["finance"]})]))
    return answer(found.person("BOT"), id)


def another_issuer(found: Answers, id: str) -> Page:
    return answer(found.world.person("fay", "partner"), id)


def a_halted_person(found: Answers, id: str) -> Page:
    found.world.engine.halt(user="fay", reason="stolen laptop", end=timedelta(hours=1))
    return answer(found.person("fay"), id)


def everything_halted(found: Answers, id: str) -> Page:
    found.world.engine.halt(everything=True, reason="incident", end=timedelta(hours=1))
    return answer(found.person("fay"), id)


def a_role_lost_between_page_and_click(found: Answers, id: str) -> Page:
    visitor = found.person("fay")
    token = visitor.get(f"/approvals/{id}").field("csrf")
    rows = [EntityData(EntityRef("user", "fay"), {"roles": ["sales"]})]
    found.world.engine.replace_directory(EntityStore(rows))
    return visitor.post(f"/approvals/{id}/approve", {"csrf": token})


FORBIDDEN: tuple[Callable[[Answers, str], Page], ...] = (
    no_token, token_of_another_session, token_of_another_person, another_origin, cross_site, rebound_name,
    token_in_the_query, planted_session, ended_session, bearer_token, a_viewer, not_named_by_the_rule,
    the_agent_itself, an_agent_in_another_spelling, another_issuer, a_halted_person, everything_halted,
    a_role_lost_between_page_and_click,
)  # fmt: skip


@pytest.mark.parametrize("attack", FORBIDDEN, ids=lambda attack: attack.__name__.replace("_", " "))
def test_nobody_approves_by(found: Answers, attack: Callable[[Answers, str], Page]) -> None:
    id = found.open()
    page = attack(found, id)
    assert page.status == 403
    assert found.state(id) == "pending"
    assert found.find(id).approval.votes == ()


def test_a_body_that_is_no_form_approves_nothing(found: Answers) -> None:
    id = found.open()
    assert body_of_json(found, id).status == 400
    assert found.state(id) == "pending"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_following_a_link_answers_nothing(found: Answers, method: str, verb: str) -> None:
    id = found.open()
    assert found.person("fay").send(method, f"/approvals/{id}/{verb}").status == 405
    assert found.person("fay").send(method, f"/approvals/{id}").status == 200
    assert found.state(id) == "pending"


def test_the_requester_does_not_approve_their_own_request(found: Answers) -> None:
    id = found.open(user={"id": "fay"})
    page = found.person("fay").get(f"/approvals/{id}")
    assert ApproverRefusal.REQUESTER.value in page.text
    assert ApproverRefusal.REQUESTER.value in answer(found.person("fay"), id).text
    assert found.state(id) == "pending"


def test_the_user_of_the_request_answers_if_the_rule_says_so(found: Answers) -> None:
    id = found.open("/own", user={"id": "fay"})
    assert answer(found.person("gus"), id).status == 403
    assert answer(found.person("fay"), id).status == 200


def test_a_double_click_approves_once(found: Answers) -> None:
    id, visitor = found.open(), found.person("fay")
    pages = [answer(visitor, id) for _ in range(2)]
    assert [page.status for page in pages] == [200, 409]
    assert "can no longer be answered" in pages[1].text
    assert len(found.find(id).approval.votes) == 1


def test_two_sessions_of_one_person_are_one_of_two(found: Answers) -> None:
    id = found.open("/wipe")
    for _ in range(2):
        assert "1 more person must approve" in answer(found.person("fay"), id).text
    assert found.state(id) == "pending"
    assert len(found.find(id).approval.votes) == 1


def test_an_approval_that_has_expired_meanwhile_is_not_given(found: Answers) -> None:
    id, visitor = found.open(), found.person("fay")
    token = visitor.get(f"/approvals/{id}").field("csrf")
    found.clock.now += 86_401
    page = visitor.post(f"/approvals/{id}/approve", {"csrf": token})
    assert (page.status, "the approval is expired" in page.text) == (409, True)
    assert "Your answer" not in visitor.get(f"/approvals/{id}").text


def test_an_approval_that_somebody_denied_meanwhile_is_not_given(found: Answers) -> None:
    id = found.open()
    answer(found.person("gus"), id, "deny")
    assert answer(found.person("fay"), id).status == 409
    assert found.state(id) == "denied"


def test_an_approval_that_a_reload_has_voided_is_not_given(found: Answers) -> None:
    id, visitor = found.open(), found.person("fay")
    token = visitor.get(f"/approvals/{id}").field("csrf")
    changed = POLICY.replace("> 100", "> 50").format(url="https://issuer.example")
    engine = found.world.engine
    found.world.server.console.reloading.current = engine.successor(Engine.from_text(changed).kernel)
    assert "the policies have changed since the request" in visitor.get(f"/approvals/{id}").text
    page = visitor.post(f"/approvals/{id}/approve", {"csrf": token})
    assert (page.status, "the policies have changed" in page.text) == (409, True)
    assert found.state(id) == "pending"
    assert "1 request waits" not in visitor.get("/approvals").text


HOSTILE = (
    "<script>window.pwned=1</script>", '"><img src=x onerror=pwned>', "'--><svg onload=pwned>", "a\u202eb\u200bc\x00d",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_the_requester_writes_is_markup(found: Answers, text: str) -> None:
    hostile = text.replace("\x00", "\x01")
    body = {"amount": 900, "note": hostile, hostile: {hostile: [hostile]}}
    id = found.open(agent={"id": f"bot{hostile}", "issuer": "acme"}, user={"id": hostile}, body=body)
    visitor = found.person("fay")
    pages = [visitor.get("/approvals").text, visitor.get(f"/approvals/{id}").text]
    pages.append(answer(visitor, id, "deny", reason=hostile).text)
    pages.append(visitor.get(f"/approvals/{id}").text)
    for page in pages:
        assert "<script>" not in page.replace('<script src="', "")
        assert not any(one in page for one in ("<img", "<svg", "\u202e", "\u200b", "\x01"))
    assert visitor.get("/approvals/waiting").headers["Content-Type"] == "application/json"


def test_no_page_of_an_approval_can_be_framed_or_kept(found: Answers) -> None:
    id = found.open()
    for path in ("/approvals", f"/approvals/{id}", "/approvals/waiting"):
        headers = found.person("fay").get(path).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"


def test_a_link_in_a_chat_leads_through_the_sign_in_to_the_approval(tmp_path: Path, provider: Provider) -> None:
    with answering(tmp_path, issuer=provider.url, login=login_of()) as found:
        id = found.open()
        visitor = found.world.visitor()
        page = visitor.get(f"/approvals/{id}")
        assert page.location == f"/sign-in?next=/approvals/{id}"
        provider.claims = {"sub": "fay"}
        login = StartedLogin.of(visitor, f"/approvals/{id}")
        assert login.answer(code=provider.code(login.asked["nonce"])).location == f"/approvals/{id}"
        assert answer(visitor, id).status == 200
        assert found.state(id) == "approved"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/approvals/x",
        "/\\evil.example/approvals",
        "https://evil.example/approvals",
        "/approvals/\r\nX: y",
    ],
)
def test_a_sign_in_for_an_approval_leads_to_no_other_site(tmp_path: Path, provider: Provider, path: str) -> None:
    with answering(tmp_path, issuer=provider.url, login=login_of()) as found:
        login = StartedLogin.of(found.world.visitor(), path)
        provider.claims = {"sub": "fay"}
        assert login.answer(code=provider.code(login.asked["nonce"])).location == "/"


# ── Links ─────────────────────────────────────────────────────────────────────────────────────


def test_the_remedy_links_to_the_page_if_the_console_has_a_url(tmp_path: Path) -> None:
    with answering(tmp_path, settings={"console_url": "https://console.example.com/"}) as found:
        question = {"options": {"request_approval": True}}
        [remedy] = found.world.decide(**question).remedies
        assert remedy.approval.page == f"https://console.example.com/approvals/{remedy.approval.id}"
    assert approval_url(None, "x") is None
