"""Compares a decision of the evaluator with its trace: the evaluator decides, and the specification explains."""

from __future__ import annotations

from typing import Final

from policyengine.explain.endpoint_words import endpoint_words
from policyengine.explain.explanation import headline
from policyengine.runtime.decision import Decision, Effects
from policyengine.spec.conclude import conclude
from policyengine.spec.facts import Facts
from policyengine.spec.trace import DecisionTrace

PARTS: Final = (
    "outcome", "gate", "reasons", "remedies", "obligations", "unknown", "principal", "package", "revision",
)  # fmt: skip


class EngineDisagreementError(Exception):
    """The error for a bug in policyengine: the evaluator and the specification decide differently."""


def check_agreement(facts: Facts, seen: DecisionTrace, decision: Decision, effects: Effects) -> None:
    """Compare a decision of the evaluator, before its limits are charged, with the decision that follows from its
    trace. Raises EngineDisagreementError.
    """
    specified, specified_effects = conclude(facts, seen)
    parts = [name for name in PARTS if getattr(decision, name) != getattr(specified, name)]
    if effects != specified_effects:
        parts.append("effects")
    if parts:
        raise EngineDisagreementError(
            f"{endpoint_words(facts.request.endpoint)}: the evaluator decides `{headline(decision)}`, but the "
            f"specification decides `{headline(specified)}`; they differ in {', '.join(parts)}: please report this bug"
        )
