"""`counting`: the cost of `/metrics` for each decision, compared with the decision itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns

from bench import policy
from bench.report import Section, Target
from bench.trial import format_number
from bench.workload import workload
from policyengine.engine import Engine
from policyengine.runtime.decision import Answer
from policyengine.server.telemetry.process_metrics import rule_names
from policyengine.server.telemetry.shared_counters import (
    CountFunction,
    ServerCounters,
    TimingTurns,
    time_always,
    time_sampled,
)

RULES = 1_000
ROUNDS = 25
MAX_MICROSECONDS = 0.2  # microseconds
Say = Callable[[str], None]


def metrics_cost(say: Say) -> Section:
    work = workload(RULES)
    engine = Engine.from_text(policy.policy(work))
    say(f"counting: answers of {RULES:,} rules")
    answers = [engine.decide(policy.question(asked)).answer for asked in work.requests]
    tally = ServerCounters(rules=rule_names(engine))
    took = {
        "by the event loop": cost(tally.counter("decide"), answers, time_sampled()),
        "by a thread": cost(tally.apart("decide"), answers, time_always()),
    }
    return Section(
        "counting",
        f"One decision more in /metrics: microseconds, the median of {ROUNDS} rounds",
        ("by whom", "µs"),
        tuple((who, format_number(one)) for who, one in took.items()),
        tuple({"who": who, "microseconds": one} for who, one in took.items()),
        (Target("an ordinary `/decide` counts in", MAX_MICROSECONDS, took["by the event loop"], "µs"),),
        ("The event loop times one decision in sixteen, threads time all; the surrounding loop is not included.",),
    )


def cost(count: CountFunction, answers: Sequence[Answer], timed: TimingTurns) -> float:
    """Return the microseconds of reading the clock, where it is read, and of counting."""
    found = [time_counting(count, answers, timed) - time_empty_loop(answers) for _ in range(ROUNDS + 1)][1:]
    return median(found) / len(answers) / 1e3


def time_counting(count: CountFunction, answers: Sequence[Answer], timed: TimingTurns) -> int:
    clock = perf_counter_ns
    start = clock()
    for one in answers:
        began = clock() if next(timed) else 0
        count(one, began)
    return clock() - start


def time_empty_loop(answers: Sequence[Answer]) -> int:
    start = perf_counter_ns()
    for _ in answers:
        pass
    return perf_counter_ns() - start
