"""Runs the `test` blocks of policies against the specification itself, and reports what came of them."""

from policyengine.testing.report import Report, Result, Status
from policyengine.testing.runner import collect, run

__all__ = ["Report", "Result", "Status", "collect", "run"]
