"""Other policies while it decides: checked, tested, then swapped at once; a bad one is refused, the last good kept."""

from policyengine.reloading.candidate import Candidate, RefusalKind, Refused, prepared
from policyengine.reloading.origin import Origin
from policyengine.reloading.rules import ReloadRuleError, ReloadRules
from policyengine.reloading.swapping import Reloading, Reloads

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
