"""For which users the agents of an issuer act, as far as a policy says: who lends them authority, and when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex, place_covers, place_overlaps
from policyengine.kernel.expressions import rewritten
from policyengine.solver.satisfiability import possible
from policyengine.typesystem import Scalar

Conditions: TypeAlias = tuple[k.Expr | None, ...]
# By its number who lends, and what conditions say of whose users are meant.
Way: TypeAlias = tuple[int, frozenset[k.Expr]]

MOST_WAYS = 50_000  # of one issuer; what is beyond is not compared
ISSUER = frozenset({("agent", "issuer"), ("credential", "issuer")})
WHENCE = frozenset({"agent", "attestation", "chain", "context", "credential", "request", "task"})
SPEAKING = frozenset({"agent", "context"})
THINGS = frozenset({"args", "body", "params", "resource", "tool"})
CONFINING = frozenset({"params", "resource"})


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """One of a lender's: `conditions` are those of its block and its own."""

    lender: int
    conditions: Conditions


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What a guard asks of whoever asks, as far as it says whose users are meant."""

    place: k.Place
    parts: frozenset[k.Expr]


@dataclass(frozen=True, slots=True)
class Lending:
    """User blocks lend their authority to agents that have a door where theirs is. Where users are `unrestricted`
    agents need none: there those whose doors meet have it of each other. Guards ask more, each at its place; what
    they ask everywhere tells nobody from another.
    """

    unrestricted: tuple[str, ...]
    by_users: PatternIndex[Door]
    by_agents: PatternIndex[Door]
    by_guards: PatternIndex[Demand]

    @staticmethod
    def of(kernel: k.Kernel) -> Lending:
        by_users, by_agents, by_guards = PatternIndex[Door](), PatternIndex[Door](), PatternIndex[Demand]()
        for lender, user in enumerate(kernel.users):
            head = user.who.condition if isinstance(user.who, k.Where) else None
            for grant in user.grants:
                add(by_users, grant, Door(lender, (head, grant.when)))
        waived = (block for block in kernel.agents if block.package in kernel.unrestricted and acts_for(block))
        for lender, grant in enumerate((grant for block in waived for grant in block.grants), len(kernel.users)):
            add(by_agents, grant, Door(lender, ()))
        for demand in demands(kernel.guards):
            for pattern in demand.place.patterns or ():
                by_guards.add(pattern, demand)
        return Lending(kernel.unrestricted, by_users, by_agents, by_guards)

    def ways(self, issuer: k.Issuer, blocks: Iterable[k.AgentBlock]) -> dict[Way, list[k.AgentBlock]]:
        """Every way in which agents of the issuer get authority, and which of `blocks` do."""
        found: dict[Way, list[k.AgentBlock]] = {}
        for way, block in islice(self._ways(issuer, blocks), MOST_WAYS):
            some = [] if way is None else found.setdefault(way, [])
            if not some or some[-1] is not block:
                some.append(block)
        return found

    def _ways(self, issuer: k.Issuer, blocks: Iterable[k.AgentBlock]) -> Iterator[tuple[Way | None, k.AgentBlock]]:
        """None for a way that is shut to the issuer, or ties users to who asks."""
        lent_by = cache(lambda door: said(door.conditions, issuer.name))
        for block, grant in ((one, grant) for one in blocks for grant in one.grants):
            own = said((*(one.condition for one in acts_for(block)), grant.when), issuer.name)
            if own is None:
                continue
            own = frozenset(claimless(own, issuer))
            for pattern in (opening.pattern for opening in grant.openings):
                asked = self._asked(pattern)
                for door in self._lenders(block, pattern):
                    lent = lent_by(door)
                    yield None if lent is None else (door.lender, own.union(lent, *asked)), block

    def _asked(self, pattern: k.Pattern) -> list[frozenset[k.Expr]]:
        """What guards ask wherever the pattern matches."""
        place = k.Place((pattern,), span=pattern.span)
        there = dict.fromkeys(self.by_guards.overlapping(pattern))
        return [demand.parts for demand in there if place_covers(demand.place, place)]

    def _lenders(self, block: k.AgentBlock, pattern: k.Pattern) -> Iterable[Door]:
        index = self.by_agents if block.package in self.unrestricted else self.by_users
        return dict.fromkeys(index.overlapping(pattern))


def add(index: PatternIndex[Door], grant: k.Grant, door: Door) -> None:
    for opening in grant.openings:
        index.add(opening.pattern, door)


def acts_for(block: k.AgentBlock) -> list[k.ActsFor]:
    return [one for one in block.requirements if isinstance(one, k.ActsFor)]


# ── What conditions say of whose users are meant ──────────────────────────────────────────────


def said(conditions: Iterable[k.Expr | None], issuer: str) -> frozenset[k.Expr] | None:
    """Of conditions that have to hold, the parts that are about users alone or about things alone. None where they
    cannot hold for this issuer, or tie users to who asks."""
    found = set[k.Expr]()
    for written in (part for one in conditions if one is not None for part in parts_of(one, True)):
        part = of_issuer(written, issuer)
        if ties(part) or (part is not written and True not in possible(part)):
            return None
        if says_whose(roots(part)):
            found.add(part)
    return frozenset(found)


def claimless(parts: Iterable[k.Expr], issuer: k.Issuer) -> Iterator[k.Expr]:
    """Without what is the issuer's own word: attributes that its `claims` give come before those of the directory."""
    claimed = {path[1] for _, path in issuer.claims if path[0] == "user"}
    for part in parts:
        inside = list(k.walk(part))
        about = [one for one in inside if of_user(one)]
        given = [one for one in inside if isinstance(one, k.Attribute) and of_user(one.base) and one.name in claimed]
        if not about or len(given) < len(about):
            yield part


