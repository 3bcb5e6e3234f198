"""Reads the values for the step count as the specification reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyengine import kernel as k
from policyengine.runtime.history import PastEvent
from policyengine.runtime.snapshot import Entities
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import history
from policyengine.spec.facts import Facts, Path
from policyengine.spec.history import Evaluator
from policyengine.spec.step_count import Families, HistoryWindow


@dataclass(slots=True)
class FactsReader:
    """Reads facts. `evaluate` returns the value of an expression; `bindings` and `variable` belong to the enclosing
    loop.
    """

    facts: Facts
    evaluate: Evaluator
    families: Families = field(default_factory=dict)
    bindings: dict[Path, object] = field(default_factory=dict)
    variable: str = ""

    @property
    def user(self) -> Value:
        return self.facts.read(("user", "id"))

    @property
    def entities(self) -> Entities:
        return self.facts.entities

    def value(self, node: k.Expr) -> Value:
        return self.evaluate(node, self.facts)

    def in_loop(self, variable: str) -> FactsReader:
        inside, bindings = self.facts.in_loop()
        return FactsReader(inside, self.evaluate, self.families, bindings, variable)

    def assign(self, item: Value) -> None:
        self.bindings["", self.variable] = item

    def at_event(self, pattern: k.EventPattern, event: PastEvent) -> FactsReader:
        return FactsReader(self.facts.at_event(pattern, event), self.evaluate, self.families)

    def window(self, node: k.HistoryCondition | k.Aggregate) -> HistoryWindow | None:
        main = history.fetched_history(node, node.event, self.facts, self.evaluate)
        if isinstance(main, Unknown):
            return None
        _, events = history.events_since(main, node.event, node.within, self.facts, self.evaluate)
        if node.since is None:
            return HistoryWindow(events)
        since = history.fetched_history(node, node.since, self.facts, self.evaluate)
        if isinstance(since, Unknown):
            return None
        _, resets = history.events_since(since, node.since, node.within, self.facts, self.evaluate)
        return HistoryWindow(events, resets, len(since.events))
