"""Tests and fixtures, checked and lowered to cases: what to ask, in which world, and what must come of it."""

from policyengine.testcases.lower import lower
from policyengine.testcases.scenario import (
    Case,
    Compare,
    Detail,
    Examples,
    Expected,
    GivenApproval,
    Property,
    Repeated,
    Responded,
    World,
)

__all__ = [
    "Case", "Compare", "Detail", "Examples", "Expected", "GivenApproval", "Property", "Repeated", "Responded", "World",
    "lower",
]  # fmt: skip
