"""Reads the values for the step count as the specification reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from policyengine import kernel as k
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.history import PastEvent
from policyengine.runtime.request import Approval
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.runtime.values import MissingValue, Unknown, Value
from policyengine.spec import history
from policyengine.spec.approvals import approval_facts, trace_approval
from policyengine.spec.evaluate import evaluate, given_facts
from policyengine.spec.facts import Facts, Path, has_agent, hop_facts, hops_of, presenter_of, records_chains
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.spec.step_count import CountedAgent, Families, HistoryWindow, RuleReader
from policyengine.spec.trace import ChainAgent


@dataclass(slots=True)
class FactsReader:
    """Reads facts of the specification. `bindings` and `variable` are those of the loop around the expression."""

    facts: Facts
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
        return evaluate(node, self.facts)

    def in_loop(self, variable: str) -> FactsReader:
        inside, bindings = self.facts.in_loop()
        return FactsReader(inside, self.families, bindings, variable)

    def assign(self, item: Value) -> None:
        self.bindings["", self.variable] = item

    def at_event(self, pattern: k.EventPattern, event: PastEvent) -> FactsReader:
        return FactsReader(self.facts.at_event(pattern, event), self.families)

    def window(self, node: k.HistoryCondition | k.Aggregate) -> HistoryWindow | None:
        main = history.fetched_history(node, node.event, self.facts, evaluate)
        if isinstance(main, Unknown):
            return None
        _, events = history.events_since(main, node.event, node.within, self.facts, evaluate)
        if node.since is None:
            return HistoryWindow(events)
        since = history.fetched_history(node, node.since, self.facts, evaluate)
        if isinstance(since, Unknown):
            return None
        _, resets = history.events_since(since, node.since, node.within, self.facts, evaluate)
        return HistoryWindow(events, resets, len(since.events))


@dataclass
class SpecifiedRequest:
    """A request as the specification reads it, with all rules of the policy."""

    facts: Facts
    snapshot: Snapshot
    endpoint: Endpoint
    by_agent: bool
    refused: bool
    presenter: ChainAgent
    hops: Sequence[ChainAgent]
    approvals: Sequence[Approval]

    @classmethod
    def of(cls, facts: Facts, snapshot: Snapshot) -> SpecifiedRequest:
        request, presenter, hops = facts.request, presenter_of(facts), hops_of(facts)
        refused = not isinstance(request.fact("credential", "refused"), MissingValue)
        known = not isinstance(hops, Unknown) and has_agent(request) and records_chains(facts, presenter)
        return cls(
            facts, snapshot, request.endpoint, has_agent(request), refused, presenter, hops if known else (),  # type: ignore[arg-type]
            request.approvals,
        )  # fmt: skip

    @cached_property
    def given(self) -> FactsReader:
        facts = self.facts
        return FactsReader(given_facts(facts.kernel, facts.request, self.snapshot, facts.now))

    @cached_property
    def guards(self) -> FactsReader:
        return FactsReader(self.facts)

    @cached_property
    def grants(self) -> FactsReader:
        exact = self.facts.by_the_letter
        return self.guards if exact is self.facts else FactsReader(exact)

    def at_hop(self, hop: CountedAgent) -> FactsReader:
        assert isinstance(hop, ChainAgent)
        return FactsReader(hop_facts(self.grants.facts, hop))

    def approved(self) -> FactsReader:
        found = [
            trace_approval(guard, index, effect, self.facts, self.snapshot)
            for guard in self.guards_in_place()
            for index, effect in enumerate(guard.effects)
            if isinstance(effect, k.Confirm)
        ]
        return FactsReader(self.facts.bind(approval_facts(found, self.facts.now)), self.guards.families)

    def binders(self) -> Iterable[k.Binder]:
        for binder in self.facts.kernel.binders:
            if binder.facts and match_pattern(binder.pattern, self.endpoint, "full") is not None:
                yield binder

    def anyone_blocks(self) -> Iterable[k.AnyoneBlock]:
        return self.facts.kernel.anyones

    def agent_blocks(self, agent: CountedAgent, reader: RuleReader) -> Iterable[k.AgentBlock]:
        return self.facts.kernel.agents

    def user_blocks(self) -> Iterable[k.UserBlock]:
        return self.facts.kernel.users

    def guards_in_place(self) -> Iterable[k.Guard]:
        return (guard for guard in self.facts.kernel.guards if place_covers(guard.place, self.endpoint))

    def limits_in_place(self) -> Iterable[k.Limit]:
        return (limit for limit in self.facts.kernel.limits if place_covers(limit.place, self.endpoint))
