"""One policy for all enforcement points of tools, an engine with its own clock, and the questions that it got."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.engine.question import QuestionLike
from policyengine.runtime.decision import Decision
from tests.trusting import TRUSTING

POLICY = """
language 1
package billing
entity user { roles: set<string> }
entity mcp_resource {}
entity mcp_prompt {}
entity mcp_client {}
facts on TOOL billing/refund, TOOL billing/masked { args.amount: number }
facts on ACTION read mcp_resource { context.server: string }
issuer acme { url "https://login.acme.example"   scopes none }
user any {
  may TOOL billing/add, TOOL billing/busy, TOOL billing/slow, TOOL billing/broken, TOOL billing/refund
  may TOOL billing/masked, TOOL billing/ask, TOOL billing/secret
  may ACTION read mcp_resource, ACTION get mcp_prompt, ACTION elicit mcp_client, ACTION log mcp_client
}
agent "bot" {
  issued by acme
  acts for any user
  may TOOL billing/add, TOOL billing/busy, TOOL billing/slow, TOOL billing/broken, TOOL billing/payout
  may TOOL billing/masked, TOOL billing/ask
  may TOOL billing/refund when args.amount <= 1_000
  may ACTION read mcp_resource when resource.id like "docs://open/*" and context.server == "billing"
  may ACTION get mcp_prompt when resource.id == "greet"
  may ACTION elicit mcp_client, ACTION log mcp_client when resource.id == "billing"
}
agent "other" { issued by acme   acts for any user   may TOOL billing/secret }
guard "refunds are small" on TOOL billing/refund {
  deny when args.amount <= 0 message "a refund of {args.amount}"
  confirm by role finance within 15m when args.amount > 500
}
guard "masks" on TOOL billing/masked { redact args.amount }
rate "busy" per agent.id on TOOL billing/busy { 2/1m }
rate "one at a time" per agent.id on TOOL billing/slow, TOOL billing/broken { at most 1 at once for 1h }
"""
BOT: dict[str, Any] = {
    "agent": {"id": "bot", "issuer": "acme"},
    "user": {"id": "alice"},
    "credential": {"issuer": "acme", "scopes": []},
}


@dataclass
class Clock:
    now: datetime = datetime(2027, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Watched:
    """A real engine; `asked` are the questions that it decided, `reports` the reported outcomes. `broken` makes it
    fail."""

    engine: Engine
    asked: list[Any] = field(default_factory=list)
    looked: list[Any] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    broken: Exception | None = None

    async def decide_async(self, question: QuestionLike) -> Decision:
        self.asked.append(question)
        if self.broken:
            raise self.broken
        return self.engine.decide(question)

    async def evaluate_async(self, question: QuestionLike) -> Decision:
        self.looked.append(question)
        if self.broken:
            raise self.broken
        return self.engine.evaluate(question)

    async def report_async(self, decision: str, **told: Any) -> bool:
        self.reports.append({"decision": decision, **told})
        return await self.engine.report_async(decision, **told)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(clock: Clock) -> Watched:
    return Watched(Engine.from_text(POLICY, "billing.policy", clock=clock, approvals=TRUSTING))
