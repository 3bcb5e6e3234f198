"""Generated traffic: the time and the caller of each request. The same seed generates the same traffic."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import accumulate, count
from math import cos, tau
from random import Random
from typing import TypeAlias

from policyengine.clock import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND
from policyengine.simulation.renamed_callers import Callers
from policyengine.simulation.traffic_file import TrafficEvent

Arrival: TypeAlias = tuple[int, int]  # the time, and the index of the caller (0 is the first)

MINUTE_US = 60 * MICROSECONDS_PER_SECOND
DAILY_SWING = 0.9  # amplitude of the daily curve, relative to its mean
QUIETEST_TIME_US = 2 * 3_600 * MICROSECONDS_PER_SECOND  # the quietest time of a day
LOOP_FACTOR = 50  # the pace of an agent in a retry loop, relative to its normal pace


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Traffic from `start` (microseconds since 1970) for `span` microseconds, with `rate` requests per second."""

    start: int
    span: int
    rate: float
    callers: int
    seed: int = 0

    @property
    def gap(self) -> float:
        """The time between two requests, in microseconds."""
        return MICROSECONDS_PER_SECOND / self.rate

    def chance(self) -> Random:
        return Random(self.seed)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A kind of traffic. `words` describes it; `callers` and `span` (microseconds) are its defaults."""

    words: str
    arrivals: Callable[[TrafficPlan], Iterator[Arrival]]
    callers: int = 1
    span: int = 60 * MINUTE_US


def steady(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield evenly spaced arrivals; callers take turns."""
    for number in count():
        at = int(number * plan.gap)
        if at >= plan.span:
            return
        yield at, number % plan.callers


def burst(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield half of each minute's arrivals in its first second, and the rest evenly afterwards."""
    each = max(1, round(plan.rate * 60))
    sudden = (each + 1) // 2
    for minute in range(-(-plan.span // MINUTE_US)):
        for number in range(each):
            late = MICROSECONDS_PER_SECOND + (number - sudden) * (MINUTE_US - MICROSECONDS_PER_SECOND) // max(
                1, each - sudden
            )
            at = minute * MINUTE_US + (number * MICROSECONDS_PER_SECOND // sudden if number < sudden else late)
            if at < plan.span:
                yield at, number % plan.callers


def daily(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield random arrivals, with the most in the afternoon and the fewest at 02:00 UTC."""
    chance, most = plan.chance(), (1 + DAILY_SWING) / plan.gap
    at = chance.expovariate(most)
    while at < plan.span:
        share = (plan.start + at - QUIETEST_TIME_US) % MICROSECONDS_PER_DAY / MICROSECONDS_PER_DAY
        now = 1 - DAILY_SWING * cos(tau * share)
        if chance.random() * (1 + DAILY_SWING) < now:
            yield int(at), chance.randrange(plan.callers)
        at += chance.expovariate(most)


def zipf(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield random arrivals; the n-th caller sends 1/n as many requests as the first (Zipf)."""
    chance = plan.chance()
    shares = list(accumulate(1 / place for place in range(1, plan.callers + 1)))
    at = chance.expovariate(1 / plan.gap)
    while at < plan.span:
        yield int(at), bisect(shares, chance.random() * shares[-1], 0, plan.callers - 1)
        at += chance.expovariate(1 / plan.gap)


def lockstep(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield repeated simultaneous arrivals of all callers, like jobs of one scheduler."""
    for turn in count():
        at = int(turn * plan.gap * plan.callers)
        if at >= plan.span:
            return
        yield from ((at, caller) for caller in range(plan.callers))


def runaway(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield steady arrivals, with the last caller in a loop during the middle third."""
    at = 0.0
    for number in count():
        if at >= plan.span:
            return
        loops = plan.span / 3 <= at < plan.span * 2 / 3
        yield (
            int(at),
            plan.callers - 1
            if loops and number % LOOP_FACTOR
            else number // (LOOP_FACTOR if loops else 1) % plan.callers,
        )
        at += plan.gap / LOOP_FACTOR if loops else plan.gap


def spike(plan: TrafficPlan) -> Iterator[Arrival]:
    """Yield the arrivals of the daily curve and, from `spike_start` on, also the arrivals of the last caller in a
    loop."""
    start = spike_start(plan)
    gap = plan.gap * plan.callers / LOOP_FACTOR
    loop = ((start + int(number * gap), plan.callers - 1) for number in range(int((plan.span - start) / gap)))
    yield from merge(daily(plan), loop)


def spike_start(plan: TrafficPlan) -> int:
    """Return the start of the last hour, or of the last tenth of the span if that is shorter."""
    return plan.span - min(60 * MINUTE_US, plan.span // 10)


WORKFLOWS = {
    "steady": Workflow("evenly spaced requests", steady),
    "burst": Workflow("half of each minute's requests in its first second", burst),
    "daily": Workflow("a daily curve: quietest at 02:00, busiest at 14:00 UTC", daily, span=MICROSECONDS_PER_DAY),
    "many": Workflow("many callers, a few of which send most requests", zipf, callers=1_000),
    "lockstep": Workflow("all callers at the same instants", lockstep, callers=100),
    "runaway": Workflow(
        f"an agent that retries in a loop, {LOOP_FACTOR} times as fast, in the middle third of the time", runaway
    ),
    "spike": Workflow(
        f"the daily curve for weeks; in the last hour, the last caller is {LOOP_FACTOR} times as fast",
        spike,
        callers=5,
        span=30 * MICROSECONDS_PER_DAY,
    ),
}


def expected_count(name: str, plan: TrafficPlan) -> int:
    """Return the approximate number of requests."""
    loops = (LOOP_FACTOR + 2) / 3 if name == "runaway" else 1
    if name == "spike":
        loops += LOOP_FACTOR / plan.callers * (plan.span - spike_start(plan)) / plan.span
    return int(plan.rate * plan.span / MICROSECONDS_PER_SECOND * loops)


def workflow_traffic(name: str, plan: TrafficPlan, callers: Callers) -> Iterator[TrafficEvent]:
    """Yield the events of a workflow; each caller goes through the questions in turn, each time in another run."""
    start, several = plan.start, len(callers.questions)
    turns, runs, latest = [0] * plan.callers, [0] * plan.callers, [0] * plan.callers
    for at, caller in WORKFLOWS[name].arrivals(plan):
        turn = callers.next_turn(turns[caller], at - latest[caller])
        runs[caller] += turn != turns[caller]
        yield TrafficEvent(start + at, callers.in_run(turn, caller, runs[caller]))
        turns[caller], latest[caller] = (turn + 1) % several, at
        runs[caller] += turns[caller] == 0
