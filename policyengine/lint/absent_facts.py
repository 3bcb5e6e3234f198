"""The values that conditions can have for requests in which some facts are certainly absent, such as those of agents
in a request without an agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.typesystem import Scalar

# Whether a fact is absent, by its path.
AbsenceTest: TypeAlias = Callable[[tuple[str, ...]], bool]
# The values that a condition can have; None means unknown.
Truths: TypeAlias = frozenset[bool | None]

EITHER: Truths = frozenset({True, False})


def possible_outcomes(node: k.Expr, absent: AbsenceTest) -> Truths:
    """Return the values that a condition can have without the absent facts. Other facts can have any value."""
    match node:
        case k.Constant(bool() as known):
            return frozenset({known})
        case k.DefinitionRef(_, inner):
            return possible_outcomes(inner, absent)
        case k.Not(operand):
            return frozenset(None if one is None else not one for one in possible_outcomes(operand, absent))
        case k.And(items):
            return fold_truths([possible_outcomes(item, absent) for item in items], settles=False)
        case k.Or(items):
            return fold_truths([possible_outcomes(item, absent) for item in items], settles=True)
        case k.IsPresent(operand):
            return frozenset({False}) if needs_absent_fact(operand, absent) else EITHER
        case _ if is_unknown(node, absent):
            return frozenset({None})
        case _:
            return EITHER | {None} if needs_absent_fact(node, absent) else EITHER


def fold_truths(items: list[Truths], *, settles: bool) -> Truths:
    """Combine truth values: an item with the value `settles` decides; otherwise one unknown item makes the whole
    unknown.
    """
    found: set[bool | None] = {settles} if any(settles in item for item in items) else set()
    open_ones = [item - {settles} for item in items]
    if all(open_ones):
        if any(None in item for item in open_ones):
            found.add(None)
        if all((not settles) in item for item in items):
            found.add(not settles)
    return frozenset(found)


def needs_absent_fact(node: k.Expr, absent: AbsenceTest) -> bool:
    """Return whether the value can be unknown without the absent facts."""
    match node:
        case k.Fact(path):
            return absent(path)
        case k.IsPresent():
            return False
        case k.Default(operand, fallback):  # `else` replaces only absent values
            return needs_absent_fact(operand, absent) and needs_absent_fact(fallback, absent)
        case k.And() | k.Or() | k.Not() | k.DefinitionRef():
            return None in possible_outcomes(node, absent)
        case _:
            return any(needs_absent_fact(child, absent) for child in k.children(node))


def is_unknown(node: k.Expr, absent: AbsenceTest) -> bool:
    """Return whether the value is certainly unknown without the absent facts; never wrongly true."""
    match node:
        case k.Fact(path):
            return absent(path)
        case k.Default(operand, fallback):
            return is_unknown(operand, absent) and is_unknown(fallback, absent)
        case k.And() | k.Or() | k.Not() | k.DefinitionRef(type=Scalar.BOOL):
            return possible_outcomes(node, absent) == {None}
        case k.DefinitionRef(_, inner):
            return is_unknown(inner, absent)
        case k.Quantifier(_, _, domain):
            return is_unknown(domain, absent)
        case k.Relation() | k.Attribute() | k.Member() | k.Call() | k.Arithmetic() | k.UnaryMinus() | k.HasRow():
            return any(is_unknown(child, absent) for child in k.children(node))
        case _:
            return False


def limit_inputs(limit: k.Limit) -> Iterator[k.Expr]:
    """Yield the expressions without which a limit cannot count a request: if one of them is unknown, the request is
    denied.
    """
    yield from limit.keys
    if isinstance(limit, k.Budget):
        yield from (one for quota in limit.quotas for one in (quota.fact, quota.bound) if one is not None)
        return
    if limit.cost is not None:
        yield limit.cost
    if isinstance(limit.pace, k.PaceByFact):
        yield limit.pace.count
