"""Claims about all requests (`forall`): requests are drawn that might break them, and what does is made small."""

from policyengine.testing.properties.results import PropertyResult, Verdict
from policyengine.testing.properties.run import EXAMPLES, NoHypothesis, try_properties

__all__ = ["EXAMPLES", "NoHypothesis", "PropertyResult", "Verdict", "try_properties"]
