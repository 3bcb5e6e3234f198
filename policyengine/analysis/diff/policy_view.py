"""The rules of one policy for a kind of caller at a class of endpoints, as conditions under which it grants access and
effects apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.grant_conditions import GrantConditions, task_condition
from policyengine.analysis.diff.limits import limit_expressions as read_by
from policyengine.analysis.diff.rule_units import (
    Key,
    RuleUnit,
    approval_bound_facts,
    carriers_of,
    effect_key,
    history_places,
    unit_conditions,
)
from policyengine.analysis.diff.specialize import (
    ALWAYS,
    NEVER,
    CallerAssumption,
    ConditionRewriter,
    RewriteOptions,
    fact_bindings,
    rewrite_condition,
)
from policyengine.checker.patterns.overlap import overlaps
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.tree import Covering, tree_of
from policyengine.kernel.fingerprint import CanonicalWriters
from policyengine.source import Span
from policyengine.spec.match_endpoint import match_pattern, place_covers

EFFECT_KINDS = ("confirm", "oblige")
# Roots of facts that can depend on the caller or the endpoint.
SETTLED_ROOTS = frozenset(
    {("agent",), ("user",), ("chain",), ("approval",), ("request",), ("tool",), ("resource",), ("params",)}
)


@dataclass(frozen=True, slots=True)
class AnswerConditions:
    """The conditions of the grants, which must be true, and of the effects, which must be true or unknown: each deny,
    confirm and obligation by its key.
    """

    opens: k.Expr
    denies: tuple[k.Expr, ...]
    confirms: Mapping[Key, tuple[k.Expr, ...]]
    duties: Mapping[Key, tuple[k.Expr, ...]]


@dataclass(eq=False)
class PolicyView:
    """One of the two policies, with the data to find its rules at an endpoint."""

    kernel: k.Kernel
    name: str  # "old" or "new"
    write: CanonicalWriters = field(default_factory=CanonicalWriters)
    texts: dict[int, str] = field(default_factory=dict)
    facts: dict[int, frozenset[Key]] = field(default_factory=dict)
    conditions: dict[int, tuple[frozenset[Key], k.Expr | None]] = field(default_factory=dict)
    places: dict[int, tuple[k.Place, ...]] = field(default_factory=dict)

    @cached_property
    def builder(self) -> ProgramBuilder:
        return ProgramBuilder(self.kernel, tree_of(self.kernel))

    @cached_property
    def recorded(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, issuer in self.kernel.issuers.items() if issuer.records_chains))

    @cached_property
    def free_of_scopes(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, issuer in self.kernel.issuers.items() if issuer.scopes_none))

    @cached_property
    def limits(self) -> bool:
        """Whether delegation is limited. If it is, issuers that do not record chains are refused."""
        return any(one.depth is not None or one.lifetime is not None or one.no_cycles for one in self.kernel.delegation)

    def covering(self, at: EndpointClass) -> Covering:
        covering: Covering = self.builder.rules_at(at.endpoint).covering
        return covering

    def text(self, part: object) -> str:
        found = self.texts.get(id(part))
        if found is None:
            found = self.texts[id(part)] = self.write(part)
        return found

    # ── Rules at a class of endpoints ───────────────────────────────────────────────────

    def units(self, at: EndpointClass) -> tuple[RuleUnit, ...]:
        """Return every rule that covers these endpoints."""
        return (*self.doors(at), *self.guards(at))

    def doors(self, at: EndpointClass) -> Iterator[RuleUnit]:
        covering, kernel = self.covering(at), self.kernel
        for number in sorted(covering.anyones):
            yield from self.grants("anyone", kernel.anyones[number], at)
        for number in sorted(covering.users):
            yield from self.grants("user", kernel.users[number], at)
        for number in sorted(covering.agents | covering.hands):
            yield from self.grants("agent", kernel.agents[number], at)
            yield from self.delegates(kernel.agents[number], at)

    def grants(
        self, kind: str, block: k.AgentBlock | k.UserBlock | k.AnyoneBlock, at: EndpointClass
    ) -> Iterator[RuleUnit]:
        head = self.head(block)
        for grant in block.grants:
            carriers = carriers_of(grant, at)
            if carriers is not None:
                when = "" if grant.when is None else self.text(grant.when)
                text = f"{kind} {head} {sorted(carriers)} {when}"
                yield RuleUnit(kind, text, text, grant, block)

    def delegates(self, block: k.AgentBlock, at: EndpointClass) -> Iterator[RuleUnit]:
        for delegate in block.delegates:
            if any(match_pattern(pattern, at.endpoint) is not None for pattern in delegate.patterns):
                when = "" if delegate.when is None else self.text(delegate.when)
                text = f"delegate {self.head(block)} {delegate.to} {delegate.lifetime} {when}"
                yield RuleUnit("delegate", text, text, delegate, block)

    def head(self, block: k.AgentBlock | k.UserBlock | k.AnyoneBlock) -> str:
        """Return the text of a block's principal and requirements, and of what its package waives."""
        found = self.texts.get(id(block))
        if found is None:
            waived = [block.package in self.kernel.unrestricted, block.package in self.kernel.advisory]
            asked = (
                () if isinstance(block, k.AnyoneBlock) else sorted(self.requirement(one) for one in block.requirements)
            )
            who = "" if isinstance(block, k.AnyoneBlock) else self.write(block.who)
            found = self.texts[id(block)] = f"{who} {asked} {waived}"
        return found

    def requirement(self, one: k.Requirement) -> str:
        """Return the text of a requirement, with the aspects that its attesters vouch for."""
        if not isinstance(one, k.AttestedBy):
            return self.write(one)
        return self.write(one) + "".join(self.write(self.kernel.attesters[name]) for name in sorted(one.attesters))

    def guards(self, at: EndpointClass) -> Iterator[RuleUnit]:
        for number in self.covering(at).guards:
            guard = self.kernel.guards[number]
            for effect in guard.effects:
                yield RuleUnit(
                    "guard", self.effect(effect, at), f"{guard.name} {self.text(effect)}", effect, guard=guard
                )

    def effect(self, effect: k.Effect, at: EndpointClass) -> str:
        when = "" if effect.condition is None else self.text(effect.condition)
        read = sorted(approval_bound_facts(effect, at)) if isinstance(effect, k.Confirm) else ""
        return f"{effect_key(effect, at)} {when} {read}"

    def setting(self, at: EndpointClass) -> str:
        """Return a key of the bindings, issuers and delegation limits there."""
        binders = sorted(self.text(self.kernel.binders[number]) for number in self.covering(at).binders)
        return f"{binders} {self.trust} {self.remembered(at)}"

    def remembered(self, at: EndpointClass) -> str:
        """Return the bindings at the endpoints whose events the guards here read."""
        guards = [self.kernel.guards[number] for number in self.covering(at).guards]
        places = [place for guard in guards for place in self.looked_back_at(guard)]
        if not places:
            return ""
        patterns = {one for place in places for one in place.patterns or ()}
        anywhere = any(place.patterns is None for place in places)
        return str(sorted(
            self.text(one) for one in self.kernel.binders
            if anywhere or any(overlaps(pattern, one.pattern) for pattern in patterns)
        ))  # fmt: skip

    def looked_back_at(self, guard: k.Guard) -> tuple[k.Place, ...]:
        found = self.places.get(id(guard))
        if found is None:
            found = self.places[id(guard)] = tuple(history_places(guard))
        return found

    @cached_property
    def trust(self) -> str:
        every = self.kernel.issuers.items()
        known = sorted((name, one.records_chains, one.scopes_none, sorted(one.claims)) for name, one in every)
        return f"{known} {sorted(map(self.write, self.kernel.delegation))}"

    def rewriter(self, at: EndpointClass, reading: RewriteOptions, *, opening: bool = False) -> ConditionRewriter:
        """Return a rewriter of conditions. With `opening`, bindings are case-sensitive, as in grants."""
        return ConditionRewriter(
            at, reading.settled, self.bound(at, opening=opening), self.name, self.recorded, reading
        )

    def bound(self, at: EndpointClass, *, opening: bool = False) -> dict[tuple[str, ...], k.Expr | None]:
        found = (self.kernel.binders[number] for number in self.covering(at).binders)
        binders = tuple(one for one in found if not opening or match_pattern(one.pattern, at.endpoint) is not None)
        return fact_bindings(self.kernel, at, binders)

    def pieces(self, unit: RuleUnit, at: EndpointClass) -> Iterator[tuple[tuple[str, ...], str, Span]]:
        """Yield a rule and the requirements of its block, each with a text. Two texts are equal if and only if their
        meanings are equal.
        """
        part = unit.part
        if unit.guard is not None:
            yield (unit.name, self.effect(part, at)), unit.name, part.span  # type: ignore[arg-type]  # a guard has effects
            return
        assert unit.block is not None
        what = str(sorted(carriers_of(part, at) or ())) if isinstance(part, k.Grant) else unit.text
        when = part.when if isinstance(part, k.Grant) else None
        yield (unit.name, unit.kind, what, "" if when is None else self.text(when)), unit.name, part.span
        for requirement in getattr(unit.block, "requirements", ()):
            yield (unit.name, self.write(requirement)), unit.name, requirement.span
            for name in requirement.attesters if isinstance(requirement, k.AttestedBy) else ():
                attester = self.kernel.attesters[name]
                yield (unit.name, self.write(attester)), f"attester {name}", attester.span

    # ── Rules for one kind of caller ────────────────────────────────────────────────────

    def said(
        self, at: EndpointClass, units: Sequence[RuleUnit], reading: RewriteOptions, *, opens: bool = True
    ) -> AnswerConditions:
        """Return the conditions of those `units` that can apply to the caller; with `opens` False, leave
        out the grants.
        """
        rewrite = self.rewriter(at, reading)
        acting: dict[str, dict[Key, list[k.Expr]]] = {"deny": {}, "confirm": {}, "oblige": {}}
        for effect in (unit.part for unit in units if unit.guard is not None):
            assert isinstance(effect, k.Deny | k.Confirm | k.ObligationEffect)
            key = effect_key(effect, at)
            when = ALWAYS if effect.condition is None else self.rewritten(effect.condition, rewrite)
            acting[key[0]].setdefault(key, []).append(when)
        confirms, duties = ({key: tuple(acting[kind][key]) for key in sorted(acting[kind])} for kind in EFFECT_KINDS)
        asking = GrantConditions(self, at, reading.settled, self.rewriter(at, reading, opening=True),
                            self.task(at, rewrite, reading))  # fmt: skip
        door = NEVER if self.uncounted(at, reading.settled) else asking.opens(units) if opens else ALWAYS
        return AnswerConditions(
            door, tuple(one for several in acting["deny"].values() for one in several), confirms, duties
        )

    def uncounted(self, at: EndpointClass, settled: CallerAssumption) -> bool:
        """Return whether a limit there counts by an agent or user that is absent. Such a request is refused."""
        nobody = {root for root in ("agent", "user") if not isinstance(getattr(settled, root), str)}
        return any(
            limit.when is None
            and place_covers(limit.place, at.endpoint)
            and any(isinstance(key, k.Fact) and key.path[0] in nobody for key in limit.keys)
            for limit in self.kernel.limits
        )

    def counted_by(self, at: EndpointClass, reading: RewriteOptions) -> Iterator[k.Expr]:
        """Yield the facts that limits there read, without those of absent principals."""
        rewrite, settled = self.rewriter(at, reading), reading.settled
        nobody = {root for root in ("agent", "user") if not isinstance(getattr(settled, root), str)}
        for limit in self.kernel.limits:
            if place_covers(limit.place, at.endpoint):
                read = (one for part in read_by(limit) for one in fact_leaves(rewrite(part)))
                yield from (one for one in read if nobody.isdisjoint(fact_roots(one)))

    def reads(self, units: Iterable[RuleUnit], paths: Iterable[Key]) -> bool:
        """Return whether a condition of the units reads one of these facts."""
        wanted = frozenset(paths)
        return bool(wanted) and any(not self.asked(unit).isdisjoint(wanted) for unit in units)

    def asked(self, unit: RuleUnit) -> frozenset[Key]:
        found = self.facts.get(id(unit.part))
        if found is None:
            nodes = (node for condition in unit_conditions(unit) for node in k.walk(condition))
            found = frozenset(node.path for node in nodes if isinstance(node, k.Fact))
            self.facts[id(unit.part)] = found
        return found

    def rewritten(self, condition: k.Expr, rewrite: ConditionRewriter) -> k.Expr:
        """Rewrite a condition. Most conditions read no settled facts and are the same everywhere."""
        known = self.conditions.get(id(condition))
        if known is None:
            roots = frozenset(node.path[:1] for node in k.walk(condition) if isinstance(node, k.Fact))
            back = any(isinstance(node, k.HistoryCondition | k.Aggregate | k.Attribute) for node in k.walk(condition))
            anywhere = None if back or not roots.isdisjoint(SETTLED_ROOTS) else rewrite_condition(condition, {})
            known = self.conditions[id(condition)] = roots, anywhere
        roots, anywhere = known
        if anywhere is None or any(path[:1] in roots for path in rewrite.bound):
            return rewrite(condition)
        return anywhere

    def task(self, at: EndpointClass, rewrite: ConditionRewriter, reading: RewriteOptions) -> k.Expr:
        return task_condition(at, rewrite, reading.types) if reading.tasks else ALWAYS


def fact_leaves(expression: k.Expr) -> Iterator[k.Expr]:
    """Yield the facts, attributes and members that an expression reads, each as a whole."""
    pending = [expression]
    while pending:
        node = pending.pop()
        if isinstance(node, k.Fact | k.Attribute | k.Member):
            yield node
        else:
            pending += k.children(node)


def fact_roots(expression: k.Expr) -> set[str]:
    return {node.path[0] for node in k.walk(expression) if isinstance(node, k.Fact)}
