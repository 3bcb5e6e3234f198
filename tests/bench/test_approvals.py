"""What an approval costs is measured of requests that go all the way from a confirm to an allow."""

from __future__ import annotations

from pathlib import Path

from bench import approvals
from bench.approvals import ALONE, BESIDE, OPENED, PLAIN, SHOWN, STEPS, describe_times, engine, section, time_round
from policyengine.stores.memory.store import MemoryStore


def test_each_request_of_a_round_is_opened_answered_and_used() -> None:
    made, times = engine(MemoryStore()), {step: list[float]() for step in STEPS}
    time_round(made, 501, 3, times)
    assert {step: len(found) for step, found in times.items()} == dict.fromkeys(STEPS, 3)
    assert made.approvals is not None
    assert made.approvals.list() == []


def test_both_engines_of_other_allows_are_timed_equally_often() -> None:
    times = approvals.time_other_allows(rounds=2, calls=3)
    assert {name: len(found) for name, found in times.items()} == {PLAIN: 6, BESIDE: 6}


def test_a_page_of_the_console_shows_decisions_while_they_are_timed(tmp_path: Path) -> None:
    times: list[float] = []
    with approvals.serving_console(tmp_path) as (port, page):
        with page.shown():
            approvals.decide_over_http(port, 0.05, times)
        assert page.look() > 0
        assert page.looks >= 2
    assert len(times) > 0


def test_the_targets_compare_medians() -> None:
    given = {(OPENED, "SQLite"): 2e-3, (PLAIN, "memory"): 1e-5, (BESIDE, "memory"): 1e-5, (ALONE, "SQLite"): 1e-3,
             (SHOWN, "SQLite"): 2e-3}  # fmt: skip
    found = [describe_times(what, where, [seconds] * 3) for (what, where), seconds in given.items()]
    made = section(found, ["`x` is not installed."], "a round", "a turn")
    assert [(round(target.seen or 0, 3), target.holds) for target in made.targets] == [
        (2.0, False), (1.0, True), (2.0, False),
    ]  # fmt: skip
    assert made.rows[0] == (OPENED, "SQLite", "2,000", "2,000", "3")
