"""Other policies while it decides: checked, tested, then swapped at once; a bad one is refused, the last good kept."""

from policyengine.reload.candidate import Candidate, RefusalKind, Refused, prepared
from policyengine.reload.origin import Origin
from policyengine.reload.reloader import Reloading, Reloads
from policyengine.reload.rules import ReloadRuleError, ReloadRules

__all__ = [
    "Candidate",
    "Origin",
    "RefusalKind",
    "Refused",
    "ReloadRuleError",
    "ReloadRules",
    "Reloading",
    "Reloads",
    "prepared",
]
