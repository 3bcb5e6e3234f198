"""The users for whom the agents of an issuer act, as far as the policy determines them: which grants lend authority to
the agents, and under which conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex, place_covers, place_overlaps
from policyengine.kernel.expressions import rewrite
from policyengine.solver.satisfiability import possible_truths
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CREDENTIAL_ROOTS

Conditions: TypeAlias = tuple[k.Expr | None, ...]
# The number of the lender, and the conditions on its users.
LendingPath: TypeAlias = tuple[int, frozenset[k.Expr]]

MAX_LENDING_PATHS = 50_000  # maximum for each issuer; the rest is not compared
ISSUER = frozenset({("agent", "issuer"), ("credential", "issuer")})
CALLER_ROOTS = frozenset({*CREDENTIAL_ROOTS, "context", "request"} - {"user"})
AGENT_ROOTS = frozenset({"agent", "context"})
RESOURCE_ROOTS = frozenset({"args", "body", "params", "resource", "tool"})
CONFINING_ROOTS = frozenset({"params", "resource"})


@dataclass(frozen=True, slots=True, eq=False)
class LenderGrant:
    """A grant of a lender, with the conditions of its block and its own."""

    lender: int
    conditions: Conditions


@dataclass(frozen=True, slots=True, eq=False)
class GuardDemand:
    """The conditions on users that a guard demands."""

    place: k.Place
    parts: frozenset[k.Expr]


@dataclass(frozen=True, slots=True)
class LendingIndex:
    """The grants that lend authority to agents.

    User blocks lend to agents whose grants overlap theirs. In packages with `users unrestricted`, agents need no
    lender; there, agents with overlapping grants count as lenders of each other. Guards add conditions at their places;
    a guard that applies everywhere distinguishes no users.
    """

    unrestricted: tuple[str, ...]
    by_users: PatternIndex[LenderGrant]
    by_agents: PatternIndex[LenderGrant]
    by_guards: PatternIndex[GuardDemand]

    @staticmethod
    def of(kernel: k.Kernel) -> LendingIndex:
        by_users, by_agents, by_guards = (
            PatternIndex[LenderGrant](),
            PatternIndex[LenderGrant](),
            PatternIndex[GuardDemand](),
        )
        for lender, user in enumerate(kernel.users):
            head = user.who.condition if isinstance(user.who, k.PrincipalCondition) else None
            for grant in user.grants:
                index_grant(by_users, grant, LenderGrant(lender, (head, grant.when)))
        waived = (block for block in kernel.agents if block.package in kernel.unrestricted and acts_for(block))
        for lender, grant in enumerate((grant for block in waived for grant in block.grants), len(kernel.users)):
            index_grant(by_agents, grant, LenderGrant(lender, ()))
        for demand in guard_demands(kernel.guards):
            for pattern in demand.place.patterns or ():
                by_guards.add(pattern, demand)
        return LendingIndex(kernel.unrestricted, by_users, by_agents, by_guards)

    def ways(self, issuer: k.Issuer, blocks: Iterable[k.AgentBlock]) -> dict[LendingPath, list[k.AgentBlock]]:
        """Return every lending path of the issuer's agents, and the blocks of `blocks` that use it."""
        found: dict[LendingPath, list[k.AgentBlock]] = {}
        for way, block in islice(self._ways(issuer, blocks), MAX_LENDING_PATHS):
            some = [] if way is None else found.setdefault(way, [])
            if not some or some[-1] is not block:
                some.append(block)
        return found

    def _ways(
        self, issuer: k.Issuer, blocks: Iterable[k.AgentBlock]
    ) -> Iterator[tuple[LendingPath | None, k.AgentBlock]]:
        """Yield lending paths with their blocks. The path is None if it is closed to the issuer, or if it ties users to
        the caller.
        """
        lent_by = cache(lambda door: user_conditions(door.conditions, issuer.name))
        for block, grant in ((one, grant) for one in blocks for grant in one.grants):
            own = user_conditions((*(one.condition for one in acts_for(block)), grant.when), issuer.name)
            if own is None:
                continue
            own = frozenset(without_claims(own, issuer))
            for pattern in (opening.pattern for opening in grant.openings):
                asked = self._collect_demands(pattern)
                for door in self._lenders(block, pattern):
                    lent = lent_by(door)
                    yield None if lent is None else (door.lender, own.union(lent, *asked)), block

    def _collect_demands(self, pattern: k.Pattern) -> list[frozenset[k.Expr]]:
        """Return the demands of the guards that cover the whole pattern."""
        place = k.Place((pattern,), span=pattern.span)
        there = dict.fromkeys(self.by_guards.overlapping(pattern))
        return [demand.parts for demand in there if place_covers(demand.place, place)]

    def _lenders(self, block: k.AgentBlock, pattern: k.Pattern) -> Iterable[LenderGrant]:
        index = self.by_agents if block.package in self.unrestricted else self.by_users
        return dict.fromkeys(index.overlapping(pattern))


