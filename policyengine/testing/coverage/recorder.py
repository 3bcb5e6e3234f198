"""Records the points that the trace of one request shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from policyengine import kernel as k
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.limits import LimitCharge, LimitState
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.approvals import approval_facts
from policyengine.spec.facts import Facts, hop_facts
from policyengine.spec.gates import is_attested_by
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.spec.reason_texts import OPERATOR_OBLIGATIONS
from policyengine.testing.coverage.conditions import observe_condition
from policyengine.testing.coverage.points import Point
from policyengine.testing.coverage.policy_points import (
    BlockPoints,
    LimitPoints,
    PolicyPoints,
    RequirementPoints,
    RulePoints,
)
from policyengine.testing.runner import CaseTrace


class CoverageRecorder:
    def __init__(self, sights: PolicyPoints) -> None:
        self.sights = sights
        self.endpoints: dict[Endpoint, frozenset[Point]] = {}

    def shown(self, asked: CaseTrace) -> frozenset[Point]:
        """Return the points that a case showed; none for a malformed path, and none if the decision takes too many
        steps.
        """
        facts, walk = asked.facts.looked_at_anew, asked.walk
        if walk.malformed is not None or walk.excess is not None:
            return frozenset()
        found = set(self.decided(facts.request.endpoint))
        for block in (*walk.anyone, *walk.presenter, *(walk.user or ())):
            self.block(block, facts, found)
        for hop in walk.hops:
            at_hop = hop_facts(facts, hop.agent)
            for block in hop.blocks:
                self.block(block, at_hop, found)
        if walk.hops:
            for limit in walk.limits:
                record_requirement(self.sights.limits[id(limit.limits), limit.words.split()[0]], limit.holds, found)
        self.guards(walk, facts, asked.decision, found)
        for seen in walk.limited:
            if seen.covers:
                self.limit(seen, asked, found)
        return frozenset(found)

    def decided(self, endpoint: Endpoint) -> frozenset[Point]:
        if endpoint not in self.endpoints:
            self.endpoints[endpoint] = frozenset(
                point
                for pattern, place, point in self.sights.at
                if match_pattern(pattern, endpoint) is not None and (place is None or place_covers(place, endpoint))
            )
        return self.endpoints[endpoint]

    # ── Doors ─────────────────────────────────────────────────────────────────────────────────

    def block(self, seen: w.BlockTrace, facts: Facts, found: set[Point]) -> None:
        """Add the points of a block. A block for another principal shows only its `where` condition."""
        of = self.sights.blocks[id(seen.block)]
        if of.about is not None and is_identified(facts, "agent" if isinstance(seen.block, k.AgentBlock) else "user"):
            observe_condition(of.about, facts, found)
        if seen.applies is not True:
            return
        self.requirements(seen, of, facts, found)
        for grant, rule in zip(seen.grants, of.grants, strict=True):
            if grant.covers:
                record_rule(rule, seen.stands and grant.opens, facts, found)
        for delegate, rule in zip(seen.delegates, of.delegates, strict=False):  # only a hop delegates
            if delegate.covers and delegate.names_next is True:
                record_rule(rule, seen.stands and delegate.hands_on, facts, found)
                if rule.lasting is not None:
                    record_requirement(rule.lasting, delegate.lasts, found)

    def requirements(self, seen: w.BlockTrace, of: BlockPoints, facts: Facts, found: set[Point]) -> None:
        for asked in seen.requirements:
            requirement, both = asked.requirement, of.asks[id(asked.requirement)]
            match requirement:
                case k.ValidityPeriod(start):
                    record_validity(both, asked.holds, start is not None and facts.now < start, found)
                case k.AttestedBy(attesters):
                    record_requirement(both, asked.holds, found)
                    self.attested(attesters, facts, found)
                case k.ActsFor(condition):
                    record_requirement(both, asked.holds, found)
                    if condition is not None and is_identified(facts, "user"):
                        observe_condition(of.served[id(requirement)], facts, found)
                case _:
                    record_requirement(both, asked.holds, found)

    def attested(self, attesters: Iterable[str], facts: Facts, found: set[Point]) -> None:
        """Add the points of each aspect of the attesters that made this attestation."""
        by = facts.read(("attestation", "by"))
        for bare, both in self.sights.attesters.get(by, ()) if isinstance(by, str) and by in attesters else ():
            record_requirement(both, is_attested_by(bare, by, facts), found)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────

    def guards(self, walk: w.DecisionTrace, facts: Facts, decision: Decision, found: set[Point]) -> None:
        """Add the conditions of all guards that cover the endpoint. Add their effects only if the request reached the
        guards.
        """
        covering = [guard for guard in walk.guards if guard.covers]
        approvals = [one.approval for guard in covering for one in guard.effects if one.approval is not None]
        facts = facts.bind(approval_facts(approvals, facts.now))
        for guard in covering:
            of = self.sights.guards[id(guard.guard)]
            stops = [one for one in guard.effects if not isinstance(one.effect, k.ObligationEffect)] or guard.effects
            point = of.stopping if any(one.acts for one in stops) else of.passing
            if point is not None and walk.identified:
                found.add(point)
            for one, rule in zip(guard.effects, of.effects, strict=True):
                acted = walk.identified and one.acts and effect_applies(one.effect, decision)
                record_rule(rule, acted, facts, found)
                if rule.approved is not None and walk.identified and one.triggered and not one.acts:
                    found.add(rule.approved)

    # ── Rates and budgets ─────────────────────────────────────────────────────────────────────

    def limit(self, seen: w.LimitTrace, asked: CaseTrace, found: set[Point]) -> None:
        """Add the conditions of a limit that covers the endpoint. Add its effects only if the store was charged."""
        of = self.sights.limited[id(seen.limit)]
        if of.when is not None:
            observe_condition(of.when, asked.facts, found)
        own = [(one, how) for one, how in asked.limits if one.charge.rule in of.names]
        found.update(limit_points(of, own, asked.decision.outcome))
        moves = seen.limit.raises + seen.limit.clamps if isinstance(seen.limit, k.Rate) else ()
        for move, rule, holds in zip(moves, of.moves, seen.moves, strict=True):
            acts = holds is True if isinstance(move, k.Raise) else holds is not False
            record_rule(rule, acts and bool(own), asked.facts, found)


def limit_points(of: LimitPoints, own: Sequence[tuple[LimitCharge, LimitState]], outcome: Outcome) -> Iterator[Point]:
    """Yield the points of a limit. A request that was denied did not reach the limit, and a request that another limit
    throttled did not pass it.
    """
    full = [one.charge.rule for one, standing in own if not standing.admitted]
    if outcome is Outcome.DENY:
        yield from (of.counting,) if own and of.counting is not None else ()
    elif full:
        yield of.stopping
        yield from (of.full[rule] for rule in full if rule in of.full)
    elif own and outcome is not Outcome.THROTTLE:
        yield of.passing


def is_identified(facts: Facts, root: str) -> bool:
    return not isinstance(facts.read((root, "id")), Unknown)


def effect_applies(effect: k.Effect, decision: Decision) -> bool:
    """Return whether an effect applies: obligations of gateways and callers apply only to an allow, those of operators
    to every outcome.
    """
    if not isinstance(effect, k.ObligationEffect):
        return True
    return decision.outcome is Outcome.ALLOW or effect.kind in OPERATOR_OBLIGATIONS


def record_rule(rule: RulePoints, acted: bool, facts: Facts, found: set[Point]) -> None:
    if rule.when is not None:
        observe_condition(rule.when, facts, found)
    if acted and rule.acted is not None:
        found.add(rule.acted)


def record_requirement(both: RequirementPoints, holds: Value, found: set[Point]) -> None:
    point = both.holding if holds is True else both.failing
    if point is not None:
        found.add(point)


def record_validity(both: RequirementPoints, holds: Value, early: bool, found: set[Point]) -> None:
    point = both.holding if holds is True else both.failing or (both.early if early else both.late)
    if point is not None:
        found.add(point)
