"""Tests claims about all requests (`forall`): generates requests that may break a claim, and shrinks
counterexamples.
"""

from policyengine.testing.properties.results import ClaimVerdict, PropertyResult
from policyengine.testing.properties.run import DEFAULT_EXAMPLES, HypothesisMissingError, try_properties

__all__ = ["DEFAULT_EXAMPLES", "ClaimVerdict", "HypothesisMissingError", "PropertyResult", "try_properties"]
