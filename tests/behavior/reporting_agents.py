"""Four reporting agents, the policy that learns from them, and the days on which they work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from policyengine import Engine
from policyengine.audit.reader import DecisionRecord, parse_entry
from policyengine.behavior.events import Caller
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import BehaviorState

POLICY = """language 1
package learning
issuer idp { url "https://idp.example"  scopes none }
agent "report-*" {
  issued by idp
  acts alone
  may GET /data/**, POST /report, GET /secret/{id}
}
profile "reporting" for agent "report-*" { run by task.id within 5m   ready 20 runs, 3d }
rate "r" per agent.id on /** {
  60/1m burst 100
  raise x3 at most 180/1m when behavior.trust > 0.6
  clamp 2/1m for 10m when behavior.burst or behavior.novelty > 0.3
}
guard "odd" on GET /data/** { warn when behavior.deviation > 0.95 }
guard "failing" on POST /report { deny when behavior.error_rate > 0.3 }
"""
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
HOURS = range(9, 15)


class FakeClock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


def question(agent: int = 0, path: str = "/data/x", method: str = "GET", task: str = "t") -> dict[str, Any]:
    return {
        "request": {"method": method, "path": path},
        "agent": {"id": f"report-{agent}", "issuer": "idp"},
        "task": {"id": task},
    }


def requests_of(
    clock: FakeClock, days: Iterable[int], agents: Iterable[int] = range(4), hours: Iterable[int] = HOURS
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the requests of some days, each with its number in its run, and set the clock. Each hour, each agent has a
    run of five requests."""
    agents, hours = list(agents), list(hours)
    for day in days:
        for hour in hours:
            for agent in agents:
                for number in range(5):
                    clock.now = BEGIN + timedelta(days=day, hours=hour, minutes=10 * agent, seconds=10 * number)
                    yield number, question(agent, task=f"{day}/{hour}")


def work(
    engine: Engine,
    clock: FakeClock,
    days: Iterable[int] = range(10),
    agents: Iterable[int] = range(4),
    hours: Iterable[int] = HOURS,
) -> None:
    """Let agents work for some days."""
    for _, asked in requests_of(clock, days, agents, hours):
        engine.decide(asked)


def packed(state: BehaviorState) -> dict[Caller, bytes]:
    """Return the rows of a state, to compare them."""
    return {caller: pack_row(found.row) for caller, found in state.rows.items()}


def facts_of_last(engine: Engine) -> Any:
    """Return what the last decision of an engine read."""
    assert engine.log is not None
    last = parse_entry(1, engine.log.path.read_bytes().splitlines()[-1], {})
    assert isinstance(last, DecisionRecord)
    return last.behavior
