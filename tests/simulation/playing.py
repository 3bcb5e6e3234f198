"""A policy with limits, on a virtual clock, and the traffic for it."""

from __future__ import annotations

from collections.abc import Iterable

from policyengine.engine import Engine
from policyengine.simulation import (
    Callers,
    Series,
    SimulationResult,
    TrafficEvent,
    TrafficPlan,
    VirtualClock,
    simulate,
    workflow_traffic,
)
from policyengine.simulation.result import SimulatedLimit

START = 1_798_761_600_000_000  # the beginning of 2027, in microseconds
SECOND = 1_000_000
POLICY = """language 1

issuer acme { url "https://login.acme.example"  audience "api"  scopes none }
agent "worker*" {
  issued by acme
  acts alone
  credential { kind in [jwt]  lifetime <= 15m }
  may GET /search, POST /mail
}
rate "searches" per agent.id on GET /search { 60/1m burst 5 }
budget "mail" per agent.id on POST /mail { count <= 3 within 1h }
"""
WORKER = {
    "agent": {"id": "worker", "issuer": "acme"},
    "credential": {"kind": "jwt", "issuer": "acme", "lifetime": "5m"},
}
SEARCH = {"request": {"method": "GET", "path": "/search"}, **WORKER}
MAIL = {"request": {"method": "POST", "path": "/mail"}, **WORKER}


def engine(text: str = POLICY) -> tuple[Engine, VirtualClock]:
    clock = VirtualClock(START)
    return Engine.from_text(text, clock=clock), clock


def plan(rate: float = 1, seconds: int = 60, callers: int = 1, seed: int = 0) -> TrafficPlan:
    return TrafficPlan(START, seconds * SECOND, rate, callers, seed)


def played(events: Iterable[TrafficEvent], text: str = POLICY, width: int | None = None) -> SimulationResult:
    decides, clock = engine(text)
    series = Series(START, width)
    simulate(decides, clock, events, series)
    return SimulationResult(
        decides.revision, ("these",), {"trace": "x"}, tuple(map(SimulatedLimit.of, decides.kernel.limits)), series
    )


def flow(name: str, how: TrafficPlan, *questions: dict[str, object], vary: str | None = None) -> list[TrafficEvent]:
    return list(workflow_traffic(name, how, Callers(questions or (SEARCH,), vary)))
