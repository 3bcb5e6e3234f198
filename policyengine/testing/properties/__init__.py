"""Test claims about all requests (`forall`): generate requests that may break a claim, and shrink counterexamples."""

from policyengine.testing.properties.results import ClaimVerdict, PropertyResult
from policyengine.testing.properties.run import DEFAULT_EXAMPLES, HypothesisMissingError, try_properties

__all__ = ["DEFAULT_EXAMPLES", "ClaimVerdict", "HypothesisMissingError", "PropertyResult", "try_properties"]
