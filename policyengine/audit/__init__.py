"""The decision log: one line for each decision, with everything that a replay needs, and lines about outcomes, tokens,
the seal and the server itself. The engine and the token service write to it."""

from policyengine.audit.event_records import OutcomeRecord, SealRecord, SystemEvent, SystemRecord
from policyengine.audit.fsync import Sync
from policyengine.audit.log import DecisionLog, OnFailure
from policyengine.audit.log_file import DecisionLogError
from policyengine.audit.reader import DecisionRecord, LogEntry, read_log, read_records
from policyengine.audit.replay import ReplayError, ReplayResult, confirm_replay, replay_decision
from policyengine.audit.rotation import Rotation
from policyengine.audit.token_events import TokenEvent, TokenEventKind

__all__ = [
    "DecisionLog",
    "DecisionLogError",
    "DecisionRecord",
    "LogEntry",
    "OnFailure",
    "OutcomeRecord",
    "ReplayError",
    "ReplayResult",
    "Rotation",
    "SealRecord",
    "Sync",
    "SystemEvent",
    "SystemRecord",
    "TokenEvent",
    "TokenEventKind",
    "confirm_replay",
    "read_log",
    "read_records",
    "replay_decision",
]