def index_grant(index: PatternIndex[LenderGrant], grant: k.Grant, door: LenderGrant) -> None:
    for opening in grant.openings:
        index.add(opening.pattern, door)


def acts_for(block: k.AgentBlock) -> list[k.ActsFor]:
    return [one for one in block.requirements if isinstance(one, k.ActsFor)]


# ── Conditions about users ──────────────────────────────────────────────


def user_conditions(conditions: Iterable[k.Expr | None], issuer: str) -> frozenset[k.Expr] | None:
    """Return the parts of required conditions that are about users alone or about resources alone. Return None if the
    conditions cannot hold for this issuer, or if they tie users to the caller.
    """
    found = set[k.Expr]()
    for written in (part for one in conditions if one is not None for part in required_parts(one, True)):
        part = for_issuer(written, issuer)
        if ties_user_to_caller(part) or (part is not written and True not in possible_truths(part)):
            return None
        if is_about_users(fact_roots(part)):
            found.add(part)
    return frozenset(found)


def without_claims(parts: Iterable[k.Expr], issuer: k.Issuer) -> Iterator[k.Expr]:
    """Yield the parts that depend on more than the issuer's claims, which override the entity store."""
    claimed = {path[1] for _, path in issuer.claims if path[0] == "user"}
    for part in parts:
        inside = list(k.walk(part))
        about = [one for one in inside if is_user_fact(one)]
        given = [
            one for one in inside if isinstance(one, k.Attribute) and is_user_fact(one.base) and one.name in claimed
        ]
        if not about or len(given) < len(about):
            yield part


def is_user_fact(expr: k.Expr) -> bool:
    return isinstance(expr, k.Fact) and expr.path[0] == "user"


def guard_demands(guards: Iterable[k.Guard]) -> Iterator[GuardDemand]:
    for place, effect in ((guard.place, effect) for guard in guards for effect in guard.effects):
        if isinstance(effect, k.Deny) and effect.condition is not None:
            parts = frozenset(one for one in required_parts(effect.condition, False) if is_about_users(fact_roots(one)))
            if parts:
                yield GuardDemand(place, parts)


def required_parts(condition: k.Expr, wanted: bool) -> Iterator[k.Expr]:
    """Yield the parts that must all hold for the condition to be `wanted`."""
    match condition:
        case k.DefinitionRef():
            yield from required_parts(condition.expression, wanted)
        case k.Not():
            yield from required_parts(condition.operand, not wanted)
        case k.And() | k.Or() if isinstance(condition, k.And) == wanted:
            yield from (part for item in condition.items for part in required_parts(item, wanted))
        case _:
            yield condition if wanted else k.Not(condition, span=condition.span)


def fact_roots(part: k.Expr) -> frozenset[str]:
    return frozenset(one.path[0] for one in k.walk(part) if isinstance(one, k.Fact))


def is_about_users(reads: frozenset[str]) -> bool:
    """Return whether a part reads users alone, or only resources that a path names."""
    return bool(reads) and (
        reads <= CONFINING_ROOTS or ("user" in reads and reads.isdisjoint(RESOURCE_ROOTS | CALLER_ROOTS))
    )


def ties_user_to_caller(condition: k.Expr) -> bool:
    """Return whether a condition ties users to the caller or the connection: it compares both, or it is about users and
    also reads agents or facts that gateways add.
    """
    reads = fact_roots(condition)
    if "user" not in reads:
        return False
    return not reads.isdisjoint(AGENT_ROOTS) or any(compares_user_to_caller(one) for one in condition_leaves(condition))


