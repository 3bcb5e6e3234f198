"""Claims about all requests (`forall`): requests are drawn that might break them, and what does is made small."""

from policyengine.testing.properties.results import ClaimVerdict, PropertyResult
from policyengine.testing.properties.run import DEFAULT_EXAMPLES, HypothesisMissingError, try_properties

__all__ = ["DEFAULT_EXAMPLES", "ClaimVerdict", "HypothesisMissingError", "PropertyResult", "try_properties"]
