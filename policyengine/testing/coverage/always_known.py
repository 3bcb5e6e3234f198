"""Finds facts that are always known at a condition, so that no test can make the condition unknown through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.solver.satisfiability import NEVER_UNKNOWN
from policyengine.typesystem import RefType
from policyengine.vocabulary import FUNCTIONS

FactPath: TypeAlias = tuple[str, ...]

TOTAL_FUNCTIONS = frozenset(function.name for function in FUNCTIONS if function.total)
AGENT_PATHS: frozenset[FactPath] = frozenset({("agent",), ("agent", "id")})
USER_PATHS: frozenset[FactPath] = frozenset({("user",), ("user", "id")})


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """The facts that are known at a rule: its principal, its endpoint, and the facts that the endpoint binds. `past`
    are the facts that the endpoint of an earlier request bound.
    """

    paths: frozenset[FactPath] = NEVER_UNKNOWN
    past: frozenset[FactPath] = frozenset()
    variables: frozenset[str] = frozenset()

    def and_(self, paths: Iterable[FactPath]) -> KnownFacts:
        return replace(self, paths=self.paths.union(paths))

    def certain(self, expression: k.Expr) -> bool:
        """Return whether the expression has a value for every request. False means only that it may have none."""
        match expression:
            case k.Constant():
                return True
            case k.Fact(path):
                return path in self.paths
            case k.Variable(name):
                return name in self.variables
            case k.IsPresent(k.PastFact(k.Fact(("past", "status" | "output", *_)))):
                return True  # an outcome that is not reported is absent
            case k.Default(k.PastFact(k.Fact(("past", "status"))), fallback):
                return self.certain(fallback)
            case k.Attribute(base, "id") | k.IsPresent(base) | k.Default(base):
                return self.certain(base)
            case k.Quantifier(_, variable, domain, condition):
                inside = replace(self, variables=self.variables | {variable})
                return self.certain(domain) and inside.certain(condition)
            case k.Relation("holds", _, item) if isinstance(item.type, RefType):
                return False  # the entity store may lack ancestors
            case k.Relation() if expression.row.operands is k.Operands.ENTITIES:
                return False
            case k.Call(function) if function not in TOTAL_FUNCTIONS:
                return False
            case k.Attribute() | k.Member() | k.Arithmetic() | k.UnaryMinus():
                return False
            case k.HistoryCondition(event, _, since) | k.Aggregate("count", _, event, _, since):
                return self.remembered(event) and (since is None or self.remembered(since))
            case k.Aggregate("distinct", k.Default() as field, event, _, since):
                then = replace(self, past=facts_bound_at(event.place.patterns))
                return then.certain(field) and all(self.remembered(one) for one in (event, since) if one is not None)
            case k.Aggregate():
                return False
            case k.PastFact(fact):
                return isinstance(fact, k.Fact) and fact.path in self.past
            case _:
                return all(self.certain(part) for part in k.children(expression))

    def remembered(self, event: k.EventPattern) -> bool:
        """Return whether it is always known whether an event matches the pattern. In a test all events are known, but
        their owners, facts and outcomes may be unknown. Path captures that are too long to be recorded need no test.
        """
        then = replace(self, past=facts_bound_at(event.place.patterns))
        return (event.where is None or then.certain(event.where)) and all(self.certain(key) for key in event.keys or ())


def facts_bound_at(patterns: tuple[k.Pattern, ...] | None) -> frozenset[FactPath]:
    """Return the facts that every endpoint of a place has: the facts of its kind, and the captures that all its
    patterns bind. The checker rejects patterns that bind a capture differently (E321).
    """
    if not patterns:
        return frozenset()
    if all(isinstance(pattern, k.ToolPattern) for pattern in patterns):
        return frozenset({("tool",), ("tool", "name")})
    http = [pattern for pattern in patterns if isinstance(pattern, k.HttpPattern)]
    if len(http) < len(patterns):
        return frozenset()
    common = frozenset.intersection(*map(capture_names, http))
    resource = [("resource",)] * all(any(segment.entity for segment in pattern.segments) for pattern in http)
    return frozenset({("request", "method"), ("request", "path"), *(("params", name) for name in common), *resource})


def capture_names(pattern: k.HttpPattern) -> frozenset[str]:
    return frozenset(segment.capture for segment in pattern.segments if segment.capture is not None)
