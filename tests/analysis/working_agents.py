"""Logs of agents that work for weeks on a virtual clock, and then behave in another way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.runtime.history import OutcomeReport

START = datetime(2050, 1, 3, 9, tzinfo=UTC)  # outcomes have the time of the real clock, which is earlier
STATIC = """language 1
package acme.reports
issuer acme { url "https://login.acme.example"   scopes none }
facts on POST /report { body.rows: number }
entity user { roles: set<string> }
agent "report-*" { issued by acme   acts alone   may GET /data/**, POST /report, GET /secrets/{id} }
"""
LIMITS = """rate "reporting" per agent.id on /data/** {
  6000/1m burst 800
  raise x3 at most 18000/1m when behavior.trust > 0.6
  clamp 4/1m for 10m when behavior.burst
}
guard "secrets" on /secrets/** {
  confirm by role lead when behavior.novelty > 0
  deny when behavior.error_rate > 0.9
}
guard "rows" on POST /report { deny when behavior.trust < 0.9 and body.rows > 10 }
"""
LEARNING = STATIC + LIMITS
DAYS = 16


class WorkingAgents:
    """An engine whose clock is set before each request."""

    def __init__(self, log: Path, text: str = STATIC, **options: Any) -> None:
        self.now = START
        self.log = DecisionLog(log, seal=None, **options)
        self.engine = Engine.from_text(text, clock=lambda: self.now, log=self.log)

    def ask(self, agent: int, at: datetime, path: str = "/data/sales", method: str = "GET", **facts: Any) -> str:
        self.now = at
        asked = {"agent": {"id": f"report-{agent}", "issuer": "acme"}, "request": {"method": method, "path": path}}
        return self.engine.decide({**asked, **facts}).id

    def work(self, days: int = DAYS, agents: int = 5) -> datetime:
        """Let all agents work on each day from nine to twelve; return the next morning."""
        for agent, at in working_hours(days, agents):
            self.ask(agent, at)
        return START + timedelta(days=days)

    def fail(self, decision: str) -> None:
        self.engine.report_outcome(decision, OutcomeReport(500, {}))

    def close(self) -> None:
        self.log.close()


def working_hours(days: int, agents: int) -> Iterator[tuple[int, datetime]]:
    for day in range(days):
        for hour in range(4):
            for number in range(8 * agents):
                yield number % agents, START + timedelta(days=day, hours=hour, seconds=5 * number)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)
