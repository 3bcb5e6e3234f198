"""Measures coverage, counted by meaning, so that the layout of a policy does not change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.diagnostics.model import location_data
from policyengine.runtime.request import RequestError
from policyengine.source import Source, Span
from policyengine.testcases import Case
from policyengine.testing.coverage.points import Point, PointKind, UnreachablePoint, sort_points
from policyengine.testing.coverage.policy_points import find_points
from policyengine.testing.coverage.recorder import CoverageRecorder
from policyengine.testing.decide_case import CaseSetupError
from policyengine.testing.runner import CaseRunner

CaseKey: TypeAlias = tuple[str, str, int]  # package, test, number of the request


@dataclass(frozen=True, slots=True)
class CoverageCount:
    seen: int
    total: int

    @property
    def fraction(self) -> float:
        """The covered fraction; 1 if there is nothing to cover."""
        return self.seen / self.total if self.total else 1.0

    @property
    def percent(self) -> str:
        """The covered percentage, rounded down: `100 %` means all."""
        tenths = self.seen * 1000 // self.total if self.total else 1000
        return "100 %" if tenths == 1000 else f"{tenths / 10:.1f} %"


@dataclass(frozen=True)
class Coverage:
    """The coverage of a policy. `points` are all points, in source order; `by_case` are the points that each case
    showed. `left_out` are points that no test can show, with the reason; they do not count.
    """

    points: tuple[Point, ...]
    by_case: Mapping[CaseKey, frozenset[Point]]
    left_out: tuple[UnreachablePoint, ...] = field(default=(), repr=False)

    @cached_property
    def groups(self) -> Counter[frozenset[Point]]:
        """The distinct sets of points that cases showed, with the number of cases."""
        return Counter(self.by_case.values())

    @cached_property
    def hits(self) -> dict[Point, int]:
        """The number of cases that showed each point; points that no case showed are omitted."""
        found: dict[Point, int] = {}
        for shown, times in self.groups.items():
            for point in shown:
                found[point] = found.get(point, 0) + times
        return found

    @cached_property
    def missing(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point not in self.hits)

    @property
    def count(self) -> CoverageCount:
        return CoverageCount(len(self.points) - len(self.missing), len(self.points))

    @property
    def fraction(self) -> float:
        return self.count.fraction

    @cached_property
    def kinds(self) -> dict[PointKind, CoverageCount]:
        return {kind: self.counted(point for point in self.points if point.kind is kind) for kind in PointKind}

    @cached_property
    def files(self) -> dict[Source, tuple[Point, ...]]:
        """The points of each file, in source order."""
        found: dict[Source, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.span.source, []).append(point)
        return {source: tuple(points) for source, points in found.items()}

    def counted(self, points: Iterable[Point]) -> CoverageCount:
        points = list(points)
        return CoverageCount(sum(1 for point in points if point in self.hits), len(points))

    def cases_of(self, span: Span) -> frozenset[CaseKey]:
        """Return the cases that showed a point that overlaps the span."""
        there = {point for point in self.points if spans_overlap(point.span, span)}
        return frozenset(case for case, shown in self.by_case.items() if not there.isdisjoint(shown))

    def together(self, other: Coverage) -> Coverage:
        """Return the union with the coverage of the same policy by other cases."""
        return Coverage(self.points, {**self.by_case, **other.by_case}, self.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible data; lines and columns are counted from 1, and each end is the position after the
        last character.
        """
        return {
            **count_data(self.count),
            "kinds": {str(kind): count_data(count) for kind, count in self.kinds.items()},
            "files": {source.name: count_data(self.counted(points)) for source, points in self.files.items()},
            "missing": [
                {"kind": str(one.kind), "seen": one.seen, "words": one.words, **location_data(one.span)}
                for one in self.missing
            ],
        }


def count_data(count: CoverageCount) -> dict[str, Any]:
    return {"fraction": count.fraction, "seen": count.seen, "total": count.total}


def spans_overlap(point: Span, span: Span) -> bool:
    return point.source == span.source and point.start < span.end and span.start < point.end


def measure(cases: Iterable[Case], kernel: k.Kernel) -> Coverage:
    """Decide the cases in order and record the points that their traces show. A trace evaluates every rule, the
    evaluator only those that matter. Cases that are skipped or fail to set up show nothing. Raises
    EngineDisagreementError.
    """
    sights = find_points(kernel)
    watcher, runner = CoverageRecorder(sights), CaseRunner.of(kernel)
    known: dict[frozenset[Point], frozenset[Point]] = {}  # most cases show the same points as another case
    by_case: dict[CaseKey, frozenset[Point]] = {}
    for case in cases:
        shown = points_shown(case, runner, watcher)
        by_case[case.package, case.test, case.number] = known.setdefault(shown, shown)
    return Coverage(sights.points, by_case, sights.left_out)


def points_shown(case: Case, runner: CaseRunner, watcher: CoverageRecorder) -> frozenset[Point]:
    if case.skip is not None:
        return frozenset()
    try:
        if case.repeated is None:
            return watcher.shown(runner.traced(case))
        return frozenset().union(*(watcher.shown(runner.traced(one)) for one in case.requests))
    except (CaseSetupError, RequestError):
        return frozenset()


def merge_coverage(coverages: Iterable[Coverage]) -> Coverage:
    """Merge the coverage of policies that were checked separately. Shared sources are counted once; points of different
    files stay separate.
    """
    every = list(coverages)
    points: list[Point] = []
    by_case: dict[CaseKey, frozenset[Point]] = {}
    for coverage in every:
        named = {point: replace(point, part=f"{point.span.source.name} {point.part}") for point in coverage.points}
        points += named.values()
        for case, shown in coverage.by_case.items():
            by_case[case] = by_case.get(case, frozenset()).union(named[point] for point in shown)
    return Coverage(sort_points(points), by_case, tuple(left for one in every for left in one.left_out))
