"""A shop whose larger refunds need an approval, decided by an engine on any store; also in separate processes."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.stores.base import Store
from tests.spec.deciding import row
from tests.stores import paying
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
HEAD = """
language 1
package shop
entity user { roles: set<string> }
facts on POST /refund { body.amount: number }
issuer acme { scopes none }
agent "*" { issued by acme   acts alone   may POST /refund }
"""
ASKS = 'guard "large" on POST /refund { confirm by role finance when body.amount > 500 message "{body.amount}" }'
TWO = 'guard "huge" on POST /refund { confirm by role boss when body.amount > 5_000 message "{body.amount}" }'

BUDGET = 'budget "refunds" per agent.id on POST /refund { sum body.amount <= 5_000 within 1d }'
RATE = 'rate "asking" per agent.id on POST /refund { 3/1h }'
HELD = 'rate "at work" per agent.id on POST /refund { at most 1 at once for 1h }'
RULES = (RATE, BUDGET, HELD)
ROWS = EntityStore([row("user fin", {"roles": ["finance", "boss"]})])


class Shop:
    """An engine with the clock of the test, and the caller that asks it."""

    def __init__(self, store: Store, *rules: str, confirms: bool = True, log: DecisionLog | None = None) -> None:
        self.now, self._ids, self.store = NOW, count(1), store
        text = HEAD + "\n".join((ASKS if confirms else "", *rules))
        self.engine = Engine.from_text(
            text, clock=lambda: self.now, store=store, directory=ROWS, log=log, approvals=TRUSTING
        )

    def question(self, amount: object, *approvals: dict[str, str], agent: str = "bot", **more: Any) -> dict[str, Any]:
        asked = {"request": {"method": "POST", "path": "/refund"}, "agent": {"id": agent, "issuer": "acme"}}
        return {**asked, "credential": {}, "body": {"amount": amount}, "approvals": list(approvals), **more}

    def refund(self, amount: object = 3_000, *approvals: dict[str, str], **more: Any) -> Decision:
        return self.engine.decide(self.question(amount, *approvals, **more))

    def by_key(self, key: str, amount: object, *approvals: dict[str, str]) -> Decision:
        question = self.question(amount, *approvals)
        return self.engine.decide_once(question, IdempotencyKey("gateway", key, f"{question}")).decision

    def granted(self, decision: Decision, by: str = "fin") -> dict[str, str]:
        """Return the approval that the decision requests."""
        return self.all_granted(decision, by)[0]

    def all_granted(self, decision: Decision, by: str = "fin") -> list[dict[str, str]]:
        assert str(decision.outcome) == "confirm"
        at = self.now.isoformat()
        return [
            {"id": f"a{next(self._ids)}", "by": by, "granted_at": at, "binding": str(one.binding)}
            for one in decision.remedies
        ]

    def left(self, agent: str = "bot") -> dict[str, int]:
        """Return what a refund of zero, which needs no approval, would leave of each limit."""
        return {one.rule: one.remaining for one in self.refund(0, agent=agent, options={"consume": False}).rates}


def outcomes(*decisions: Decision) -> list[str]:
    return [str(one.outcome) for one in decisions]


def in_a_process(kind: str, where: str, amount: int, approvals: list[dict[str, str]], times: int) -> list[str]:
    """Return the answers that one process gets, for each of its questions."""
    shop = Shop(paying.opened(kind, where), *RULES)
    return [str(shop.refund(amount, *approvals).outcome) for _ in range(times)]
