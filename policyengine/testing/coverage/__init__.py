"""Semantic coverage: which rules, conditions, guards, requirements and endpoints the tests exercise."""

from policyengine.testing.coverage.measure import CaseKey, Coverage, CoverageCount, measure, merge_coverage
from policyengine.testing.coverage.points import Point, PointKind, UnreachablePoint

__all__ = [
    "CaseKey",
    "Coverage",
    "CoverageCount",
    "Point",
    "PointKind",
    "UnreachablePoint",
    "measure",
    "merge_coverage",
]
