"""Reloads while the engine decides: new policies are checked, tested and put into use in one step, or refused."""

from policyengine.reload.candidate import Candidate, RefusalKind, ReloadRefusedError, prepare_candidate
from policyengine.reload.reloadable_engine import ReloadableEngine, ReloadStatus
from policyengine.reload.rules import ReloadRuleError, ReloadRules
from policyengine.reload.source import ReloadSource

__all__ = [
    "Candidate",
    "RefusalKind",
    "ReloadRefusedError",
    "ReloadRuleError",
    "ReloadRules",
    "ReloadSource",
    "ReloadStatus",
    "ReloadableEngine",
    "prepare_candidate",
]
