"""Requests as the step count of the specification reads them, with all rules of the policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from policyengine import kernel as k
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.request import Approval
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import MissingValue, Unknown
from policyengine.spec.approvals import approval_facts, trace_approval
from policyengine.spec.evaluate import captured_facts, evaluate
from policyengine.spec.facts import Facts, has_agent, hop_facts, hops_of, presenter_of, records_chains
from policyengine.spec.facts_reader import FactsReader
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.spec.step_count import CountedAgent, RuleReader
from policyengine.spec.trace import ChainAgent


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
        return FactsReader(captured_facts(facts.kernel, facts.request, self.snapshot, facts.now), evaluate)

    @cached_property
    def guards(self) -> FactsReader:
        return FactsReader(self.facts, evaluate)

    @cached_property
    def grants(self) -> FactsReader:
        exact = self.facts.by_the_letter
        return self.guards if exact is self.facts else FactsReader(exact, evaluate)

    def at_hop(self, hop: CountedAgent) -> FactsReader:
        assert isinstance(hop, ChainAgent)
        return FactsReader(hop_facts(self.grants.facts, hop), evaluate)

    def approved(self) -> FactsReader:
        found = [
            trace_approval(guard, index, effect, self.facts, self.snapshot)
            for guard in self.guards_in_place()
            for index, effect in enumerate(guard.effects)
            if isinstance(effect, k.Confirm)
        ]
        facts = self.facts.bind(approval_facts(found, self.facts.now))
        return FactsReader(facts, evaluate, self.guards.families)

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
