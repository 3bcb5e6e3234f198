"""Tests and fixtures, checked and lowered to cases: a request, the scenario in which it is made, and its expected
outcome.
"""

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
