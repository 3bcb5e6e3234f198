"""A report on learned behavior: which recorded requests the learned conditions of policies would have hit, and how well
what is learned fits the callers."""

from policyengine.analysis.behavior_report.collect import BehaviorReporter
from policyengine.analysis.behavior_report.report import BehaviorReport

__all__ = ["BehaviorReport", "BehaviorReporter"]