def compares_user_to_caller(leaf: k.Expr) -> bool:
    reads = fact_roots(leaf)
    return "user" in reads and not reads.isdisjoint(CALLER_ROOTS)


def condition_leaves(condition: k.Expr) -> Iterator[k.Expr]:
    match condition:
        case k.Not(one) | k.DefinitionRef(expression=one):
            yield from condition_leaves(one)
        case k.And(items) | k.Or(items):
            yield from (leaf for item in items for leaf in condition_leaves(item))
        case _:
            yield condition


def for_issuer(condition: k.Expr, issuer: str) -> k.Expr:
    """Return the condition for callers of the issuer; the same object if it does not read the issuer."""
    if not asks_for_issuer(condition):
        return condition

    def known(part: k.Expr) -> k.Expr | None:
        is_issuer = isinstance(part, k.Fact) and part.path in ISSUER
        return k.Constant(issuer, Scalar.STRING, span=part.span) if is_issuer else None

    return rewrite(rewrite(condition, known), fold_constant)


def fold_constant(part: k.Expr) -> k.Expr | None:
    """Return the truth value of a part that no longer reads any fact; None if it has no known truth value."""
    if not is_comparison(part) or fact_roots(part):
        return None
    truths = possible_truths(part)
    return k.Constant(truths == {True}, Scalar.BOOL, span=part.span) if truths in ({True}, {False}) else None


def asks_for_issuer(condition: k.Expr) -> bool:
    return any(isinstance(one, k.Fact) and one.path in ISSUER for one in k.walk(condition))


# ── Guards that distinguish issuers, or tie users to the caller ─────────────────────────────────────


def is_issuer_sensitive(condition: k.Expr) -> bool:
    return asks_for_issuer(condition) or ties_user_to_caller(condition)


def issuer_sensitive_conditions(guards: Iterable[k.Guard]) -> tuple[tuple[k.Place, k.Expr], ...]:
    stopping = ((guard, one) for guard in guards for one in guard.effects if not isinstance(one, k.ObligationEffect))
    found = ((guard.place, one.condition) for guard, one in stopping)
    return tuple(
        (place, condition) for place, condition in found if condition is not None and is_issuer_sensitive(condition)
    )


class IssuerSensitiveGuards:
    """The guards that distinguish issuers, and the grants of agents that act for users, by issuer."""

    def __init__(self, kernel: k.Kernel, speaking: Mapping[str, Iterable[k.AgentBlock]]) -> None:
        self.guards = issuer_sensitive_conditions(kernel.guards)
        self.doors = {issuer: granted_patterns(blocks) for issuer, blocks in speaking.items()}
        self._conditions = cache(self._conditions_for)

    def tell_apart(self, one: str, other: str) -> bool:
        """Return whether a guard acts differently for the two issuers at one of the grants, or ties users
        to the caller.
        """
        pairs = zip(self.guards, self._conditions(one), self._conditions(other), strict=True)
        return any(
            stands_at(place, self.doors[issuer])
            for (place, _), *conditions in pairs
            if not are_alike(*conditions)
            for issuer, condition in zip((one, other), conditions, strict=True)
            if condition is not None
        )

    def _conditions_for(self, issuer: str) -> list[k.Expr | None]:
        """Return the condition of each guard for the issuer; None if it never acts."""
        found = (for_issuer(condition, issuer) for _, condition in self.guards)
        return [None if possible_truths(one) == {False} else one for one in found]


def are_alike(one: k.Expr | None, other: k.Expr | None) -> bool:
    return one == other and (one is None or not ties_user_to_caller(one))


def granted_patterns(blocks: Iterable[k.AgentBlock]) -> PatternIndex[k.Pattern]:
    found = PatternIndex[k.Pattern]()
    for pattern in {opening.pattern for block in blocks for grant in block.grants for opening in grant.openings}:
        found.add(pattern, pattern)
    return found


def stands_at(place: k.Place, doors: PatternIndex[k.Pattern]) -> bool:
    near = (door for pattern in place.patterns or (None,) for door in doors.overlapping(pattern))
    return any(place_overlaps(place, door) for door in near)


def is_comparison(part: k.Expr) -> bool:
    return isinstance(part, k.Relation) and part.row.operands in (k.Operands.VALUES, k.Operands.ELEMENT)
