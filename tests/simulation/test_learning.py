"""Learned behavior on the virtual clock: what a simulation with `--learn` counts, draws and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from policyengine.engine import Engine
from policyengine.simulation import (
    Series,
    SimulatedTracker,
    SimulationResult,
    TrafficEvent,
    TrafficTrace,
    VirtualClock,
    html,
    simulate,
    svg,
    text,
)
from policyengine.simulation.result import SimulatedLimit
from tests.analysis.working_agents import LEARNING
from tests.browser import assert_whole, measured
from tests.chromium import Chromium
from tests.simulation.playing import SECOND, START

HOUR, DAY = 3_600, 86_400
MONTH = 18


def asked(agent: int, at: float, *loops: tuple[str, int], path: str = "/data/sales") -> bytes:
    question = {
        "at": at, "agent": {"id": f"report-{agent}", "issuer": "acme"}, "request": {"method": "GET", "path": path},
        **({"repeat": [{"every": every, "times": times} for every, times in loops]} if loops else {}),
    }  # fmt: skip
    return json.dumps(question).encode()


def traffic(agents: int = 5) -> Iterator[TrafficEvent]:
    """Agents that work in the mornings; in the end one is as fast as it can be, and one reads secrets."""
    lines = [asked(agent, 9 * HOUR + agent, ("10s", 8), ("1h", 4), ("1d", MONTH)) for agent in range(agents)]
    evening = MONTH * DAY + 9 * HOUR
    lines += [asked(3, evening, ("500ms", 100)), asked(2, evening + 60, path="/secrets/1")]
    return TrafficTrace(START).read(lines)


def learned(events: Iterator[TrafficEvent], policy: str = LEARNING, width: int | None = None) -> SimulationResult:
    clock, tracker, series = VirtualClock(START), SimulatedTracker(), Series(START, width)
    engine = Engine.from_text(policy, clock=clock, behavior=tracker)
    simulate(engine, clock, events, series, tracker=tracker)
    limits = tuple(map(SimulatedLimit.of, engine.kernel.limits))
    return SimulationResult(engine.revision, ("these",), {}, limits, series, learning=True)


@pytest.fixture(scope="module")
def month() -> SimulationResult:
    return learned(traffic())


def test_trust_alarms_and_paces_of_callers_are_counted(month: SimulationResult) -> None:
    assert len(month.series.classes) == month.ready_callers == 5
    first, second, *_ = month.learned
    assert (first.caller.agent, first.group, first.total.ready) == ("report-3", 'agent "report-*"', True)
    assert 50 < first.total.bursts < 100
    assert first.total.throttle > 50
    assert first.total.slowest == pytest.approx(4 / 6_000)
    assert first.fastest == 3.0
    assert max(first.trusts()) > 600 > 300 > (first.total.trust or 0)
    assert (second.caller.agent, second.total.new_endpoints, second.total.confirm) == ("report-2", 1, 1)


def test_the_slots_of_callers_add_up_to_all_requests(month: SimulationResult) -> None:
    for place, slot in enumerate(month.slots):
        assert slot.events == sum(counts.events for counts in slot.learned.values()), place
    assert month.learned_total.events == month.total.events == 5 * 8 * 4 * MONTH + 101


def test_the_same_traffic_gives_the_same_result(month: SimulationResult) -> None:
    assert learned(traffic()).to_dict() == month.to_dict()


def test_facts_are_neutral_until_a_model_is_learned_on_the_virtual_clock(month: SimulationResult) -> None:
    days = [one for one in month.learned[0].slots if one is not None]
    assert not days[0].ready
    assert days[0].trust == 500
    assert days[-1].ready


def test_many_callers_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.simulation.time_slots.MAX_LEARNED_CALLERS", 3)
    found = learned(TrafficTrace(START).read([asked(number, number) for number in range(9)]))
    assert (len(found.series.classes), len(found.learned)) == (3, 3)
    assert found.learned_total.events == 9


def test_the_text_shows_each_caller_over_time(month: SimulationResult) -> None:
    shown = text.render_text(month, 60)
    assert "\nlearned: 5 of 5 callers ready\n  ready " in shown
    assert '\ncaller report-3, agent "report-*"\n  admitted ' in shown
    assert "  1 at new endpoints\n" in shown
    assert "×0.00067 to ×3 of the rates" in shown
    assert text.render_text(month, 60, ascii=True).replace("×", "x").isascii()


def test_the_json_has_the_learned_behavior_of_callers_over_time(month: SimulationResult) -> None:
    found: dict[str, Any] = month.to_dict()["learned"]
    assert (found["callers"], found["ready"], found["new_endpoints"]) == (5, 5, 1)
    first = found["shown"][0]
    assert (first["agent"], first["issuer"], first["class"]) == ("report-3", "acme", 'agent "report-*"')
    assert first["bursts"] == sum(one["bursts"] for one in first["series"]) == found["bursts"]
    assert "learned" not in SimulationResult("", (), {}, (), Series(START), learning=False).to_dict()


def test_the_drawing_has_a_panel_for_each_caller(month: SimulationResult) -> None:
    root = ElementTree.fromstring(svg.render_svg(month))
    words = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Learned behavior", 'caller report-3, agent "report-*"', "trust", "pace", "alarms", "ready"} <= set(words)


def test_the_words_of_a_panel_name_the_alarms_of_its_caller_and_are_not_cut(month: SimulationResult) -> None:
    root = ElementTree.fromstring(svg.render_svg(month))
    words = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}text")]
    first, second = month.learned[0].total, month.learned[1].total
    assert [one.rpartition("; ")[2] for one in words if one.startswith("trust ")][:2] == [
        f"{first.bursts} bursts",
        f"{second.new_endpoints} at new endpoints",
    ]
    assert not [one for one in words if one.endswith("…")]


def test_the_page_with_learned_behavior_is_whole_in_a_browser(
    month: SimulationResult, tmp_path: Path, browser: Chromium
) -> None:
    look = """(() => {
      const boxes = all("figure").map(figure => [...figure.querySelectorAll("text")].map(box).filter(one => one.width));
      const over = boxes.flatMap(several => several.flatMap((a, i) => several.slice(i + 1).filter(
        b => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)));
      return {over: over.length, figures: all("figure svg").length};
    })()"""
    page = measured(browser, html.render_html(month), look, tmp_path)
    assert_whole(page)
    seen = (*page.light, *page.dark)
    assert [one["figures"] for one in seen] == [1 + len(month.limits) + 1 + len(month.learned)] * 4
    assert [one["over"] for one in seen] == [0, 0, 0, 0]


def test_a_slot_has_the_times_of_its_requests() -> None:
    found = learned(TrafficTrace(START).read([asked(1, 0), asked(1, 2 * HOUR)]), width=HOUR * SECOND)
    assert [slot is not None for slot in found.learned[0].slots] == [True, False, True]


def test_groups_are_searched_on_the_virtual_clock_in_the_same_thread() -> None:
    random, clock = Random(5), VirtualClock(START)
    minutes = random.sample(range(1_400), 12)
    lines = [
        asked(agent, minute * 60 + random.random(), path="/data/sales") for minute in minutes for agent in range(6)
    ]
    lines.append(asked(0, DAY + 60))
    policy = LEARNING.replace("per agent.id", "per cluster.id", 1)
    assert policy != LEARNING
    tracker = SimulatedTracker()
    engine = Engine.from_text(policy, clock=clock, behavior=tracker)
    simulate(engine, clock, TrafficTrace(START).read(sorted(lines, key=lambda line: json.loads(line)["at"])),
             Series(START, None), tracker=tracker)  # fmt: skip
    assert [group.size for group in tracker.state.model.content.groups] == [6]
    assert not tracker.learner.thread.is_running
