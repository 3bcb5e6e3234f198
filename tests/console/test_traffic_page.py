"""The page of the live traffic, and the rows that its script asks for."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.server.console.pages.traffic import MAX_FILTER_LENGTH
from tests.console.world import Visitor, World, console


@pytest.fixture
def operator(world: World) -> Visitor:
    return world.operator()


def rows(visitor: Visitor, query: str = "") -> list[list[str]]:
    told = json.loads(visitor.get(f"/traffic/rows{query}").text)
    return [["".join(part for part, _ in cell["parts"]) for cell in row["cells"]] for row in told["tables"]["traffic"]]


def decide(world: World, **changed: Any) -> None:
    for amount in (1, 900):
        world.decide(body={"amount": amount}, **changed)


def test_the_newest_decisions_come_first(world: World, operator: Visitor) -> None:
    decide(world)
    found = rows(operator)
    assert [row[1:] for row in found] == [
        ["confirm", "bot", "alice", "POST /refunds", "large refunds"], ["allow", "bot", "alice", "POST /refunds", ""],
    ]  # fmt: skip
    page = operator.get("/traffic").text
    assert page.index("badge confirm") < page.index("badge allow")
    assert "The newest 2 decisions." in page


def test_a_decision_without_a_rule_shows_its_gate(world: World, operator: Visitor) -> None:
    world.engine.halt(everything=True, reason="x", end=timedelta(hours=1))
    decide(world)
    assert rows(operator)[0][1:] == ["deny", "bot", "alice", "POST /refunds", "halted"]


def test_new_decisions_appear(world: World, operator: Visitor) -> None:
    assert rows(operator) == []
    decide(world)
    assert len(rows(operator)) == 2


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?outcome=confirm", 1), ("?agent=other", 2), ("?agent=other&outcome=allow", 0), ("?outcome=deny", 2),
        ("?outcome=nonsense", 4), ("?agent=oth", 0), ("?agent=*", 0),
    ],
)  # fmt: skip
def test_the_rows_can_be_filtered(world: World, operator: Visitor, query: str, count: int) -> None:
    decide(world)
    decide(world, agent={"id": "other", "issuer": "acme"})
    assert len(rows(operator, query)) == count
    assert operator.get(f"/traffic{query}").text.count("data-key") == count


def test_without_a_script_the_page_reloads_by_a_link_with_its_filters(operator: Visitor) -> None:
    page = operator.get("/traffic?outcome=deny&agent=%22%3E%3Cimg%3E").text
    assert 'href="/traffic?outcome=deny&amp;agent=%22%3E%3Cimg%3E">Reload</a>' in page
    assert 'data-live="/traffic/rows?outcome=deny&amp;agent=%22%3E%3Cimg%3E"' in page
    assert "<img" not in page


def test_a_long_filter_is_cut(operator: Visitor) -> None:
    page = operator.get(f"/traffic?agent={'x' * 2_000}").text
    assert "x" * MAX_FILTER_LENGTH in page
    assert "x" * (MAX_FILTER_LENGTH + 1) not in page


def test_without_a_log_there_is_no_traffic(tmp_path: Path) -> None:
    with console(tmp_path, log=False) as world:
        visitor = world.operator()
        page = visitor.get("/traffic")
        assert (page.status, "writes no decision log" in page.text) == (503, True)
        assert visitor.get("/traffic/rows").status == 503


def test_the_traffic_needs_a_session_and_no_other_site_may_ask(world: World, operator: Visitor) -> None:
    assert world.visitor().get("/traffic/rows").status == 303
    assert operator.get("/traffic/rows", Host="evil.example").status == 403
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}
    assert operator.get("/traffic/rows", **headers).status == 403
