"""Conditions to facts that make them true or false, as far as that can be seen without search. The rest is luck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from itertools import islice
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.runtime import windows
from policyengine.runtime.format_values import format_value
from policyengine.testing.properties.draft_request import DraftRequest, typed_value
from policyengine.testing.properties.random_source import RandomSource
from policyengine.testing.properties.value_pools import (
    OUTSIDE_ADDRESS,
    SECOND,
    Leaf,
    ValuePools,
    adjacent_values,
    underlying_fact,
)
from policyengine.typesystem import EntityRef, EnumType

Variables: TypeAlias = Mapping[str, object]
MAX_SAMPLES = 20  # of texts that are tried for a relation
HALF_AN_HOUR = timedelta(minutes=30)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
# No calendar ends within a week of these.
MIN_DRAWN_TIME, MAX_DRAWN_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ConditionSolver:
    """Changes a sketch until a condition holds, or does not; what the property gives is out of reach.

    `gently`: what is seen to be so already stays as it is.
    """

    sketch: DraftRequest
    pools: ValuePools
    choose: RandomSource
    variables: Variables = field(default_factory=dict)
    gently: bool = False

    def at(self, node: k.Expr | None, wanted: bool) -> None:
        if self.gently and node is not None and self.holds(node) is wanted:
            return
        match node:
            case None | k.Constant():
                return
            case k.DefinitionRef(_, inner):
                self.at(inner, wanted)
            case k.Not(inner):
                self.at(inner, not wanted)
            case k.And(items) | k.Or(items):
                for item in items if wanted == isinstance(node, k.And) else (self.choose.of(items),):
                    self.at(item, wanted)
            case k.Fact() | k.Attribute() | k.Member() | k.Default():
                self.sketch.assign(node, wanted, self.variables)
            case k.IsPresent(operand) if not isinstance(operand, k.PastFact):
                self.present(operand, wanted)
            case k.Quantifier():
                self.each(node, wanted)
            case _:
                self.relation(node, wanted)

    def relation(self, node: k.Expr, wanted: bool) -> None:
        match node:
            case k.Relation():
                self.related(node, wanted)
            case k.HasRow(entity):
                self.row(self.settled(entity), wanted)
            case k.InWindow(instant, window):
                week = self.choose.of(candidate_mondays(self.known(instant)))
                self.put_one(instant, list(window_times(window, week)[0 if wanted else 1]))
            case k.Call(_, (first, second)):
                other = self.known(second)
                self.sketch.assign(first, other if wanted else "x", self.variables)
            case _:
                return

    # ── Operands ──────────────────────────────────────────────────────────────────────────────

    def known(self, node: k.Expr) -> object:
        return self.sketch.known(node, self.variables)

    def put(self, node: k.Expr, value: object) -> bool:
        return self.sketch.assign(node, value, self.variables)

    def put_one(self, node: k.Expr, values: list[object]) -> bool:
        return bool(values) and self.put(node, self.choose.of(values))

    def any_value(self, leaf: Leaf) -> object:
        return self.choose.of(self.pools.values(leaf))

    def settled(self, node: k.Expr) -> object:
        """The value of an operand, given one first where it has none."""
        found, leaf = self.known(node), underlying_fact(node)
        if found is None and leaf is not None:
            base = leaf.base if isinstance(leaf, k.Attribute | k.Member) else None
            if base is not None and self.known(base) is None:
                self.settled(base)
            self.put(leaf, self.any_value(leaf))
            found = self.known(node)
        return found

    # ── Relations ─────────────────────────────────────────────────────────────────────────────

    def compare(self, row: k.RelationRow, left: k.Expr, right: k.Expr, wanted: bool) -> None:
        """Changes one side to fit the other: mostly the left one, where both can be changed."""
        sides = [(left, right, False), (right, left, True)]
        if self.choose.chance(4):
            sides.reverse()
        for side, other, mirrored in sides:
            leaf, value = underlying_fact(side), self.settled(other)
            if leaf is None or value is None:
                continue
            self.settled(leaf)
            pairs = [(value, one) if mirrored else (one, value) for one in self.candidates(leaf, value)]
            fitting = [pair[mirrored] for pair in pairs if relation_holds(row, *pair, leaf) == wanted]
            if fitting and self.put(side, self.choose.of(fitting)):
                return

    def candidates(self, leaf: Leaf, value: object) -> list[object]:
        """What the side may become: what lies beside the other side first, then all that is known of its type."""
        every = [
            one
            for one in (value, *adjacent_values(value), *self.pools.values(leaf))
            if typed_value(one, leaf.type) is not None
        ]
        return list({format_value(one): one for one in reversed(every)}.values())[::-1]

    def contains(self, collection: k.Expr, item: k.Expr, wanted: bool) -> None:
        one, leaf = self.settled(item), underlying_fact(collection)
        if leaf is not None:
            held = self.known(collection)
            others = tuple(x for x in held if x != one) if isinstance(held, tuple) else ()
            if one is not None and self.put(collection, (*others, one) if wanted else others):
                return
        held, leaf = self.settled(collection), underlying_fact(item)
        if leaf is None or not isinstance(held, tuple):
            return
        others = tuple(value for value in self.pools.values(leaf) if value not in held)
        self.put_one(item, list(held if wanted else others))

    def below(self, item: k.Expr, ancestor: k.Expr, wanted: bool, strict: bool) -> None:
        lower, upper = self.settled(item), self.settled(ancestor)
        if not isinstance(lower, EntityRef) or not isinstance(upper, EntityRef):
            return
        declared = self.sketch.kernel.entities.get(lower.type)
        for ref in (lower, upper):  # who has no row may be in anything
            if ref.type in self.sketch.kernel.entities:
                self.sketch.row(ref)
        if not wanted and lower == upper and not strict:
            self.put_one(item, [EntityRef(lower.type, id_) for id_ in ("1", "2") if id_ != lower.id])
        elif lower not in self.sketch.world.rows and declared is not None:
            row = self.sketch.row(lower)
            row.parents = [parent for parent in row.parents if parent != upper]
            row.parents += [upper] if wanted and upper.type in declared.parents else []

    def row(self, ref: object, wanted: bool) -> None:
        """Makes the directory know an entity, or not: what the property's world says of it stays."""
        if not isinstance(ref, EntityRef) or ref.type not in self.sketch.kernel.entities:
            return
        if wanted:
            self.sketch.row(ref)
        else:
            self.sketch.forget(ref)

    def related(self, node: k.Relation, wanted: bool) -> None:
        left, right = node.left, node.right
        match node.row.operands:
            case k.Operands.VALUES:
                self.compare(node.row, left, right, wanted)
            case k.Operands.ELEMENT:
                self.contains(left, right, wanted)
            case k.Operands.ENTITIES:
                self.below(left, right, wanted, node.operator != "in")
            case k.Operands.NETWORKS:
                self.put_one(left, list(sample_addresses(self.known(right), wanted)))
            case k.Operands.PATTERN | k.Operands.STRINGS:
                self.text(node.row, left, right, wanted)
            case k.Operands.COLLECTIONS:
                self.sets(node.row, left, right, wanted)
            case _:
                assert_never(node.row.operands)

    def text(self, row: k.RelationRow, left: k.Expr, right: k.Expr, wanted: bool) -> None:
        text, leaf = self.settled(right), underlying_fact(left)
        if isinstance(text, str):
            pool = self.pools.values(leaf) if leaf is not None else ()
            every = (*islice(row.samples(text), MAX_SAMPLES), *pool)
            self.put_one(left, [one for one in every if isinstance(one, str) and row.holds(one, text) == wanted])

    def sets(self, row: k.RelationRow, left: k.Expr, right: k.Expr, wanted: bool) -> None:
        """Changes the side that can be changed to what stands in the relation to the other, or does not."""
        held, leaf, side = self.settled(right), underlying_fact(left), left
        if leaf is None:
            held, leaf, side = self.settled(left), underlying_fact(right), right
        if leaf is None or not isinstance(held, tuple):
            return
        items = [one for value in self.pools.values(leaf) if isinstance(value, tuple) for one in value]
        strange = tuple(one for one in items if one not in held)[:1]
        for choice in (held[:1], held, strange, ()):
            if row.holds(*((choice, held) if side is left else (held, choice))) == wanted:
                self.put(side, choice)
                return

    def present(self, operand: Leaf, wanted: bool) -> None:
        if wanted:
            self.settled(operand)
        else:
            make_absent(operand, self)

    def each(self, node: k.Quantifier, wanted: bool) -> None:
        if self.settled(node.domain) == () and wanted == (node.word == "any"):
            leaf = underlying_fact(node.domain)
            filled = [one for one in self.pools.values(leaf) if one] if leaf is not None else []
            self.put_one(node.domain, filled)
        found = self.known(node.domain)
        items = found if isinstance(found, tuple) else ()
        every = wanted == (node.word == "all")
        for item in items if every else items[:1]:
            replace(self, variables={**self.variables, node.variable: item}).at(node.condition, wanted)

    # ── What is so already ────────────────────────────────────────────────────────────────────

    def holds(self, node: k.Expr) -> bool | None:
        """Whether a condition is true or false, None where that is too involved to be seen here."""
        match node:
            case k.DefinitionRef(_, inner):
                return self.holds(inner)
            case k.Not(inner):
                inside = self.holds(inner)
                return None if inside is None else not inside
            case k.And(items) | k.Or(items):
                every, settling = [self.holds(item) for item in items], isinstance(node, k.Or)
                return settling if settling in every else None if None in every else not settling
            case k.Relation(_, left, right) if node.row.operands is k.Operands.VALUES:
                one, other, leaf = self.known(left), self.known(right), underlying_fact(left) or underlying_fact(right)
                return (
                    None if one is None or other is None or leaf is None else relation_holds(node.row, one, other, leaf)
                )
            case k.Relation("has" | "holds", collection, item):
                held, one = self.known(collection), self.known(item)
                return one in held if isinstance(held, tuple) and one is not None else None
            case k.HasRow(entity):
                ref = self.known(entity)
                return self.sketch.knows(ref) if isinstance(ref, EntityRef) else None
            case k.IsPresent(operand):
                return True if self.known(operand) is not None else None
            case k.Fact() | k.Attribute() | k.Member():
                found = self.known(node)
                return found if isinstance(found, bool) else None
            case _:
                return None


