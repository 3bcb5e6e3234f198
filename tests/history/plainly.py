"""History as a plain list, as input of the specification and as the reference for every store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.clock import epoch_microseconds
from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.history import (
    History,
    HistoryList,
    HistoryRecord,
    OutcomeReport,
    PastEvent,
    WindowKey,
    reported_values,
)
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec import reference
from tests.spec.deciding import NOW, Rows, bot, directory, kernel, question, verdict

HEAD = """entity user { roles: set<string> }
issuer acme { scopes none }
agent "*" { issued by acme   acts for any user   may ANY /**, TOOL * }
user any { may ANY /**, TOOL * }
"""


@dataclass
class Everything(dict[WindowKey, History]):
    """All recorded events, kept permanently; windows are computed when they are read."""

    complete_after: int = -1
    now: int = 0
    events: list[tuple[HistoryRecord, PastEvent]] = field(default_factory=list)

    def get(self, key: WindowKey, default: Any = None) -> Any:
        found = tuple(event for record, event in self.events if (record.watch, record.key) == key)
        return HistoryList(found, self.complete_after, self.now)

    def keep(self, effects: Effects, decision: str, at: int) -> None:
        serial = len(self.events) + 1
        self.events += [(one, PastEvent(at, serial, decision, one.facts)) for one in effects.records]

    def report(self, decision: str, report: OutcomeReport) -> None:
        self.events = [
            (record, event._replace(status=report.status, output=reported_values(report.output, record.outputs)))
            if event.decision == decision and record.awaits
            else (record, event)
            for record, event in self.events
        ]


@dataclass
class Trace:
    """Asks the specification requests in sequence, under its own clock; limits always admit. `stored` is the clock of a
    store, if it differs."""

    kernel: k.Kernel
    now: datetime = NOW
    stored: datetime | None = None
    rows: Rows = field(default_factory=dict)
    history: Everything = field(default_factory=Everything)
    asked: int = 0

    @classmethod
    def of(cls, *rules: str, complete_after: int = -1) -> Trace:
        return cls(kernel(HEAD + "\n".join(rules)), history=Everything(complete_after))

    def after(self, **passed: float) -> Trace:
        self.now += timedelta(**passed)
        return self

    def ask(self, where: str, who: Mapping[str, object] | None = None, **members: object) -> Decision:
        return self.decide({**(bot() if who is None else who), **question(where, **members)})

    def decide(self, asked: Mapping[str, object]) -> Decision:
        request = Request.from_json(json.dumps(asked))
        self.history.now = epoch_microseconds(self.stored or self.now)
        snapshot = Snapshot(directory(self.rows), history=self.history)
        decision, effects = reference.decide(self.kernel, request, snapshot, request.options.at or self.now)
        self.asked += 1
        decision = decision.with_id(f"d{self.asked}")
        if decision.outcome is not Outcome.CONFIRM:
            self.history.keep(effects, decision.id, self.history.now)
        return decision

    def report(self, decision: Decision, status: int | None = None, **output: object) -> None:
        self.history.report(decision.id, OutcomeReport(status, output))

    def says(self, where: str, who: Mapping[str, object] | None = None, **members: object) -> str:
        return verdict(self.ask(where, who, **members))


def user(name: str) -> dict[str, object]:
    """A person who calls without an agent."""
    return {"user": {"id": name}, "credential": {"issuer": "acme"}}
