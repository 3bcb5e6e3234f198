"""Logs of agents that shop: some at their own irregular times, and some on one clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from policyengine import Engine
from policyengine.audit import DecisionLog

START = datetime(2050, 1, 3, tzinfo=UTC)
DAY = 86_400  # seconds
POLICY = """language 1
package acme.shop
issuer acme { url "https://login.acme.example"   scopes none }
agent "*" { issued by acme   acts alone   may GET /search, GET /items/{id}, POST /cart }
"""
CALLS = (("GET", "/search"), ("GET", "/items/7"), ("POST", "/cart"))


class MovingAgents:
    """Collects runs of agents, and writes their decisions to a log in the order of time."""

    def __init__(self, seed: int = 5) -> None:
        self._random = Random(seed)
        self._calls: list[tuple[float, str, tuple[str, str]]] = []

    def times(self, count: int, first: float = 0, last: float = 3) -> list[float]:
        """Return irregular times between two days."""
        return [self._random.uniform(first * DAY, last * DAY) for _ in range(count)]

    def move(self, agents: Iterable[str], times: Sequence[float], calls: Sequence[tuple[str, str]] = CALLS) -> None:
        """Let each agent have a run at each time, up to two seconds later."""
        for agent in agents:
            for time in times:
                begin = time + self._random.uniform(0, 2)
                self._calls += [(begin + step, agent, call) for step, call in enumerate(calls)]

    def move_alone(self, agents: Iterable[str], count: int = 40, first: float = 0, last: float = 3) -> None:
        """Let each agent have runs at its own times."""
        for agent in agents:
            self.move([agent], self.times(count, first, last))

    def write(self, path: Path, policy: str = POLICY) -> None:
        now, log = START, DecisionLog(path, seal=None)
        engine = Engine.from_text(policy, clock=lambda: now, log=log)
        for second, agent, (method, target) in sorted(self._calls):
            now = START + timedelta(seconds=second)
            engine.decide({"agent": {"id": agent, "issuer": "acme"}, "request": {"method": method, "path": target}})
        log.close()
