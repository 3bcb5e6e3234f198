"""Runs the `test` blocks of policies and reports the results."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyengine.testing.pytest.fixture import Policy
    from policyengine.testing.report import CaseResult, ResultStatus, RunReport
    from policyengine.testing.runner import run
    from policyengine.testing.selection import Selection, collect

# The module of each public name. Names load when first used, because every pytest run imports this package.
_HOMES = {
    "Policy": "pytest.fixture",
    "RunReport": "report",
    "CaseResult": "report",
    "Selection": "selection",
    "ResultStatus": "report",
    "collect": "selection",
    "run": "runner",
}

__all__ = ["CaseResult", "Policy", "ResultStatus", "RunReport", "Selection", "collect", "run"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
