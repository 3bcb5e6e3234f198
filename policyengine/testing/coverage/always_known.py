"""Facts that are always known where a condition stands, so that no test can show it unknown because of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.solver.satisfiability import NEVER_UNKNOWN
from policyengine.typesystem import Ref

Path: TypeAlias = tuple[str, ...]

# Functions that answer whatever they are given; the others do not know some hosts, addresses or numbers.
TOTAL = frozenset({"lower", "upper", "starts_with", "ends_with", "contains", "size", "address"})
AGENT: frozenset[Path] = frozenset({("agent",), ("agent", "id")})
USER: frozenset[Path] = frozenset({("user",), ("user", "id")})


@dataclass(frozen=True, slots=True)
class Known:
    """What a rule was reached by is known: its principal, its endpoint, and what the endpoint binds. `past` is what the
    endpoint of an earlier request bound."""

    paths: frozenset[Path] = NEVER_UNKNOWN
    past: frozenset[Path] = frozenset()
    variables: frozenset[str] = frozenset()

    def and_(self, paths: Iterable[Path]) -> Known:
        return replace(self, paths=self.paths.union(paths))

    def certain(self, expression: k.Expr) -> bool:
        """Whether the expression has a value whatever the request. False means only that it may have none."""
        match expression:
            case k.Constant():
                return True
            case k.Fact(path):
                return path in self.paths
            case k.Variable(name):
                return name in self.variables
            case k.Attribute(base, "id") | k.Present(base) | k.Default(base):
                return self.certain(base)
            case k.Quantifier(_, variable, domain, condition):
                inside = replace(self, variables=self.variables | {variable})
                return self.certain(domain) and inside.certain(condition)
            case k.Contains(deep=True) if isinstance(expression.item.type, Ref):
                return False  # the directory may not know all of the way up
            case k.Apply(function) if function not in TOTAL:
                return False
            case k.Attribute() | k.Member() | k.Below() | k.Arithmetic() | k.Negative():
                return False
            case k.Happened(event, _, since) | k.Aggregate("count", _, event, _, since):
                return self.remembered(event) and (since is None or self.remembered(since))
            case k.Aggregate():
                return False
            case k.Past(fact):
                return isinstance(fact, k.Fact) and fact.path in self.past
            case _:
                return all(self.certain(part) for part in k.parts(expression))

    def remembered(self, event: k.Event) -> bool:
        """In a test all of the past is known; whose it is, and what was said or came of it, need not be. That a name in
        a path may be too long to be remembered, nobody has to show."""
        then = replace(self, past=bound_at(event.place.patterns))
        return (event.where is None or then.certain(event.where)) and all(self.certain(key) for key in event.keys or ())


def bound_at(patterns: tuple[k.Pattern, ...] | None) -> frozenset[Path]:
    """The facts that every endpoint of a place has: its own, and the captures that all its patterns bind.

    No two patterns bind one differently: the checker refuses that (E321).
    """
    if not patterns:
        return frozenset()
    if all(isinstance(pattern, k.ToolPattern) for pattern in patterns):
        return frozenset({("tool",), ("tool", "name")})
    http = [pattern for pattern in patterns if isinstance(pattern, k.HttpPattern)]
    if len(http) < len(patterns):
        return frozenset()
    common = frozenset.intersection(*map(captures, http))
    resource = [("resource",)] * all(any(segment.entity for segment in pattern.segments) for pattern in http)
    return frozenset({("request", "method"), ("request", "path"), *(("params", name) for name in common), *resource})


def captures(pattern: k.HttpPattern) -> frozenset[str]:
    return frozenset(segment.capture for segment in pattern.segments if segment.capture is not None)
