"""Timing: one call at a time for percentiles, a whole loop for the mean, the floor and the engine in turns.

Every loop uses newly created questions, as requests that have just arrived: no text in them was hashed before, and no
text is the same object as one in the rules.
"""

from __future__ import annotations

import gc
import pickle
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any, TypeAlias

Ask: TypeAlias = Callable[[Any], Any]
Fresh: TypeAlias = Callable[[], Sequence[Any]]
MIN_ROUNDS, MAX_ROUNDS = 3, 25
WARM_UP = 400


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds per call: percentiles including the timer (nothing is subtracted), and the mean without it.

    `preempted`: the system gave the core to another process during the calls.
    """

    p50: float
    p99: float
    mean: float
    preempted: bool = False


@dataclass(frozen=True, slots=True)
class Duel:
    """Medians over the rounds; `ratio` is the median of the rounds' ratios of p50, `mean_ratio` of their means.

    Rounds that another process interrupted are left out, if enough others remain; `quiet` is the number of others.
    """

    ours: Timing
    floor: Timing
    ratio: float
    mean_ratio: float
    rounds: int
    quiet: int


def time_calls(ask: Ask, fresh: Fresh) -> Timing:
    clock, took = perf_counter_ns, []
    questions = fresh()
    before = preemptions()
    for question in questions:
        start = clock()
        ask(question)
        took.append(clock() - start)
    preempted = preemptions() != before
    questions = fresh()
    start = clock()
    for question in questions:
        ask(question)
    whole = clock() - start
    took.sort()
    return Timing(percentile(took, 0.5) / 1e3, percentile(took, 0.99) / 1e3, whole / len(questions) / 1e3, preempted)


def preemptions() -> int:
    """Return how often the system has given the core of this thread to another; always 0 where it does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw if sys.platform == "linux" else 0


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def fresh_questions(question: Ask, requests: Sequence[Any]) -> Fresh:
    """Return questions built from copies of the requests, which share no text with the rules or with each other."""
    kept = [pickle.dumps(request) for request in requests]
    return lambda: [question(pickle.loads(one)) for one in kept]


def duel(ask: Ask, fresh: Fresh, floor: Ask, same: Fresh, seconds: float) -> Duel:
    """Time both in turns for about `seconds` seconds, so that other load on the machine affects both equally."""
    for question, other in zip(fresh()[:WARM_UP], same()[:WARM_UP], strict=True):
        ask(question), floor(other)
    gc.collect()
    deadline = perf_counter_ns() + seconds * 1e9
    rounds: list[tuple[Timing, Timing]] = []
    while len(rounds) < MIN_ROUNDS or (len(rounds) < MAX_ROUNDS and perf_counter_ns() < deadline):
        rounds.append((time_calls(ask, fresh), time_calls(floor, same)))
    quiet = [(mine, floors) for mine, floors in rounds if not (mine.preempted or floors.preempted)]
    used = quiet if len(quiet) >= MIN_ROUNDS else rounds
    return Duel(
        median_timing([mine for mine, _ in used]),
        median_timing([floors for _, floors in used]),
        median(mine.p50 / floors.p50 for mine, floors in used),
        median(mine.mean / floors.mean for mine, floors in used),
        len(rounds),
        len(quiet),
    )


def intern_keys(tree: Any) -> Any:
    """Return the same tree with interned member names, as literals in a program are."""
    match tree:
        case dict():
            return {sys.intern(name): intern_keys(value) for name, value in tree.items()}
        case list():
            return [intern_keys(value) for value in tree]
        case _:
            return tree


def median_timing(timings: Sequence[Timing]) -> Timing:
    return Timing(
        median(one.p50 for one in timings), median(one.p99 for one in timings), median(one.mean for one in timings)
    )
