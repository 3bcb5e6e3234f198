"""Conditions and their boolean parts: which of the values true, false and unknown each part can have, and which of
these values a request showed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.kernel.fingerprint import canonical_text
from policyengine.runtime.values import Unknown, Value
from policyengine.solver.cache import SatisfiabilityCache
from policyengine.solver.formulas import Truth
from policyengine.source import Span
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.kleene import conjunction, disjunction, lift, negate
from policyengine.testing.coverage.always_known import KnownFacts
from policyengine.testing.coverage.points import (
    TRUTH_NAMES,
    TRUTHS,
    Point,
    PointKind,
    UnreachablePoint,
    digest,
    quote_span,
)
from policyengine.typesystem import Scalar

SourcePlace: TypeAlias = tuple[str, int, int]

# Nodes that are true, false or unknown on their own. Only these nodes count as parts of an `==`; facts and constants do
# not.
CONDITION_NODES = (
    k.DefinitionRef | k.Not | k.And | k.Or | k.InWindow | k.Relation | k.IsPresent | k.HasRow | k.Quantifier
    | k.HistoryCondition
)  # fmt: skip


@dataclass(slots=True)
class PartOwner:
    """The owner of condition parts: a rule, by its name, or a definition, by its name and its meanings. A definition
    may have another meaning at each use, but has one set of parts.
    """

    name: str
    meanings: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        return f"{self.name} {digest(' '.join(sorted(self.meanings)))}" if self.meanings else self.name


@dataclass(slots=True)
class ConditionPart:
    """A part that can be true, false or unknown; `truths` are the values that a request can show."""

    owner: PartOwner
    path: str
    span: Span
    truths: set[Truth] = field(default_factory=set)
    points: dict[Truth, Point] = field(default_factory=dict)

    def settle(self) -> None:
        """Create the points, after every use of the part has been read."""
        name = f"{self.owner.key} {self.path}"
        self.points = {
            truth: Point(
                PointKind.CONDITIONS,
                name,
                TRUTH_NAMES[truth],
                self.span,
                f"{quote_span(self.span)} was never {TRUTH_NAMES[truth]}",
            )
            for truth in TRUTHS
            if truth in self.truths
        }

    def left_out(self) -> Iterator[UnreachablePoint]:
        for truth in TRUTHS:
            if truth not in self.truths:
                yield UnreachablePoint(
                    self.span, TRUTH_NAMES[truth], f"{quote_span(self.span)} can never be {TRUTH_NAMES[truth]}"
                )


@dataclass(frozen=True, slots=True)
class CoveredCondition:
    """An expression with its inner parts. `part` is None if the truth of the expression follows from its inner part, as
    in `not c`.
    """

    expression: k.Expr
    part: ConditionPart | None
    inside: tuple[CoveredCondition, ...]


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


class ConditionPointReader:
    """Reads all conditions of a policy. It creates the points last, because all uses of a definition share one set of
    points.
    """

    def __init__(self) -> None:
        self.answers = SatisfiabilityCache()
        self.parts: list[ConditionPart] = []
        self.definitions: dict[SourcePlace, tuple[PartOwner, dict[str, ConditionPart]]] = {}

    def read(self, expression: k.Expr, owner: str, known: KnownFacts) -> CoveredCondition:
        return self._read(expression, "0", PartOwner(owner), {}, known)

    def settle(self) -> tuple[list[Point], list[UnreachablePoint]]:
        for part in self.parts:
            part.settle()
        points = [point for part in self.parts for point in part.points.values()]
        return points, [left for part in self.parts for left in part.left_out()]

    def _read(
        self, expression: k.Expr, path: str, owner: PartOwner, parts: dict[str, ConditionPart], known: KnownFacts
    ) -> CoveredCondition:
        part = None
        if not isinstance(expression, k.Not | k.Constant) or is_absence(expression):
            if path not in parts:
                parts[path] = ConditionPart(owner, path, expression.span)
                self.parts.append(parts[path])
            part = parts[path]
            part.truths |= self._truths(expression, known)
        if isinstance(expression, k.DefinitionRef):
            return CoveredCondition(expression, part, (self._definition(expression, known),))
        within = known
        if isinstance(expression, k.Quantifier) and known.certain(expression.domain):
            within = replace(known, variables=known.variables | {expression.variable})
        inside = (
            self._read(one, f"{path}.{number}", owner, parts, within)
            for number, one in enumerate(boolean_parts(expression))
        )
        return CoveredCondition(expression, part, tuple(inside))

    def _definition(self, used: k.DefinitionRef, known: KnownFacts) -> CoveredCondition:
        span = used.expression.span
        name = used.name.rpartition(".")[2]
        owner, parts = self.definitions.setdefault(
            (span.source.name, span.start, span.end), (PartOwner(f"define {name}"), {})
        )
        owner.meanings.add(canonical_text(used.expression))
        return self._read(used.expression, "0", owner, parts, known)

    def _truths(self, expression: k.Expr, known: KnownFacts) -> frozenset[Truth]:
        """Return the truth values that the solver considers possible, without unknown if all facts are always known
        here."""
        found = self.answers.possible(expression)
        return found - {None} if None in found and known.certain(expression) else found


def boolean_parts(expression: k.Expr) -> tuple[k.Expr, ...]:
    """Return the direct inner parts that are true, false or unknown on their own."""
    match expression:
        case k.Not(operand):
            return () if is_absence(expression) else (operand,)
        case k.And(items) | k.Or(items):
            return items
        case k.Quantifier():
            return (expression.condition,)
        case k.Relation("==" | "!=", left, right) if left.type is Scalar.BOOL:
            return tuple(side for side in (left, right) if isinstance(side, CONDITION_NODES))
        case _:
            return ()


def is_absence(expression: k.Expr) -> bool:
    """Return whether a condition is `no EV within D`, which the kernel represents as the negation of `after`."""
    return (
        isinstance(expression, k.Not)
        and isinstance(expression.operand, k.HistoryCondition)
        and expression.span.text.startswith("no")
    )


# ── Observing ─────────────────────────────────────────────────────────────────────────────────


def observe_condition(condition: CoveredCondition, facts: Facts, found: set[Point]) -> Value:
    """Evaluate a condition with the specification, and add the values of its parts to `found`."""
    one = evaluate_parts(condition, facts, found)
    if condition.part is not None:
        mark_part(condition.part, one, found)
    return one


def mark_part(part: ConditionPart, one: Value, found: set[Point]) -> None:
    point = part.points.get(None if isinstance(one, Unknown) else one is True)
    if point is not None:
        found.add(point)


def mark_unknown(condition: CoveredCondition, one: Unknown, found: set[Point]) -> None:
    """Mark a condition as unknown; for `not c`, mark c, which has the points."""
    if condition.part is not None:
        mark_part(condition.part, one, found)
    elif condition.inside:
        mark_unknown(condition.inside[0], one, found)


def evaluate_parts(condition: CoveredCondition, facts: Facts, found: set[Point]) -> Value:
    inside = condition.inside
    match condition.expression:
        case k.DefinitionRef():
            return observe_condition(inside[0], facts, found)
        case k.Not() if inside:
            return negate(observe_condition(inside[0], facts, found))
        case k.And():
            return conjunction([observe_condition(one, facts, found) for one in inside])
        case k.Or():
            return disjunction([observe_condition(one, facts, found) for one in inside])
        case k.Quantifier() as quantifier:
            return evaluate_quantifier(quantifier, inside[0], facts, found)
        case expression:
            for child in inside:
                observe_condition(child, facts, found)
            return evaluate(expression, facts)


def evaluate_quantifier(quantifier: k.Quantifier, body: CoveredCondition, facts: Facts, found: set[Point]) -> Value:
    """Evaluate a quantifier: evaluate the body for each element; it is unknown for an unknown element."""

    def asked(element: Value) -> Value:
        if isinstance(element, Unknown):
            mark_unknown(body, element, found)
            return element
        return observe_condition(body, facts.bind({("", quantifier.variable): element}), found)

    fold = disjunction if quantifier.word == "any" else conjunction
    return lift(lambda items: fold([asked(one) for one in items]), evaluate(quantifier.domain, facts))
