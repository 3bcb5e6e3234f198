"""Other policies while it decides: checked, tested, then swapped at once; a bad one is refused, the last good kept."""

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
