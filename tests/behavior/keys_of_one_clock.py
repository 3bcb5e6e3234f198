"""Traffic of keys that one clock starts, and of honest tenants of the same product, decided by an engine."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from policyengine import Engine

BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
MINUTES = 24 * 60
CALLS = (("POST", "/quotes"), ("GET", "/quotes/7"), ("POST", "/orders"))
POLICY = """
language 1
package acme.keys
issuer acme { url "https://login.acme.example"   scopes none }
issuer partner { url "https://login.partner.example"   scopes none }
agent "*" { issued by acme, partner   acts alone   may POST /quotes, GET /quotes/{id}, POST /orders }
rate "group" per cluster.id on /** { 600/1m floor 6/1m }
"""


class Clockwork:
    """Lets keys run one workflow at irregular times of a day. `decide` decides a request at a time."""

    def __init__(self, text: str = POLICY, seed: int = 7, **options: Any) -> None:
        self.now = BEGIN
        self.random = Random(seed)
        self.engine = Engine.from_text(text, clock=lambda: self.now, **options)

    def decide(self, agent: str, at: datetime, call: tuple[str, str] = CALLS[0], issuer: str = "acme", **more: Any):
        self.now = at
        who = {"id": agent, "issuer": issuer, **more}
        return self.engine.decide({"agent": who, "request": {"method": call[0], "path": call[1]}})

    def times(self, day: int, count: int = 12) -> list[datetime]:
        """Return irregular times of a day."""
        minutes = sorted(self.random.sample(range(5, MINUTES - 5), count))
        return [BEGIN + timedelta(days=day, minutes=each, seconds=self.random.uniform(0, 50)) for each in minutes]

    def run_days(self, days: Iterable[int], keys: Iterable[str], tenants: Iterable[str] = (), **more: Any) -> None:
        """Let the keys run on one clock, and each tenant on its own, on some days."""
        keys, tenants = list(keys), list(tenants)
        for day in days:
            runs = [(at + timedelta(seconds=self.random.uniform(0, 1)), key) for at in self.times(day) for key in keys]
            runs += [(at, tenant) for tenant in tenants for at in self.times(day)]
            for at, agent in sorted(runs):
                for step, call in enumerate(CALLS):
                    self.decide(agent, at + timedelta(seconds=step / 2), call, **more)

    def begin_day(self, day: int) -> None:
        """Let the first request of a day be decided, and search groups in the requests before it."""
        self.decide("clock", BEGIN + timedelta(days=day))
        self.engine.behavior.keep()

    def groups(self) -> list[int]:
        """Return the sizes of the groups."""
        return sorted(group.size for group in self.engine.behavior.state.model.content.groups)