def of_user(expr: k.Expr) -> bool:
    return isinstance(expr, k.Fact) and expr.path[0] == "user"


def demands(guards: Iterable[k.Guard]) -> Iterator[Demand]:
    for place, effect in ((guard.place, effect) for guard in guards for effect in guard.effects):
        if isinstance(effect, k.Deny) and effect.condition is not None:
            parts = frozenset(one for one in parts_of(effect.condition, False) if says_whose(roots(one)))
            if parts:
                yield Demand(place, parts)


def parts_of(condition: k.Expr, wanted: bool) -> Iterator[k.Expr]:
    """What has to hold, all of it, for the condition to be as `wanted`."""
    match condition:
        case k.Named():
            yield from parts_of(condition.expression, wanted)
        case k.Not():
            yield from parts_of(condition.operand, not wanted)
        case k.And() | k.Or() if isinstance(condition, k.And) == wanted:
            yield from (part for item in condition.items for part in parts_of(item, wanted))
        case _:
            yield condition if wanted else k.Not(condition, span=condition.span)


def roots(part: k.Expr) -> frozenset[str]:
    return frozenset(one.path[0] for one in k.walk(part) if isinstance(one, k.Fact))


def says_whose(reads: frozenset[str]) -> bool:
    """About users alone; or about things alone, where those of others stay shut."""
    return bool(reads) and (reads <= CONFINING or ("user" in reads and reads.isdisjoint(THINGS | WHENCE)))


def ties(condition: k.Expr) -> bool:
    """Users to who asks or from where: in one comparison, or anyhow where it reads agents or what gateways add."""
    reads = roots(condition)
    if "user" not in reads:
        return False
    return not reads.isdisjoint(SPEAKING) or any(compares(one) for one in leaves(condition))


def compares(leaf: k.Expr) -> bool:
    reads = roots(leaf)
    return "user" in reads and not reads.isdisjoint(WHENCE)


def leaves(condition: k.Expr) -> Iterator[k.Expr]:
    match condition:
        case k.Not(one) | k.Named(expression=one):
            yield from leaves(one)
        case k.And(items) | k.Or(items):
            yield from (leaf for item in items for leaf in leaves(item))
        case _:
            yield condition


def of_issuer(condition: k.Expr, issuer: str) -> k.Expr:
    """The condition for who comes from the issuer; the same one where it does not ask."""
    if not asks_for_issuer(condition):
        return condition

    def known(part: k.Expr) -> k.Expr | None:
        is_issuer = isinstance(part, k.Fact) and part.path in ISSUER
        return k.Constant(issuer, Scalar.STRING, span=part.span) if is_issuer else None

    return rewritten(rewritten(condition, known), decided)


def decided(part: k.Expr) -> k.Expr | None:
    """What reads no fact any more is true or false."""
    if not isinstance(part, k.Compare | k.Contains) or roots(part):
        return None
    truths = possible(part)
    return k.Constant(truths == {True}, Scalar.BOOL, span=part.span) if truths in ({True}, {False}) else None


def asks_for_issuer(condition: k.Expr) -> bool:
    return any(isinstance(one, k.Fact) and one.path in ISSUER for one in k.walk(condition))


# ── Guards that know of issuers, or tie users to who asks ─────────────────────────────────────


def is_wary(condition: k.Expr) -> bool:
    return asks_for_issuer(condition) or ties(condition)


def wary(guards: Iterable[k.Guard]) -> tuple[tuple[k.Place, k.Expr], ...]:
    stopping = ((guard, one) for guard in guards for one in guard.effects if not isinstance(one, k.Oblige))
    found = ((guard.place, one.condition) for guard, one in stopping)
    return tuple((place, condition) for place, condition in found if condition is not None and is_wary(condition))


class Wary:
    """The guards that do, before the doors of agents who act for users, by issuer."""

    def __init__(self, kernel: k.Kernel, speaking: Mapping[str, Iterable[k.AgentBlock]]) -> None:
        self.guards = wary(kernel.guards)
        self.doors = {issuer: doors_of(blocks) for issuer, blocks in speaking.items()}
        self._conditions = cache(self._conditions_for)

    def tell_apart(self, one: str, other: str) -> bool:
        """Whether one of them, at some door, acts otherwise for the one issuer than for the other, or ties users to who
        asks."""
        pairs = zip(self.guards, self._conditions(one), self._conditions(other), strict=True)
        return any(
            stands_at(place, self.doors[issuer])
            for (place, _), *conditions in pairs
            if not are_alike(*conditions)
            for issuer, condition in zip((one, other), conditions, strict=True)
            if condition is not None
        )

    def _conditions_for(self, issuer: str) -> list[k.Expr | None]:
        """When each acts for the issuer; None for never."""
        found = (of_issuer(condition, issuer) for _, condition in self.guards)
        return [None if possible(one) == {False} else one for one in found]


def are_alike(one: k.Expr | None, other: k.Expr | None) -> bool:
    return one == other and (one is None or not ties(one))


def doors_of(blocks: Iterable[k.AgentBlock]) -> PatternIndex[k.Pattern]:
    found = PatternIndex[k.Pattern]()
    for pattern in {opening.pattern for block in blocks for grant in block.grants for opening in grant.openings}:
        found.add(pattern, pattern)
    return found


def stands_at(place: k.Place, doors: PatternIndex[k.Pattern]) -> bool:
    near = (door for pattern in place.patterns or (None,) for door in doors.overlapping(pattern))
    return any(place_overlaps(place, door) for door in near)
