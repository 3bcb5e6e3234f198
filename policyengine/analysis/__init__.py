"""What can be said of whole policies: what changes for requests between two of them."""

from policyengine.analysis.answers import Direction
from policyengine.analysis.changes import Diff, Difference
from policyengine.analysis.comparing import compare
from policyengine.analysis.replaying import replay

__all__ = ["Diff", "Difference", "Direction", "compare", "replay"]
