"""Policies for AI agents that call APIs and tools, with decisions that fail closed and explain themselves.

    engine = Engine.load("policies")
    decision = engine.decide({"request": {"method": "GET", "path": "/v1/invoices/42"}, "agent": {…}, …})
    decision.allowed, decision.outcome, decision.reasons

Engine.load raises PolicyError if a policy has errors, and Engine.decide raises RequestError if a question is malformed.
An error is not a decision: treat it as a deny.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from policyengine.approvals.settings import ApprovalSettings
    from policyengine.diagnostics.model import Diagnostic, PolicyError
    from policyengine.engine import Engine
    from policyengine.entities.errors import EntitiesError
    from policyengine.explain.explanation import Explanation
    from policyengine.runtime.decision import Decision, Gate, Obligation, Outcome, Principal, Reason, Remedy
    from policyengine.runtime.request import Request
    from policyengine.runtime.structure_checks import RequestError

# The module of each public name. Names are imported on first access, so that `policyengine --version` imports none of
# these modules.
_HOMES = {
    "ApprovalSettings": "approvals.settings",
    "Engine": "engine",
    "Decision": "runtime.decision",
    "Outcome": "runtime.decision",
    "Gate": "runtime.decision",
    "Reason": "runtime.decision",
    "Remedy": "runtime.decision",
    "Obligation": "runtime.decision",
    "Principal": "runtime.decision",
    "Explanation": "explain.explanation",
    "Request": "runtime.request",
    "RequestError": "runtime.structure_checks",
    "EntitiesError": "entities.errors",
    "PolicyError": "diagnostics.model",
    "Diagnostic": "diagnostics.model",
}

__all__ = [
    "ApprovalSettings",
    "Decision",
    "Diagnostic",
    "Engine",
    "EntitiesError",
    "Explanation",
    "Gate",
    "Obligation",
    "Outcome",
    "PolicyError",
    "Principal",
    "Reason",
    "Remedy",
    "Request",
    "RequestError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return all names, for `help` and completion, before they are imported."""
    return sorted({*globals(), *__all__})
