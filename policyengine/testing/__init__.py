"""Runs the `test` blocks of policies, and reports what came of them."""

from policyengine.testing.report import Report, Result, Status
from policyengine.testing.runner import run
from policyengine.testing.selecting import Selection, collect

__all__ = ["Report", "Result", "Selection", "Status", "collect", "run"]
