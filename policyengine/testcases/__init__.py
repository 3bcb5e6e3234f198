"""Tests and fixtures, checked and lowered to cases: what to ask, in which world, and what must come of it."""

from policyengine.testcases.lower import lower
from policyengine.testcases.scenario import (
    Case,
    DetailMatchMode,
    ExpectedDetail,
    ExpectedOutcome,
    GivenApproval,
    LoweredTests,
    Property,
    Repetition,
    ReportedResponse,
    Scenario,
)

__all__ = [
    "Case",
    "DetailMatchMode",
    "ExpectedDetail",
    "ExpectedOutcome",
    "GivenApproval",
    "LoweredTests",
    "Property",
    "Repetition",
    "ReportedResponse",
    "Scenario",
    "lower",
]  # fmt: skip