def relation_holds(row: k.RelationRow, one: object, other: object, leaf: Leaf) -> bool:
    """For values; what cannot be compared does not stand in the relation."""
    if row.operator not in ("==", "!=") and isinstance(leaf.type, EnumType):
        ranks = leaf.type.values
        return one in ranks and other in ranks and row.holds(ranks.index(str(one)), ranks.index(str(other)))
    try:
        return row.holds(one, other)
    except TypeError:
        return False


def make_absent(leaf: Leaf, aim: ConditionSolver) -> bool:
    """Makes a fact absent."""
    sketch = aim.sketch
    match leaf:
        case k.Fact(path):
            bound = sketch.bound(path)
            if bound is not None:
                return isinstance(bound, k.Fact) and sketch.remove(bound.path)
            return sketch.remove((*path, "id") if path in (("user",), ("agent",)) else path)
        case k.Attribute(base, name):
            holder = aim.known(base)
            if not isinstance(holder, EntityRef) or sketch.is_given_row(holder, name):
                return False
            if holder not in sketch.rows:  # nobody knows whether it is there, before there is a row that lacks it
                aim.row(holder, True)
                return holder in sketch.rows
            return sketch.rows[holder].attributes.pop(name, None) is not None
        case _:
            return False


def sample_addresses(networks: object, inside: bool) -> Iterator[object]:
    """Addresses within networks, or the nearest ones that are not."""
    every = networks if isinstance(networks, tuple) else (networks,)
    known = [one for one in every if isinstance(one, IPv4Network | IPv6Network)]
    if inside:
        yield from (address for one in known for address in (one.network_address, one.broadcast_address))
        yield from (one for one in every if one is not None and one not in known)
        return
    yield OUTSIDE_ADDRESS
    last = [one.broadcast_address + 1 for one in known if int(one.broadcast_address) + 1 < 1 << one.max_prefixlen]
    yield from (
        address for address in last if not any(address in one for one in known if one.version == address.version)
    )


