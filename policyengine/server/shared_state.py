"""The state that the workers of a server share."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.server.connections.limits import ConnectionBounds, ConnectionLimits
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.server.workers.board import WorkerBoard


@dataclass(frozen=True, slots=True)
class SharedState:
    """The bounds of connections, and the state that workers share."""

    limits: ConnectionLimits
    bounds: ConnectionBounds
    board: WorkerBoard
    tally: ServerCounters
