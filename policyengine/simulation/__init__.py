"""Simulates traffic against a policy under a virtual clock: counts and draws the effect of its rates and budgets."""

from policyengine.simulation.generated_traffic import WORKFLOWS, TrafficPlan, expected_count, workflow_traffic
from policyengine.simulation.learned_behavior import SimulatedTracker
from policyengine.simulation.renamed_callers import Callers, NoOtherCallerError
from policyengine.simulation.result import SimulationResult
from policyengine.simulation.run import VirtualClock, simulate
from policyengine.simulation.time_slots import Series, TooManySlotsError
from policyengine.simulation.traffic_file import TrafficEvent, TrafficLineError, TrafficTrace

__all__ = [
    "WORKFLOWS",
    "Callers",
    "NoOtherCallerError",
    "Series",
    "SimulatedTracker",
    "SimulationResult",
    "TooManySlotsError",
    "TrafficEvent",
    "TrafficLineError",
    "TrafficPlan",
    "TrafficTrace",
    "VirtualClock",
    "expected_count",
    "simulate",
    "workflow_traffic",
]
