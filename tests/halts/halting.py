"""A policy, questions and clocks for the tests of halts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from policyengine import Engine
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore

POLICY = """
language 1
package acme.shop
issuer acme  { url "https://login.acme.example"  records chains  scopes none }
issuer inner { scopes none }
scope orders { GET /orders }
user any { may GET /orders, GET /v1/refunds/{id}, POST /v1/refunds/{id}, TOOL mail/send }
agent "bot" { issued by acme, inner  acts for any user  may GET /orders, TOOL mail/send
  may POST /v1/refunds/{id}   may delegate orders to agent "helper" for 1h }
agent "helper" { issued by acme  acts for any user  may GET /orders }
delegation { depth <= 3  lifetime <= 1h  no cycles }
anyone { may GET /health }
rate "refunds" per agent.id on POST /v1/refunds/{id} { 2/1h }
"""
OTHER_PACKAGE = """
language 1
package acme.stock
issuer depot { scopes none }
users unrestricted
agent "porter" { issued by depot  acts for any user  may GET /stock }
"""
BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


def question(path: str = "/orders", method: str = "GET", **more: Any) -> dict[str, Any]:
    """A question of agent `bot` for user `alice`; members that are None are left out."""
    asked = {
        "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "alice"},
        "request": {"method": method, "path": path}, **more,
    }  # fmt: skip
    return {name: value for name, value in asked.items() if value is not None}


def tool(name: str = "send", server: str = "mail") -> dict[str, Any]:
    return question(request=None, tool={"server": server, "name": name})


def hop(agent: str = "bot", issuer: str = "acme") -> dict[str, Any]:
    return {"agent": agent, "issuer": issuer, "issued_at": (BEGIN - timedelta(minutes=1)).isoformat()}


def delegated() -> dict[str, Any]:
    """A question of agent `helper`, to which `bot` delegated."""
    return question(agent={"id": "helper", "issuer": "acme"}, chain={"hops": [hop()]})


def outcome(engine: Engine, asked: Mapping[str, Any]) -> str:
    decision = engine.decide(dict(asked))
    return f"{decision.outcome} {decision.gate}" if decision.gate else str(decision.outcome)


def create(clock: Clock | None = None, **options: Any) -> Engine:
    return Engine.from_text(POLICY, clock=clock or Clock(), **options)


class BrokenHalts:
    """A shared document of halts that does not answer while it is `broken`."""

    is_shared = True

    def __init__(self) -> None:
        self.broken, self.number, self.document = False, 0, b""
        self.loads = 0

    def load(self, known: int) -> tuple[int, bytes]:
        self.loads += 1
        if self.broken:
            raise StoreError("gone")
        return self.number, b"" if known == self.number else self.document

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        if self.broken:
            raise StoreError("gone")
        if number <= self.number or after not in (None, self.number):
            return False
        self.number, self.document = number, document
        return True


class SharedStore(MemoryStore):
    """A store in memory whose halts other processes could change."""

    def __init__(self) -> None:
        super().__init__()
        self.halts = self.kept = BrokenHalts()
