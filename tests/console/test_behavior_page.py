"""The page of learned behavior, and that it is only in the menu if there is something to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine.behavior.state import BehaviorState
from policyengine.behavior.tracker import BehaviorTracker
from tests.console.world import POLICY, World, console

LEARNING = POLICY + 'guard "odd" on POST /refunds { deny when behavior.novelty > 0.99 }\n'.replace("{", "{{").replace(
    "}", "}}"
)


def test_policies_that_read_no_behavior_have_no_such_page_in_the_menu(world: World) -> None:
    operator = world.operator()
    assert 'href="/behavior"' not in operator.get("/").text
    assert "read no learned behavior" in operator.get("/behavior").text


def test_the_page_lists_the_callers_that_were_active_last(tmp_path: Path) -> None:
    with console(tmp_path, policy=LEARNING) as world:
        world.engine.use_behavior(BehaviorTracker())
        operator = world.operator()
        assert "No caller is known yet" in operator.get("/behavior").text
        for number in range(3):
            world.decide(agent={"id": "bot", "issuer": "acme", "instance": f"pod-{number}\u202e"})
        page = operator.get("/")
        assert 'href="/behavior"' in page.text
        page = operator.get("/behavior")
        assert page.text.count('href="/log?agent=bot"') == 3
        assert "\u202e" not in page.text
        assert [page.text.index(f"pod-{number}") for number in (2, 1, 0)] == sorted(
            page.text.index(f"pod-{number}") for number in range(3)
        )


def test_recent_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = BehaviorTracker()
    assert tracker.recent_callers(10) == []
    rows = {f"caller-{number}": number for number in range(100)}
    monkeypatch.setattr(BehaviorState, "rows", property(lambda state: rows))
    assert tracker.recent_callers(2) == [("caller-99", 99), ("caller-98", 98)]
