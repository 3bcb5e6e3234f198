"""What one request showed: the points that its walk through the specification passed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from policyengine import kernel as k
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.limits import Limited, Standing
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.approvals import approval_facts
from policyengine.spec.facts import Facts, facts_of_hop
from policyengine.spec.gates import attests
from policyengine.spec.match import match_pattern, place_covers
from policyengine.spec.reason_texts import FOR_THE_OPERATOR
from policyengine.testing.coverage.conditions import observe
from policyengine.testing.coverage.points import Point
from policyengine.testing.coverage.policy_points import Both, OfBlock, OfLimit, Rule, Sights
from policyengine.testing.runner import Asked


class Watcher:
    def __init__(self, sights: Sights) -> None:
        self.sights = sights
        self.endpoints: dict[Endpoint, frozenset[Point]] = {}

    def shown(self, asked: Asked) -> frozenset[Point]:
        """Of a path that is none nothing is looked at."""
        facts, walk = asked.facts.looked_at_anew, asked.walk
        if walk.malformed is not None:
            return frozenset()
        found = set(self.decided(facts.request.endpoint))
        for block in (*walk.anyone, *walk.presenter, *(walk.user or ())):
            self.block(block, facts, found)
        for hop in walk.hops:
            at_hop = facts_of_hop(facts, hop.agent)
            for block in hop.blocks:
                self.block(block, at_hop, found)
        if walk.hops:
            for limit in walk.limits:
                tell(self.sights.limits[id(limit.limits), limit.words.split()[0]], limit.holds, found)
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

    def block(self, seen: w.BlockSeen, facts: Facts, found: set[Point]) -> None:
        """A block that is not about this principal shows nothing but that."""
        of = self.sights.blocks[id(seen.block)]
        if of.about is not None and known(facts, "agent" if isinstance(seen.block, k.AgentBlock) else "user"):
            observe(of.about, facts, found)
        if seen.applies is not True:
            return
        self.requirements(seen, of, facts, found)
        for grant, rule in zip(seen.grants, of.grants, strict=True):
            if grant.covers:
                tell_rule(rule, seen.stands and grant.opens, facts, found)
        for delegate, rule in zip(seen.delegates, of.delegates, strict=False):  # only hops hand on
            if delegate.covers and delegate.names_next is True:
                tell_rule(rule, seen.stands and delegate.hands_on, facts, found)
                if rule.lasting is not None:
                    tell(rule.lasting, delegate.lasts, found)

    def requirements(self, seen: w.BlockSeen, of: OfBlock, facts: Facts, found: set[Point]) -> None:
        for asked in seen.requirements:
            requirement, both = asked.requirement, of.asks[id(asked.requirement)]
            match requirement:
                case k.Valid(start):
                    tell_valid(both, asked.holds, start is not None and facts.now < start, found)
                case k.AttestedBy(attesters):
                    tell(both, asked.holds, found)
                    self.attested(attesters, facts, found)
                case k.ActsFor(condition):
                    tell(both, asked.holds, found)
                    if condition is not None and known(facts, "user"):
                        observe(of.served[id(requirement)], facts, found)
                case _:
                    tell(both, asked.holds, found)

    def attested(self, attesters: Iterable[str], facts: Facts, found: set[Point]) -> None:
        """Each part of what the attester vouches for, where it is this attester's word."""
        by = facts.read(("attestation", "by"))
        for bare, both in self.sights.attesters.get(by, ()) if isinstance(by, str) and by in attesters else ():
            tell(both, attests(bare, by, facts), found)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────

    def guards(self, walk: w.Walk, facts: Facts, decision: Decision, found: set[Point]) -> None:
        """The conditions of all guards that cover the endpoint; what they did only where they had a say: whom no block
        accepts is refused before."""
        covering = [guard for guard in walk.guards if guard.covers]
        approvals = [one.approval for guard in covering for one in guard.effects if one.approval is not None]
        facts = facts.bind(approval_facts(approvals, facts.now))
        for guard in covering:
            of = self.sights.guards[id(guard.guard)]
            stops = [one for one in guard.effects if not isinstance(one.effect, k.Oblige)] or guard.effects
            point = of.stopping if any(one.acts for one in stops) else of.passing
            if point is not None and walk.identified:
                found.add(point)
            for one, rule in zip(guard.effects, of.effects, strict=True):
                acted = walk.identified and one.acts and stands(one.effect, decision)
                tell_rule(rule, acted, facts, found)
                if rule.approved is not None and walk.identified and one.triggered and not one.acts:
                    found.add(rule.approved)

    # ── Rates and budgets ─────────────────────────────────────────────────────────────────────

    def limit(self, seen: w.LimitedSeen, asked: Asked, found: set[Point]) -> None:
        """Its conditions wherever it covers; what it did only where a store was asked."""
        of = self.sights.limited[id(seen.limit)]
        if of.when is not None:
            observe(of.when, asked.facts, found)
        own = [(one, how) for one, how in asked.limits if one.charge.rule in of.names]
        found.update(of_limit(of, own, asked.decision.outcome))
        moves = seen.limit.raises + seen.limit.clamps if isinstance(seen.limit, k.Rate) else ()
        for move, rule, holds in zip(moves, of.moves, seen.moves, strict=True):
            acts = holds is True if isinstance(move, k.Raise) else holds is not False
            tell_rule(rule, acts and bool(own), asked.facts, found)


def of_limit(of: OfLimit, own: Sequence[tuple[Limited, Standing]], outcome: Outcome) -> Iterator[Point]:
    """What is denied was stopped by nothing here, and of what others throttle this one did not let anything pass."""
    full = [one.charge.rule for one, standing in own if not standing.admitted]
    if outcome is Outcome.DENY:
        yield from (of.counting,) if own and of.counting is not None else ()
    elif full:
        yield of.stopping
        yield from (of.full[rule] for rule in full if rule in of.full)
    elif own and outcome is not Outcome.THROTTLE:
        yield of.passing


def known(facts: Facts, root: str) -> bool:
    return not isinstance(facts.read((root, "id")), Unknown)


def stands(effect: k.Effect, decision: Decision) -> bool:
    """What a gateway or a caller is to do goes with an allow; what is for the operator with every outcome."""
    if not isinstance(effect, k.Oblige):
        return True
    return decision.outcome is Outcome.ALLOW or effect.kind in FOR_THE_OPERATOR


def tell_rule(rule: Rule, acted: bool, facts: Facts, found: set[Point]) -> None:
    if rule.when is not None:
        observe(rule.when, facts, found)
    if acted and rule.acted is not None:
        found.add(rule.acted)


def tell(both: Both, holds: Value, found: set[Point]) -> None:
    point = both.holding if holds is True else both.failing
    if point is not None:
        found.add(point)


def tell_valid(both: Both, holds: Value, early: bool, found: set[Point]) -> None:
    point = both.holding if holds is True else both.failing or (both.early if early else both.late)
    if point is not None:
        found.add(point)
