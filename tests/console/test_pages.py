"""The pages: traffic, the search in the log, and one decision with its walk and its proof."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

from policyengine.audit.seal.proofs import InclusionProof
from policyengine.engine import Engine
from policyengine.reload import ReloadableEngine
from policyengine.server.console.pages import log_search
from tests.console.world import Page, Visitor, World, console

CLOSED = {"request": {"method": "GET", "path": "/invoices/66"}}
PAYLOADS = (
    "<script>window.pwned = 1</script>", '"><img src=x onerror="window.pwned=1">',
    "</pre><script>window.pwned=1</script>",
    "{{ 7 * 7 }}", "javascript:alert(1)", "\u202emalory", "a\u200bb",
)  # fmt: skip


@pytest.fixture
def operator(world: World) -> Visitor:
    return world.operator()


def words(page: Page) -> str:
    """Return the text of a page without markup."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.text.partition("<main")[2])).split())


def rows(page: Page) -> list[str]:
    table = page.text.partition("<tbody>")[2].partition("</tbody>")[0]
    return [" ".join(unescape(re.sub(r"<[^>]*>", " ", row)).split()) for row in table.split("</tr>")[:-1]]


# ── Overview ──────────────────────────────────────────────────────────────────────────────────


def test_the_overview_counts_decisions_by_outcome(world: World, operator: Visitor) -> None:
    world.decide()
    world.decide(body={"amount": 1})
    for _ in range(3):
        world.decide(**CLOSED)
    page = operator.get("/")
    counts = dict(re.findall(r'data-count="(\w+)">([\d,]+)<', page.text))
    assert counts == {"allow": "1", "deny": "3", "confirm": "1", "throttle": "0"}
    assert json.loads(operator.get("/counts").text)["outcomes"] == {"allow": 1, "deny": 3, "confirm": 1, "throttle": 0}


def test_the_overview_links_rules_to_their_records(world: World, operator: Visitor) -> None:
    world.tally.learn(["closed"])
    world.decide(**CLOSED)
    page = operator.get("/")
    assert 'href="/log?rule=closed&amp;outcome=deny"' in page.text
    assert len(rows(operator.get("/log?rule=closed&outcome=deny"))) == 1


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def test_the_log_shows_the_newest_decisions_first(world: World, operator: Visitor) -> None:
    first, second = world.decide(), world.decide(**CLOSED)
    page = operator.get("/log")
    assert [row[20:] for row in rows(page)] == [
        "deny bot alice GET /invoices/{id} closed",
        "confirm bot alice POST /refunds large refunds",
    ]
    assert page.text.index(second.id) < page.text.index(first.id)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("outcome=deny", 1), ("outcome=confirm", 2), ("agent=bot", 3), ("agent=other", 0), ("user=al*", 3),
        ("rule=closed", 1), ("endpoint=POST+/refunds", 2), ("since=1h", 3), ("until=2020-01-01", 0),
        ("kind=system", 1), ("kind=all", 4), ("agent=bot&outcome=deny", 1), ("unknown=x", 3), ("agent=", 3),
    ],
)  # fmt: skip
def test_a_search_finds_the_records_that_match(world: World, operator: Visitor, query: str, count: int) -> None:
    world.decide()
    world.decide()
    world.decide(**CLOSED)
    assert len(rows(operator.get(f"/log?{query}"))) == count


def test_a_search_is_the_query_of_the_command_line(world: World, operator: Visitor) -> None:
    world.decide()
    page = operator.get("/log?outcome=confirm")
    assert f"policyengine audit query {world.log} --outcome=confirm --limit=50" in page.text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("outcome=denied", "there is no outcome `denied`"),
        ("since=yesterday", "is neither a time nor a duration"),
        ("since=2026-01-02&until=2026-01-01", "no time is both after"),
    ],
)
def test_a_search_that_makes_no_sense_says_why(operator: Visitor, query: str, message: str) -> None:
    page = operator.get(f"/log?{query}")
    assert page.status == 400
    assert message in words(page)


def test_older_records_are_on_further_pages(world: World, operator: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "PAGE_SIZE", 2)
    ids = [world.decide().id for _ in range(5)]
    shown: list[str] = []
    path: str | None = "/log?outcome=confirm"
    while path is not None:
        page = operator.get(path)
        shown += re.findall(r"/decisions/(\w{26})", page.text)
        link = re.search(r'rel="next" href="([^"]+)"', page.text)
        path = None if link is None else unescape(link[1])
    assert shown == ids[::-1]


