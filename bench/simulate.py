"""`simulate`: requests per second of virtual traffic that are generated, decided and counted, on one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.policy_tests import time_best
from bench.report import Section, Target
from bench.trial import format_number
from policyengine.engine import Engine
from policyengine.simulation import WORKFLOWS, Callers, Series, TrafficPlan, VirtualClock, simulate, workflow_traffic

EVENTS = 200_000
START = 1_798_761_600_000_000  # the beginning of 2027, in microseconds
SECOND = 1_000_000
MIN_EVENTS_PER_SECOND = 150_000  # events a second, of one static rate
POLICY = """language 1
anyone { may GET /search }
rate "searches" per agent.id on GET /search { PACE }
"""
THREE = """rate "everybody" per request.host on GET /search { 1000000/1m }
rate "days" per agent.id on GET /search { 900000/1d }
"""
QUESTION = {"request": {"method": "GET", "path": "/search", "host": "api"}, "agent": {"id": "worker"}}
Say = Callable[[str], None]
# The cases: the policy, the workflow, the number of callers.
SCENARIOS: dict[str, tuple[str, str, int]] = {
    "no limit": (POLICY.rpartition("rate")[0], "steady", 1),
    "one static rate, all admitted": (POLICY.replace("PACE", "100000/1m"), "steady", 1),
    "one static rate, 1,000 random callers": (POLICY.replace("PACE", "100000/1m"), "many", 1_000),
    "one static rate, nine of ten throttled": (POLICY.replace("PACE", "600/1m"), "steady", 1),
    "three static rates, all admitted": (POLICY.replace("PACE", "100000/1m") + THREE, "steady", 1),
}


def simulate_once(text: str, workflow: str, callers: int) -> int:
    """Generate and decide a hundred requests per virtual second, and return their number."""
    clock = VirtualClock(START)
    engine = Engine.from_text(text, clock=clock)
    plan = TrafficPlan(START, EVENTS * SECOND // 100, 100, callers)
    assert workflow in WORKFLOWS
    series = Series(START)
    simulate(
        engine,
        clock,
        workflow_traffic(workflow, plan, Callers((QUESTION,), "agent.id" if callers > 1 else None)),
        series,
    )
    assert not series.failures
    return series.events


def measure_scenarios(say: Say) -> list[dict[str, Any]]:
    found = []
    for what, (text, workflow, callers) in SCENARIOS.items():
        say(f"simulate: {what}")
        seconds, events = time_best(lambda: simulate_once(text, workflow, callers))  # noqa: B023 - called at once
        found.append({"what": what, "events": events, "seconds": seconds, "per_second": events / seconds})
    return found


def section(data: list[dict[str, Any]]) -> Section:
    return Section(
        name="simulate",
        title="Traffic played under a virtual clock, on one core",
        columns=("what", "requests", "seconds", "requests/s"),
        rows=tuple(
            (one["what"], f"{one['events']:,}", format_number(one["seconds"]), f"{one['per_second']:,.0f}")
            for one in data
        ),
        data=tuple(data),
        targets=(Target("one static rate", MIN_EVENTS_PER_SECOND, round(data[1]["per_second"]), "/s", at_least=True),),
        notes=(
            "The fastest of three runs, including loading the policy; requests are generated, decided and counted.",
        ),
    )


def run(say: Say) -> Section:
    return section(measure_scenarios(say))
