"""The facts of one region: which facts are derived from others, and which differ between two policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeGuard

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.answer_order import AnswerKey
from policyengine.analysis.diff.correlated_conditions import CorrelatedConditions
from policyengine.analysis.diff.policy_view import AnswerConditions
from policyengine.analysis.diff.rule_units import Key
from policyengine.analysis.diff.specialize import RESOURCE, SPLIT
from policyengine.solver.formulas import FactPair, Subject, Truth
from policyengine.solver.value_partition import AbstractValue, SpecialValue

ON_TRUE: frozenset[Truth] = frozenset({True})
UNLESS_FALSE: frozenset[Truth] = frozenset({True, None})
DENY_KEY: AnswerKey = (("deny",),)
APPROVAL_KEY: Key = ("asked",)  # an approval is required
# If these are still facts, the caller is absent or has no valid name, because known names are constants at this point.
PRINCIPAL_PATHS = (("agent",), ("user",), ("agent", "id"), ("user", "id"))
WITHOUT_VALUE = (SpecialValue.ABSENT, SpecialValue.BROKEN)
STRICT_NODES = (
    k.InWindow, k.Relation, k.Arithmetic,
    k.UnaryMinus, k.Call, k.HasRow, FactPair,
)  # fmt: skip
NO_HOPS = Fraction(0)


@dataclass(frozen=True, slots=True)
class DerivedFact:
    """A fact whose state is derived from the states of other facts."""

    sources: tuple[int, ...]
    of: Callable[..., AbstractValue]


def state_at_place(states: Sequence[AbstractValue]) -> Callable[..., AbstractValue]:
    return lambda place: states[int(place)]


def depth_by_issuer(recorded: Sequence[str]) -> Callable[..., AbstractValue]:
    """Return a function from the issuer to the depth of a chain without delegation, which is known only if the issuer
    records chains.
    """
    return lambda issuer: NO_HOPS if issuer in recorded else SpecialValue.BROKEN


def required_operands(subject: Subject) -> tuple[k.Expr, ...]:
    """Return the operands without which a subject has no value."""
    match subject:
        case FactPair(left, right):
            return left, right
        case k.Attribute(base, name) if name != "id" and not may_be_claimed(base):
            return base, k.HasRow(base, span=base.span)
        case k.Attribute(base) | k.Member(base):
            return (base,)
        case _ if isinstance(subject, STRICT_NODES):
            return tuple(k.children(subject))
        case _:
            return ()


def may_be_claimed(holder: k.Expr) -> bool:
    """Return whether a credential may supply the attribute if no row does, as for an agent or a user."""
    type_ = holder.type
    return not isinstance(type_, typesystem.RefType) or not type_.entities.isdisjoint(("agent", "user"))


def differing_keys(one: AnswerConditions, other: AnswerConditions) -> Iterator[Key]:
    """Yield the keys of confirms and obligations whose conditions differ."""
    for key, conditions in one.confirms.items():
        if Counter(conditions) != Counter(other.confirms.get(key, ())):
            yield key
    for key, conditions in one.duties.items():
        if set(conditions) != set(other.duties.get(key, ())):
            yield key


def confirm_conditions(said: AnswerConditions) -> tuple[k.Expr, ...]:
    return tuple(one for several in said.confirms.values() for one in several)


def has_path_prefix(subject: Subject, *path: str) -> bool:
    return isinstance(subject, k.Fact) and subject.path[: len(path)] == path


def is_segment_resource(subject: Subject) -> bool:
    return isinstance(subject, k.Fact) and subject.path[0] == RESOURCE and len(subject.path) > 2


def may_be_split(subject: Subject) -> TypeGuard[k.Fact]:
    """Return whether a capture, or the resource that it names, may be invalid."""
    return isinstance(subject, k.Fact) and subject.path[-1] == SPLIT


def values_on_path(
    families: Iterable[CorrelatedConditions], path: Mapping[int, int]
) -> Iterator[tuple[k.Expr, object]]:
    """Yield the known values of operands for which the conditions are as on the path."""
    for family in families:
        place = path.get(family.members[0])
        if place is not None and family.values[place] is not None:
            yield family.operand, family.values[place]
