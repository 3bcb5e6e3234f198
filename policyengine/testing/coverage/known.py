"""Facts that are always known where a condition stands, so that no test can show it unknown because of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from policyengine.kinds import Ref
from policyengine.semantics import kernel as k
from policyengine.semantics.formulas import type_of
from policyengine.semantics.possibilities import NEVER_UNKNOWN

Path: TypeAlias = tuple[str, ...]

# Functions that answer whatever they are given; the others do not know some hosts, addresses or numbers.
TOTAL = frozenset({"lower", "upper", "starts_with", "ends_with", "contains", "size"})
AGENT: frozenset[Path] = frozenset({("agent",), ("agent", "id")})
USER: frozenset[Path] = frozenset({("user",), ("user", "id")})


@dataclass(frozen=True, slots=True)
class Known:
    """What a rule was reached by is known: its principal, its endpoint, and what the endpoint binds."""

    paths: frozenset[Path] = NEVER_UNKNOWN
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
            case k.Contains(deep=True) if isinstance(type_of(expression.item), Ref):
                return False  # the directory may not know all of the way up
            case k.Apply(function) if function not in TOTAL:
                return False
            case k.Attribute() | k.Member() | k.Below() | k.Arithmetic() | k.Negative():
                return False
            case _:
                return all(self.certain(part) for part in k.parts(expression))


def bound_at(patterns: tuple[k.Pattern, ...] | None, binders: Iterable[k.Binder]) -> frozenset[Path]:
    """The facts that every endpoint of a place has: its own, and the captures that all its patterns bind alike."""
    if not patterns:
        return frozenset()
    if all(isinstance(pattern, k.ToolPattern) for pattern in patterns):
        return frozenset({("tool",), ("tool", "name")})
    http = [pattern for pattern in patterns if isinstance(pattern, k.HttpPattern)]
    if len(http) < len(patterns):
        return frozenset()
    common = frozenset.intersection(*(frozenset(captures(pattern).items()) for pattern in http))
    elsewhere = [captures(one.pattern) for one in binders if isinstance(one.pattern, k.HttpPattern)]
    alike = {(name, where) for name, where in common if all(found.get(name, where) == where for found in elsewhere)}
    return frozenset({("request", "method"), ("request", "path"), *(("params", name) for name, _ in alike)})


def captures(pattern: k.HttpPattern) -> Captures:
    """Which segment each name captures."""
    return Captures((one.capture, where) for where, one in enumerate(pattern.segments) if one.capture is not None)


Captures: TypeAlias = dict[str, int]
