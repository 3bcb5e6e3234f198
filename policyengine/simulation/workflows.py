"""Traffic that needs no file: when somebody comes, and who of them. The same seed gives the same traffic."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from math import cos, tau
from random import Random
from typing import TypeAlias

from policyengine.simulation.caller_variation import Callers
from policyengine.simulation.microseconds import DAY_US
from policyengine.simulation.traffic_file import SECOND_US, TrafficEvent

Arrival: TypeAlias = tuple[int, int]  # when, and which of the callers: 0 is the first

MINUTE_US = 60 * SECOND_US
DAILY_SWING = 0.9  # how far the day's traffic swings around its mean
QUIETEST_TIME_US = 2 * 3_600 * SECOND_US  # when a day is quietest
LOOP_FACTOR = 50  # times as fast as it works, an agent tries again


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """From `start` (microseconds since 1970) for `span` microseconds, `rate` requests a second of all callers."""

    start: int
    span: int
    rate: float
    callers: int
    seed: int = 0

    @property
    def gap(self) -> float:
        """Between two requests, in microseconds."""
        return SECOND_US / self.rate

    def chance(self) -> Random:
        return Random(self.seed)


@dataclass(frozen=True, slots=True)
class Workflow:
    """`words` say what comes; `callers` and `span` (microseconds) are taken where nobody says others."""

    words: str
    arrivals: Callable[[TrafficPlan], Iterator[Arrival]]
    callers: int = 1
    span: int = 60 * MINUTE_US


def steady(plan: TrafficPlan) -> Iterator[Arrival]:
    """Evenly, callers in turn."""
    for number in count():
        at = int(number * plan.gap)
        if at >= plan.span:
            return
        yield at, number % plan.callers


def burst(plan: TrafficPlan) -> Iterator[Arrival]:
    """Half of a minute's requests in its first second, the others evenly over the rest."""
    each = max(1, round(plan.rate * 60))
    sudden = (each + 1) // 2
    for minute in range(-(-plan.span // MINUTE_US)):
        for number in range(each):
            late = SECOND_US + (number - sudden) * (MINUTE_US - SECOND_US) // max(1, each - sudden)
            at = minute * MINUTE_US + (number * SECOND_US // sudden if number < sudden else late)
            if at < plan.span:
                yield at, number % plan.callers


def daily(plan: TrafficPlan) -> Iterator[Arrival]:
    """By chance, most of it in the afternoon and least at two at night (UTC)."""
    chance, most = plan.chance(), (1 + DAILY_SWING) / plan.gap
    at = chance.expovariate(most)
    while at < plan.span:
        now = 1 - DAILY_SWING * cos(tau * ((plan.start + at - QUIETEST_TIME_US) % DAY_US) / DAY_US)
        if chance.random() * (1 + DAILY_SWING) < now:
            yield int(at), chance.randrange(plan.callers)
        at += chance.expovariate(most)


def zipf(plan: TrafficPlan) -> Iterator[Arrival]:
    """By chance, and the nth caller comes a nth as often as the first (Zipf)."""
    chance = plan.chance()
    shares = list(accumulate(1 / place for place in range(1, plan.callers + 1)))
    at = chance.expovariate(1 / plan.gap)
    while at < plan.span:
        yield int(at), bisect(shares, chance.random() * shares[-1], 0, plan.callers - 1)
        at += chance.expovariate(1 / plan.gap)


def lockstep(plan: TrafficPlan) -> Iterator[Arrival]:
    """All at once, again and again: jobs that one clock starts."""
    for turn in count():
        at = int(turn * plan.gap * plan.callers)
        if at >= plan.span:
            return
        yield from ((at, caller) for caller in range(plan.callers))


def runaway(plan: TrafficPlan) -> Iterator[Arrival]:
    """Steady, but the last caller is in a loop through the middle third of the time."""
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


WORKFLOWS = {
    "steady": Workflow("one after the other, evenly", steady),
    "burst": Workflow("half of a minute's requests in its first second", burst),
    "daily": Workflow("a day's curve: quietest at 02:00, busiest at 14:00 UTC", daily, span=DAY_US),
    "many": Workflow("many callers, a few of whom ask most", zipf, callers=1_000),
    "lockstep": Workflow("all callers at the same instants", lockstep, callers=100),
    "runaway": Workflow(f"an agent that retries in a loop, {LOOP_FACTOR} times as fast, in the middle third", runaway),
}


def expected_count(name: str, plan: TrafficPlan) -> int:
    """About how many requests come."""
    loops = (LOOP_FACTOR + 2) / 3 if name == "runaway" else 1
    return int(plan.rate * plan.span / SECOND_US * loops)


def workflow_traffic(name: str, plan: TrafficPlan, callers: Callers) -> Iterator[TrafficEvent]:
    """What each of the callers asks, when they come: each goes through the questions in turn."""
    start, question, several = plan.start, callers.question, len(callers.questions)
    turns = [0] * plan.callers
    for at, caller in WORKFLOWS[name].arrivals(plan):
        turn = turns[caller]
        turns[caller] = (turn + 1) % several
        yield TrafficEvent(start + at, question(turn, caller))
