"""The decision log: one line for each decision, complete enough to decide it again. Written by the engine."""

from policyengine.audit.again import Again, CannotRepeat, decided_again
from policyengine.audit.log import DecisionLog, LogError, OnFailure
from policyengine.audit.records import Record, read_records
from policyengine.audit.rotation import Rotation
from policyengine.audit.syncing import Sync

__all__ = [
    "Again",
    "CannotRepeat",
    "DecisionLog",
    "LogError",
    "OnFailure",
    "Record",
    "Rotation",
    "Sync",
    "decided_again",
    "read_records",
]
