"""Analyses of whole policies: differences between policies, suggested grants, and replays of decision logs."""

from policyengine.analysis.diff.answer_order import Direction
from policyengine.analysis.diff.compare import compare
from policyengine.analysis.diff.model import Diff, Difference
from policyengine.analysis.replay import replay

__all__ = ["Diff", "Difference", "Direction", "compare", "replay"]
