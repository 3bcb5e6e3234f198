"""Applies the answer of the store to a decision."""

from __future__ import annotations

from policyengine.runtime.apply_limits import apply_limits, deny_unanswered
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.limits import ChargeResult


def apply_charges(decision: Decision, effects: Effects, result: ChargeResult) -> Decision:
    """Return the decision with the store's counts of its limits; if the store failed, the decision that the policies
    define for that case.
    """
    if result.failed is None:
        return apply_limits(decision, effects.limits, result.standings)
    remembered = bool(effects.records or effects.relied)
    approved = bool(effects.spends)
    return deny_unanswered(decision, effects.limits, approved=approved, remembered=remembered, why=result.reason)