@pytest.mark.parametrize("text", PAYLOADS)
def test_what_agents_write_is_escaped_and_marked(world: World, operator: Visitor, text: str) -> None:
    decision = world.decide(agent={"id": text, "issuer": text}, body={"amount": 900, "note": text})
    for path in ("/log", f"/log?agent={text.encode().hex()}", f"/decisions/{decision.id}"):
        page = operator.get(path)
        assert page.status == 200
        assert "<script>window" not in page.text
        assert "<img" not in page.text
        assert "\u202e" not in page.text
        assert "\u200b" not in page.text
        assert ">49<" not in page.text


def test_a_search_text_is_escaped_in_the_form(operator: Visitor) -> None:
    page = operator.get("/log?agent=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in page.text


# ── One decision ──────────────────────────────────────────────────────────────────────────────


def test_a_decision_shows_its_walk_with_rules_and_their_places(world: World, operator: Visitor) -> None:
    page = operator.get(f"/decisions/{world.decide(**CLOSED).id}")
    shown = words(page)
    assert "deny by guard closed : invoice 66 is closed shop.policy:12" in shown.replace("/", " ").split(" ", 0)[0] or (
        re.search(r"deny by guard closed : invoice 66 is closed \S*shop\.policy:\d+", shown)
    )
    for gate in ("identity", "door", "user", "chain", "guards"):
        assert re.search(rf"(holds|fails|not considered): {gate}", shown)
    assert re.search(r'fails: guard "closed" \S*shop\.policy:\d+', shown)
    assert 'params.id = "66"' in shown
    assert '"path": "/invoices/66"' in shown


def test_a_confirm_shows_what_would_change_it(world: World, operator: Visitor) -> None:
    shown = words(operator.get(f"/decisions/{world.decide().id}"))
    assert "What would change the decision an approval by role finance, valid for 15m" in shown


def test_a_sealed_decision_has_a_proof_that_can_be_checked(world: World, operator: Visitor) -> None:
    decision = world.decide()
    world.close_log()
    page = operator.get(f"/decisions/{decision.id}")
    assert "sealed as line" in words(page)
    proof = operator.get(f"/decisions/{decision.id}/proof")
    assert proof.headers["Content-Disposition"] == f'attachment; filename="{decision.id}.tlog-proof"'
    found = InclusionProof.parse(proof.text)
    found.check()
    assert decision.id.encode() in found.line


def test_a_changed_record_is_shown_as_broken(world: World, operator: Visitor) -> None:
    decision = world.decide()
    world.close_log()
    world.log.write_text(world.log.read_text().replace('"amount":900', '"amount":901'))
    page = operator.get(f"/decisions/{decision.id}")
    assert 'class="seal-broken"' in page.text
    assert operator.get(f"/decisions/{decision.id}/proof").status == 404


def test_a_decision_without_a_seal_has_no_proof(tmp_path: Path) -> None:
    with console(tmp_path, seal=False) as world:
        decision, operator = world.decide(), world.operator()
        assert "the log has no seal" in words(operator.get(f"/decisions/{decision.id}"))
        page = operator.get(f"/decisions/{decision.id}/proof")
        assert page.status == 404
        assert "no proof" in words(page)


def test_the_reported_outcome_is_shown(world: World, operator: Visitor) -> None:
    decision = world.decide(body={"amount": 1})
    world.engine.report(decision.id, status=201, latency_ms=12)
    assert "ended with status 201 after 12 ms" in words(operator.get(f"/decisions/{decision.id}"))


@pytest.mark.parametrize(
    "id", ["01M8MQQTMGEW6CZHTAECMQM3ZG", "x", "..%2f..%2fetc", "%3Cscript%3E", "Z" * 26, "0" * 500, "%ff"]
)
def test_an_unknown_decision_is_not_found(operator: Visitor, id: str) -> None:
    page = operator.get(f"/decisions/{id}")
    assert page.status == 404
    assert "<script>" not in page.text.partition("<main")[2]


def test_a_decision_of_other_policies_is_explained_with_the_current_ones(tmp_path: Path) -> None:
    with console(tmp_path) as world:
        decision = world.decide(**CLOSED)
        reloading: ReloadableEngine = world.server.console.reloading
        engine = Engine.from_text("anyone { may GET /invoices/{id} }", log=world.engine.log)
        reloading.current = engine
        shown = words(world.operator().get(f"/decisions/{decision.id}"))
        assert "Other policies made this decision" in shown
        assert "The current policies decide differently" in shown


def test_redacted_facts_are_not_shown(world: World, operator: Visitor) -> None:
    decision = world.decide(body={"amount": 900, "note": "x"}, context={"password": "hunter2"})
    page = operator.get(f"/decisions/{decision.id}")
    assert page.status == 200
    assert "hunter2" not in page.text
    assert "redacted:" in page.text