def candidate_mondays(moment: object) -> tuple[datetime, ...]:
    """Mondays: of the week of a time that is known, which something else may ask for; and of a week in winter and one
    in summer of years to come."""
    known = (monday_of(moment),) if isinstance(moment, datetime) and MIN_DRAWN_TIME <= moment < MAX_DRAWN_TIME else ()
    return (*known, MONDAY, *(MONDAY + timedelta(weeks=weeks) for weeks in (26, 160)))


def monday_of(moment: datetime) -> datetime:
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


@lru_cache(maxsize=256)
def window_times(window: windows.Window, monday: datetime) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Times of one week inside a window and outside of it, those at its edges first."""
    if isinstance(window, windows.Absolute):
        start, end = (moment.astimezone(UTC) for moment in (window.start, window.end))
        return (start, end - SECOND), (end, start - SECOND)
    every = [monday + HALF_AN_HOUR * index for index in range(8 * 48)]
    holds = [windows.contains(window, moment) for moment in every]
    edges = [index for index in range(1, len(every)) if holds[index] != holds[index - 1]]
    near = [moment for index in edges[:6] for moment in (every[index], every[index] - SECOND)]
    near += [next((m for m, h in zip(every, holds, strict=True) if h is wanted), monday) for wanted in (True, False)]
    found = [(moment, windows.contains(window, moment)) for moment in near]
    return tuple(m for m, h in found if h), tuple(m for m, h in found if not h)
