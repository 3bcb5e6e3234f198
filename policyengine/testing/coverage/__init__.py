"""Coverage that means something: which rules, conditions, guards, requirements and endpoints the tests show."""

from policyengine.testing.coverage.measure import CaseKey, Count, Coverage, measure, total
from policyengine.testing.coverage.points import Kind, LeftOut, Point

__all__ = ["CaseKey", "Count", "Coverage", "Kind", "LeftOut", "Point", "measure", "total"]
