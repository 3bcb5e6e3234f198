"""Runs of simulated callers follow the declared order of calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.simulation import Callers, TrafficPlan, workflow_traffic
from policyengine.simulation.ordered_runs import RunRequests, arrange_runs, keep_order
from policyengine.simulation.renamed_callers import RunPlace
from tests.simulation.playing import SECOND, START

POLICY = """language 1
issuer acme {{ url "https://login.acme.example"  scopes none }}
agent "worker-*" {{ issued by acme   acts alone   may ANY /** }}
profile "workers" for agent "worker-*" {{ expect {order}   run by task.id within 5m }}
guard "order" {{ deny when not behavior.sequence }}
{more}
"""
NO_OTHER_TASK = 'guard "task" { require (task.id else "") == "t" }'


def question(text: str, agent: str = "worker-1", task: str = "t") -> dict[str, Any]:
    method, path = text.split()
    who = {"agent": {"id": agent, "issuer": "acme"}, "task": {"id": task}}
    return {"request": {"method": method, "path": path}, **who}


def arranged(order: str, *texts: str, more: str = "") -> RunRequests:
    kernel = Engine.from_text(POLICY.format(order=order, more=more)).kernel
    engine = Engine(replace(kernel, reads_behavior=False))  # it decides each request by itself
    return arrange_runs([question(text) for text in texts], kernel, lambda one: engine.evaluate(one).allowed)


def paths(runs: RunRequests) -> str:
    return " ".join(one["request"]["path"] for one in runs.questions)


@pytest.mark.parametrize(
    ("order", "texts", "expected"),
    [
        ("GET /a -> GET /b -> GET /c", ["GET /c", "GET /a", "GET /b"], "/a /b /c"),
        ("GET /a -> GET /b -> GET /c", ["GET /c", "GET /a"], "/a"),
        ("GET /a -> GET /d/** repeated -> GET /c", ["GET /a", "GET /d/1", "GET /c", "GET /d/2"], "/a /d/1 /d/2 /c"),
        ("GET /a -> GET /b optional -> GET /c", ["GET /a", "GET /c", "GET /b"], "/a /b /c"),
        ("GET /a -> (GET /b | GET /c) -> GET /d", ["GET /a", "GET /c", "GET /b", "GET /d"], "/a /c /d"),
        ("(GET /a -> GET /b) repeated -> GET /c", ["GET /a", "GET /b", "GET /c"], "/a /b /c"),
        ("GET /a -> GET /b -> GET /a", ["GET /a", "GET /b"], "/a /b /a"),
    ],
)
def test_the_requests_of_an_agent_follow_the_order_of_its_profile(order: str, texts: list[str], expected: str) -> None:
    runs = arranged(order, *texts)
    assert (runs.ordered, paths(runs)) == (True, expected)
    assert set(runs.places) == {RunPlace("task.id", 0, 300 * SECOND)}


def test_requests_none_of_which_begins_a_run_stay_as_they_are() -> None:
    runs = arranged("GET /a -> GET /b", "GET /c", "GET /b")
    assert (runs.ordered, paths(runs)) == (False, "/c /b")


def test_each_agent_has_its_own_run() -> None:
    engine = Engine.from_text(POLICY.format(order="GET /a -> GET /b", more=""))
    asked = [
        question("GET /b"),
        question("GET /a", "worker-2", "x"),
        question("GET /a"),
        question("GET /b", "worker-2"),
    ]
    runs = arrange_runs(asked, engine.kernel, lambda one: True)
    assert [(one["agent"]["id"], one["task"]["id"], one["request"]["path"]) for one in runs.questions] == [
        ("worker-1", "t", "/a"), ("worker-1", "t", "/b"), ("worker-2", "x", "/a"), ("worker-2", "x", "/b"),
    ]  # fmt: skip
    assert [place.start for place in runs.places] == [0, 0, 2, 2]


def test_the_run_key_stays_if_the_policies_allow_no_other() -> None:
    runs = arranged("GET /a -> GET /b", "GET /a", "GET /b", more=NO_OTHER_TASK)
    assert {place.fact for place in runs.places} == {None}


def test_requests_of_a_file_keep_their_order_and_begin_new_runs() -> None:
    engine = Engine.from_text(POLICY.format(order="GET /a -> GET /b", more=""))
    asked = [question("GET /b"), question("GET /a")]
    runs = keep_order(asked, engine.kernel, lambda one: True)
    assert (runs.ordered, runs.questions) == (False, tuple(asked))
    assert set(runs.places) == {RunPlace("task.id")}


def test_a_caller_begins_another_run_in_each_turn_and_after_a_pause() -> None:
    runs = arranged("GET /a -> GET /b -> GET /c", "GET /a", "GET /b", "GET /c")

    def sent(rate: float) -> list[tuple[str, str]]:
        events = workflow_traffic("steady", TrafficPlan(START, 1_500 * SECOND, rate, 1), callers)
        return [(one.question["request"]["path"], one.question["task"]["id"]) for one in events]

    callers = Callers(runs.questions, places=runs.places)
    assert sent(1 / 300) == [("/a", "t"), ("/b", "t"), ("/c", "t"), ("/a", "t-2"), ("/b", "t-2")]
    assert sent(1 / 301) == [("/a", "t"), ("/a", "t-2"), ("/a", "t-3"), ("/a", "t-4"), ("/a", "t-5")]
