"""Traffic played against a policy under a virtual clock: what its rates and budgets make of it, counted and drawn."""

from policyengine.simulation.callers import Callers, NobodyElse
from policyengine.simulation.result import Played
from policyengine.simulation.run import VirtualClock, play
from policyengine.simulation.series import Series, TooLong
from policyengine.simulation.traffic import Event, Trace, TrafficError
from policyengine.simulation.workflows import WORKFLOWS, Plan, expected, traffic_of

__all__ = [
    "WORKFLOWS",
    "Callers",
    "Event",
    "NobodyElse",
    "Plan",
    "Played",
    "Series",
    "TooLong",
    "Trace",
    "TrafficError",
    "VirtualClock",
    "expected",
    "play",
    "traffic_of",
]
