"""Finds all points of a policy in its kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers
from policyengine.kernel.fingerprint import canonical_text
from policyengine.source import Span
from policyengine.spec.facts import MAX_HOPS
from policyengine.spec.trace import Block
from policyengine.testing.coverage.always_known import AGENT_PATHS, USER_PATHS, KnownFacts, facts_bound_at
from policyengine.testing.coverage.conditions import ConditionPointReader, CoveredCondition
from policyengine.testing.coverage.points import Point, PointKind, UnreachablePoint, digest, quote_span, sort_points
from policyengine.testing.coverage.source_spans import COUNTING, DeclarationSpans

NONE: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True, slots=True)
class RequirementPoints:
    """The points of a requirement: a test in which it holds, and a test in which it fails. A `valid` requirement can
    fail in two ways, too early and too late.
    """

    holding: Point
    failing: Point | None
    early: Point | None = None
    late: Point | None = None


@dataclass(frozen=True, slots=True)
class RulePoints:
    """The points of a `may`, a `may delegate` or an effect of a guard: its action, its condition and its period."""

    acted: Point | None
    when: CoveredCondition | None
    lasting: RequirementPoints | None = None
    approved: Point | None = None


@dataclass(frozen=True, slots=True)
class BlockPoints:
    """The points of a block: `about` is the condition of its `agent where` or `user where`, `asks` are its
    requirements, `served` is the condition of `acts for`.
    """

    about: CoveredCondition | None
    asks: dict[int, RequirementPoints]
    served: dict[int, CoveredCondition]
    grants: tuple[RulePoints, ...]
    delegates: tuple[RulePoints, ...]


@dataclass(frozen=True, slots=True)
class GuardPoints:
    """The points of a guard. For a guard with only obligations, `stopping` and `passing` mean applying and not
    applying."""

    stopping: Point | None
    passing: Point | None
    effects: tuple[RulePoints, ...]


@dataclass(frozen=True, slots=True)
class LimitPoints:
    """The points of a rate or budget. `names` are the names of its parts in a store; `full` are the points of these
    parts, if there are several; `moves` are its raises and clamps, in the order of the trace.
    """

    names: frozenset[str]
    passing: Point
    stopping: Point
    full: dict[str, Point]
    when: CoveredCondition | None
    moves: tuple[RulePoints, ...]
    counting: Point | None


AttesterAspect: TypeAlias = tuple[k.Attester, RequirementPoints]


@dataclass(slots=True)
class PolicyPoints:
    """All points, by part of the kernel. `limits` are the points of delegation limits, `limited` those of rates and
    budgets, and `at` are patterns with their places and points.
    """

    blocks: dict[int, BlockPoints] = field(default_factory=dict)
    guards: dict[int, GuardPoints] = field(default_factory=dict)
    attesters: dict[str, list[AttesterAspect]] = field(default_factory=dict)
    limits: dict[tuple[int, str], RequirementPoints] = field(default_factory=dict)
    limited: dict[int, LimitPoints] = field(default_factory=dict)
    at: list[tuple[k.Pattern, k.Place | None, Point]] = field(default_factory=list)
    points: tuple[Point, ...] = ()
    left_out: tuple[UnreachablePoint, ...] = ()


def find_points(kernel: k.Kernel) -> PolicyPoints:
    return PointFinder(kernel).found()


class PointFinder:
    def __init__(self, kernel: k.Kernel) -> None:
        self.kernel = kernel
        self.reader = ConditionPointReader()
        self.written = DeclarationSpans()
        self.points: list[Point] = []
        self.left_out: list[UnreachablePoint] = []

    def found(self) -> PolicyPoints:
        sights, kernel = PolicyPoints(), self.kernel
        every: tuple[Block, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
        sights.blocks = {id(block): self.block(block) for block in every}
        sights.guards = {id(guard): self.guard(guard) for guard in kernel.guards}
        sights.attesters = {
            name: list(self.attester(kernel.attesters[name])) for name in sorted(required_attesters(kernel.agents))
        }
        sights.limits = {key: both for limits in kernel.delegation for key, both in self.delegation(limits)}
        sights.limited = {id(limit): self.limit(limit) for limit in kernel.limits}
        placed = [found for rule in (*kernel.guards, *kernel.limits) for found in self.places(rule)]
        sights.at = [*self.doors(every), *placed]
        points, left_out = self.reader.settle()
        sights.points = sort_points([*self.points, *points])
        sights.left_out = (*self.left_out, *left_out)
        return sights

    def point(self, kind: PointKind, part: str, seen: str, span: Span, words: str) -> Point:
        found = Point(kind, part, seen, span, words)
        self.points.append(found)
        return found

    def both(self, part: str, span: Span) -> RequirementPoints:
        return RequirementPoints(self.requirement(part, span, "holding"), self.requirement(part, span, "failing"))

    def requirement(self, part: str, span: Span, seen: str) -> Point:
        return self.point(PointKind.REQUIREMENTS, part, seen, span, f"{quote_span(span)} {NEVER_SEEN[seen]}")

    # ── Doors ─────────────────────────────────────────────────────────────────────────────────

    def block(self, block: Block) -> BlockPoints:
        name = block_key(block)
        about_it = (
            AGENT_PATHS if isinstance(block, k.AgentBlock) else USER_PATHS if isinstance(block, k.UserBlock) else NONE
        )
        known = KnownFacts().and_(about_it)
        about = None
        if not isinstance(block, k.AnyoneBlock) and isinstance(block.who, k.PrincipalCondition):
            about = self.reader.read(block.who.condition, f"{name} where", known)
        requirements = () if isinstance(block, k.AnyoneBlock) else block.requirements
        served = {
            id(one): self.reader.read(one.condition, f"{name} acts", known.and_(USER_PATHS))
            for one in requirements
            if isinstance(one, k.ActsFor) and one.condition is not None
        }
        delegates = block.delegates if isinstance(block, k.AgentBlock) else ()
        return BlockPoints(
            about,
            {id(one): self.asks(one, name) for one in requirements},
            served,
            tuple(self.grant(grant, name, known) for grant in block.grants),
            tuple(self.delegate(delegate, name, known) for delegate in delegates),
        )

    def asks(self, requirement: k.Requirement, name: str) -> RequirementPoints:
        part = f"{name} {digest(canonical_text(requirement))}"
        if not isinstance(requirement, k.ValidityPeriod) or requirement.start is None or requirement.end is None:
            return self.both(part, requirement.span)
        early = self.valid(part, requirement, "early", "from")
        late = self.valid(part, requirement, "late", "until")
        return RequirementPoints(self.requirement(part, requirement.span, "holding"), None, early, late)

    def valid(self, part: str, requirement: k.ValidityPeriod, seen: str, word: str) -> Point:
        span = self.written.at(requirement, word)
        words = f"{quote_span(requirement.span)} never failed because a request was too {seen}"
        return self.point(PointKind.REQUIREMENTS, part, seen, span, words)

    def grant(self, grant: k.Grant, name: str, known: KnownFacts) -> RulePoints:
        part = f"{name} may {digest(canonical_text(grant))}"
        here = known.and_(facts_bound_at(tuple(one.pattern for one in grant.openings)))
        when = None if grant.when is None else self.reader.read(grant.when, f"{part} when", here)
        words = f"{quote_span(grant.span)} never granted a request"
        return RulePoints(self.point(PointKind.RULES, part, "acted", grant.span, words), when)

    def delegate(self, delegate: k.DelegationGrant, name: str, known: KnownFacts) -> RulePoints:
        part = f"{name} may delegate {digest(canonical_text(delegate))}"
        here = known.and_(facts_bound_at(delegate.patterns))
        when = None if delegate.when is None else self.reader.read(delegate.when, f"{part} when", here)
        acted = self.point(
            PointKind.RULES, part, "acted", delegate.span, f"{quote_span(delegate.span)} never delegated anything"
        )
        if delegate.lifetime is None:
            return RulePoints(acted, when)
        span = self.written.at(delegate, "for")
        of = f"the limit {quote_span(span)} of a `may delegate`"
        holding, failing = (
            self.point(PointKind.REQUIREMENTS, f"{part} for", seen, span, f"{of} {NEVER_SEEN[seen]}")
            for seen in ("holding", "failing")
        )
        return RulePoints(acted, when, RequirementPoints(holding, failing))

    def attester(self, attester: k.Attester) -> Iterator[AttesterAspect]:
        """Yield each aspect that an attester vouches for, as a copy of the attester that vouches only for
        that aspect.
        """
        bare = replace(attester, age=None, models=(), environments=())
        aspects = {"age": attester.age, "models": attester.models, "environments": attester.environments}
        for word, limit in aspects.items():
            if limit:
                span = self.written.at(attester, word)
                yield replace(bare, **{word: limit}), self.both(f"attester {attester.name} {word}", span)  # type: ignore[arg-type]

    def delegation(self, limits: k.DelegationLimits) -> Iterator[tuple[tuple[int, str], RequirementPoints]]:
        part = f"delegation {digest(canonical_text(limits))}"
        if limits.depth is not None:
            span = self.written.at(limits, "depth")
            yield (id(limits), "depth"), self.depth(f"{part} depth", span, limits.depth)
        if limits.lifetime is not None:
            yield (id(limits), "lifetime"), self.both(f"{part} lifetime", self.written.at(limits, "lifetime"))
        if limits.no_cycles:
            yield (id(limits), "no"), self.both(f"{part} no cycles", self.written.at(limits, "no cycles"))

    def depth(self, part: str, span: Span, limit: int) -> RequirementPoints:
        """Return the points of a depth limit. The engine refuses chains longer than it can read before it compares
        their depth.
        """
        if limit < MAX_HOPS:
            return self.both(part, span)
        words = f"{quote_span(span)} can never fail: chains of more than {MAX_HOPS} hops are refused"
        self.left_out.append(UnreachablePoint(span, "failing", words))
        return RequirementPoints(self.requirement(part, span, "holding"), None)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────

    def guard(self, guard: k.Guard) -> GuardPoints:
        part = f"guard {guard.package} {guard.name}"
        known = KnownFacts().and_(facts_bound_at(guard.place.patterns))
        effects = tuple(self.effect(effect, f"{part} {number}", known) for number, effect in enumerate(guard.effects))
        stops = [effect for effect in guard.effects if not isinstance(effect, k.ObligationEffect)]
        if not guard.effects:
            return GuardPoints(None, None, ())
        seen, unseen = ("stopping", "passing") if stops else ("applying", "not applying")
        acts = self.of_guard(guard, part, seen)
        if self.always_acts(guard):
            words = f"guard `{guard.name}` {'stops every request' if stops else 'always applies'}"
            self.left_out.append(UnreachablePoint(guard.span, unseen, words))
            return GuardPoints(acts, None, effects)
        passes = self.of_guard(guard, part, unseen)
        return GuardPoints(acts, passes, effects)

    def of_guard(self, guard: k.Guard, part: str, seen: str) -> Point:
        return self.point(PointKind.GUARDS, part, seen, guard.span, f"guard `{guard.name}` {NEVER_SEEN[seen]}")

    def always_acts(self, guard: k.Guard) -> bool:
        """Return whether a guard stops every request, which is the case if one of its denies does. A confirm does not
        count, because an approval lifts it.
        """
        denies = [effect for effect in guard.effects if isinstance(effect, k.Deny)]
        duties = [effect for effect in guard.effects if isinstance(effect, k.ObligationEffect)]
        deciding: list[k.Deny] | list[k.ObligationEffect] = duties if len(duties) == len(guard.effects) else denies
        conditions = [effect.condition for effect in deciding if effect.condition is not None]
        if len(conditions) < len(deciding):
            return True
        return bool(conditions) and False not in self.reader.answers.possible(
            conditions[0] if len(conditions) == 1 else k.Or(tuple(conditions), span=guard.span)
        )

    def effect(self, effect: k.Effect, part: str, known: KnownFacts) -> RulePoints:
        when = None if effect.condition is None else self.reader.read(effect.condition, f"{part} when", known)
        words = f"{quote_span(effect.span)} {NEVER_ACTED[type(effect)]}"
        acted = self.point(PointKind.RULES, part, "acted", effect.span, words)
        if not isinstance(effect, k.Confirm):
            return RulePoints(acted, when)
        words = f"{quote_span(effect.span)} was never lifted by an approval"
        return RulePoints(acted, when, approved=self.point(PointKind.RULES, part, "approved", effect.span, words))

    # ── Rates and budgets ─────────────────────────────────────────────────────────────────────

    def limit(self, limit: k.Limit) -> LimitPoints:
        kind = rule_kind(limit)
        part, name = f"{kind} {limit.package} {limit.name}", f"{kind} `{limit.name}`"
        known = KnownFacts().and_(facts_bound_at(limit.place.patterns))
        passing, stopping = (
            self.point(PointKind.LIMITS, part, seen, limit.span, f"{name} {NEVER_SEEN[seen]}")
            for seen in ("letting", "stopping")
        )
        parts = tuple(limit_parts(limit))
        full = {
            key: self.point(PointKind.LIMITS, f"{part} {key}", "full", span, f"{quote_span(span)} was never exhausted")
            for key, span in (parts if len(parts) > 1 else ())
        }
        when = None if limit.when is None else self.reader.read(limit.when, f"{part} when", known)
        moves = limit.raises + limit.clamps if isinstance(limit, k.Rate) else ()
        counting = None
        if isinstance(limit, k.Rate) and limit.counting_denials:
            words = f"{name} never counted a denied request"
            counting = self.point(PointKind.RULES, part, "counting", self.written.at(limit, COUNTING), words)
        moved = tuple(self.move(one, part, known) for one in moves)
        return LimitPoints(frozenset(key for key, _ in parts), passing, stopping, full, when, moved, counting)

    def move(self, one: k.Raise | k.Clamp, part: str, known: KnownFacts) -> RulePoints:
        key = f"{part} {digest(canonical_text(one))}"
        words = f"{quote_span(one.span)} never {'raised' if isinstance(one, k.Raise) else 'slowed'} anything"
        acted = self.point(PointKind.RULES, key, "acted", one.span, words)
        return RulePoints(acted, self.reader.read(one.when, f"{key} when", known))

    # ── Endpoints ─────────────────────────────────────────────────────────────────────────────

    def doors(self, blocks: Iterable[Block]) -> Iterator[tuple[k.Pattern, None, Point]]:
        """Yield each pattern that a grant opens, once, with its coverage point."""
        patterns = {opening.pattern: opening for block in blocks for one in block.grants for opening in one.openings}
        for pattern in patterns:
            part = f"door {digest(canonical_text(pattern))}"
            words = f"no request for {quote_span(pattern.span)} was decided"
            yield pattern, None, self.point(PointKind.ENDPOINTS, part, "decided", pattern.span, words)

    def places(self, rule: k.Guard | k.Limit) -> Iterator[tuple[k.Pattern, k.Place | None, Point]]:
        kind = rule_kind(rule)
        part, outside = f"{kind} {rule.package} {rule.name} on", rule.place.excepts
        for pattern in dict.fromkeys(rule.place.patterns or ()):
            if any(covers(hole, k.with_folding(pattern, "none")) for hole in outside):  # both in their written form
                words = (
                    f"{quote_span(pattern.span)} can never be decided by this {kind}: its `except` excludes all of it"
                )
                self.left_out.append(UnreachablePoint(pattern.span, "decided", words))
                continue
            words = f"no request for {quote_span(pattern.span)} was decided by {kind} `{rule.name}`"
            key = f"{part} {digest(canonical_text(pattern))}"
            yield pattern, rule.place, self.point(PointKind.ENDPOINTS, key, "decided", pattern.span, words)
        for pattern in dict.fromkeys(outside):
            words = (
                f"{quote_span(pattern.span)} was never requested: the `except` of {kind} `{rule.name}` is not tested"
            )
            key = f"{part} {digest(canonical_text(pattern))}"
            yield pattern, None, self.point(PointKind.ENDPOINTS, key, "left out", pattern.span, words)


def rule_kind(rule: k.Guard | k.Limit) -> str:
    return {k.Guard: "guard", k.Rate: "rate", k.Budget: "budget"}[type(rule)]


def limit_parts(limit: k.Limit) -> Iterator[tuple[str, Span]]:
    """Yield the parts of a limit that can be full: the pace and the concurrency, or each quota. Their names are those
    in `spending.charges`.
    """
    name = f"{limit.package}/{limit.name}"
    if isinstance(limit, k.Budget):
        yield from ((f"{name}#{number}", quota.span) for number, quota in enumerate(limit.quotas, 1))
        return
    if limit.pace is not None:
        yield name, limit.span
    if limit.at_once is not None:
        yield f"{name}#at once", limit.at_once.span


NEVER_SEEN = {
    "holding": "never held",
    "failing": "never failed",
    "letting": "never let a request pass",
    "passing": "never let a request pass",
    "stopping": "never stopped a request",
    "applying": "never applied",
    "not applying": "never had a request to which it does not apply",
}
NEVER_ACTED: dict[type[k.Effect], str] = {
    k.Deny: "never denied a request",
    k.Confirm: "never asked for a confirmation",
    k.ObligationEffect: "never applied",
}


def block_key(block: Block) -> str:
    """Return the identity of a block by its meaning, without its label, which quotes the source."""
    kind = {k.AgentBlock: "agent", k.UserBlock: "user", k.AnyoneBlock: "anyone"}[type(block)]
    return f"{kind} {digest(canonical_text(replace(block, label='')))}"


def required_attesters(agents: Iterable[k.AgentBlock]) -> set[str]:
    """Return the attesters that at least one block requires."""
    return {
        name
        for block in agents
        for requirement in block.requirements
        if isinstance(requirement, k.AttestedBy)
        for name in requirement.attesters
    }
