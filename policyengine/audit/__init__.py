"""The decision log: one line for each decision, complete enough to decide it again, and for each token that was issued
or ended. Written by the engine, and by the server that issues tokens."""

from policyengine.audit.fsync import Sync
from policyengine.audit.log import DecisionLog, LogError, OnFailure
from policyengine.audit.reader import Entry, Record, read_log, read_records
from policyengine.audit.replay import Again, CannotRepeat, decided_again
from policyengine.audit.rotation import Rotation
from policyengine.audit.tokens import TokenEvent, What

__all__ = [
    "Again",
    "CannotRepeat",
    "DecisionLog",
    "Entry",
    "LogError",
    "OnFailure",
    "Record",
    "Rotation",
    "Sync",
    "TokenEvent",
    "What",
    "decided_again",
    "read_log",
    "read_records",
]
