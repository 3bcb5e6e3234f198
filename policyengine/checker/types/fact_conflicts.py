"""Fact declarations: lookup by place, and detection of conflicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import FEW, PatternIndex, place_overlaps
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import describe_type
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span
from policyengine.typesystem import RecordType, Type, UnresolvedType

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclaredFact:
    """One line of `facts`. If `place` is None, the fact exists everywhere."""

    path: Path
    type: Type
    optional: bool
    place: k.Place | None
    package: str
    span: Span

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True)
class FactPlaces:
    """All declarations of one fact."""

    facts: tuple[DeclaredFact, ...]

    def near(self, place: k.Place | None) -> tuple[DeclaredFact, ...]:
        """Return the declarations that may exist at the place, from an index if there are many."""
        if len(self.facts) <= FEW or place is None or place.patterns is None:
            return self.facts
        numbers = {number for pattern in place.patterns for number in self._index.overlapping(pattern)}
        return tuple(self.facts[number] for number in sorted(numbers.union(self._everywhere)))

    def pairs(self) -> Iterator[tuple[DeclaredFact, DeclaredFact]]:
        """Yield each pair of declarations whose places may overlap, the earlier declaration first; nothing if all types
        are equal.
        """
        if len({fact.type for fact in self.facts}) < 2:
            return
        if len(self.facts) <= FEW:
            yield from combinations(self.facts, 2)
            return
        position = {id(fact): number for number, fact in enumerate(self.facts)}
        for number, fact in enumerate(self.facts):
            yield from ((fact, other) for other in self.near(fact.place) if position[id(other)] > number)

    @cached_property
    def _index(self) -> PatternIndex[int]:
        index: PatternIndex[int] = PatternIndex()
        for number, fact in enumerate(self.facts):
            for pattern in () if fact.place is None else fact.place.patterns or ():
                index.add(pattern, number)
        return index

    @cached_property
    def _everywhere(self) -> frozenset[int]:
        found = enumerate(self.facts)
        return frozenset(number for number, fact in found if fact.place is None or fact.place.patterns is None)


def check_fact_conflicts(by_path: Mapping[Path, FactPlaces], report: Reporter) -> None:
    """Report declarations of one fact with different types at overlapping places, and members of facts that are not
    records."""
    for path, declared in by_path.items():
        for other, fact in declared.pairs():
            if other.type != fact.type and can_coexist(fact, other):
                message = f"`{fact.name}` is {describe_type(fact.type)} here and {describe_type(other.type)} elsewhere"
                report_fact_conflict(
                    message, "it must have the same type where both places overlap", fact, other, report
                )
        for length in range(2, len(path)):
            above = by_path.get(path[:length])
            for outer in () if above is None else above.facts:
                check_nesting(outer, declared.facts[0], report)


def check_nesting(outer: DeclaredFact, inner: DeclaredFact, report: Reporter) -> None:
    if not isinstance(outer.type, RecordType | UnresolvedType) and can_coexist(outer, inner):
        message = f"`{inner.name}` cannot exist: `{outer.name}` is {describe_type(outer.type)}, which has no members"
        report_fact_conflict(
            message, f"declare `{outer.name}` as a record, or remove its declaration", inner, outer, report
        )


def report_fact_conflict(message: str, hint: str, fact: DeclaredFact, other: DeclaredFact, report: Reporter) -> None:
    report.report("E217", message, fact.span, hint, [RelatedLocation("declared here", other.span)])


def can_coexist(one: DeclaredFact, other: DeclaredFact) -> bool:
    """Return whether both facts may exist in one request. Return False if a type is unresolved, because that error is
    already reported.
    """
    if isinstance(one.type, UnresolvedType) or isinstance(other.type, UnresolvedType):
        return False
    if one.place is None or other.place is None or other.place.patterns is None:
        return True
    return any(place_overlaps(one.place, pattern) for pattern in other.place.patterns)
