"""Policies for AI agents that call APIs and tools; decisions that fail closed and explain themselves.

    engine = Engine.load("policies")
    decision = engine.decide({"request": {"method": "GET", "path": "/v1/invoices/42"}, "agent": {…}, …})
    decision.allowed, decision.outcome, decision.reasons

Engine.load raises PolicyError when a policy has mistakes; Engine.decide raises RequestError when a question has.
Neither is a decision, so neither lets anything pass.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from policyengine.diagnostics import Diagnostic, PolicyError
    from policyengine.directory.errors import EntitiesError
    from policyengine.engine import Engine
    from policyengine.runtime.decision import Decision, Gate, Obligation, Outcome, Principal, Reason, Remedy
    from policyengine.runtime.request import Request
    from policyengine.runtime.shape import RequestError
    from policyengine.semantics.explain import Explanation

# Where each name lives. They load when asked for, so that `policyengine --version` loads none.
_HOMES = {
    "Engine": "engine",
    "Decision": "runtime.decision",
    "Outcome": "runtime.decision",
    "Gate": "runtime.decision",
    "Reason": "runtime.decision",
    "Remedy": "runtime.decision",
    "Obligation": "runtime.decision",
    "Principal": "runtime.decision",
    "Explanation": "semantics.explain",
    "Request": "runtime.request",
    "RequestError": "runtime.shape",
    "EntitiesError": "directory.errors",
    "PolicyError": "diagnostics",
    "Diagnostic": "diagnostics",
}

__all__ = [
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
    """For `help` and completion, which look for names before they load."""
    return sorted({*globals(), *__all__})
