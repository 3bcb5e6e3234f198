"""Runs a simulation: sets the clock to the time of each request, decides the request, and counts it in the series."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice

from policyengine.clock import from_epoch_microseconds
from policyengine.engine import Engine
from policyengine.runtime.request import RequestError
from policyengine.simulation.learned_behavior import DeclaredPaces, SimulatedTracker
from policyengine.simulation.time_slots import Series
from policyengine.simulation.traffic_file import TrafficEvent, TrafficLineError

CHUNK = 1_000


class VirtualClock:
    """A clock for the engine that stays at `at` (microseconds since 1970) until it is set."""

    __slots__ = ("at",)

    def __init__(self, at: int = 0) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return from_epoch_microseconds(self.at)

    def nanoseconds(self) -> int:
        """Return the time in nanoseconds, as the engine counts, without a datetime in between."""
        return self.at * 1_000


def simulate(
    engine: Engine,
    clock: VirtualClock,
    traffic: Iterable[TrafficEvent],
    series: Series,
    told: Callable[[], None] = lambda: None,
    tracker: SimulatedTracker | None = None,
) -> None:
    """Simulate all requests in order; `told` is called after each thousand. `clock` and `tracker` must belong to the
    engine; with a tracker, learned behavior is counted, too.

    Raises TrafficLineError for a line that is not a valid request, and TooManySlotsError if the traffic does not fit
    the series.
    """
    decide, count, events, line = engine.decide, series.count, iter(traffic), 0
    paces = DeclaredPaces(engine.kernel)
    while chunk := list(islice(events, CHUNK)):
        try:
            for at, question, line in chunk:  # noqa: B007 - a mistake is reported by its line
                clock.at = at
                decision = decide(question)
                count(at, decision)
                if tracker is not None and (reading := tracker.take_latest()) is not None:
                    series.count_learned(decision, reading, paces.relative(decision))
        except RequestError as error:
            raise TrafficLineError(line, error.message, error.hint, error.member) from None
        told()
