"""`counting`: what `/metrics` costs each decision, beside the decision itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns
from typing import Any

from bench import policy
from bench.report import Section, Target
from bench.trial import number
from bench.workload import workload
from policyengine.engine import Engine
from policyengine.runtime.decision import Answer
from policyengine.server.measuring import rules_of
from policyengine.server.tally import Count, Tally

RULES = 1_000
ROUNDS = 25
MOST = 0.2  # microseconds
Say = Callable[[str], None]


def counting(say: Say) -> Section:
    work = workload(RULES)
    engine = Engine.from_text(policy.policy(work))
    say(f"counting: answers of {RULES:,} rules")
    answers = [engine.decide(policy.question(asked)).answer for asked in work.requests]
    tally = Tally(rules=rules_of(engine))
    took = {
        "by the event loop": cost(tally.counter("decide"), answers),
        "by a thread": cost(tally.apart("decide"), answers),
    }
    return Section(
        "counting",
        f"One decision more in /metrics: microseconds, the median of {ROUNDS} rounds",
        ("by whom", "µs"),
        tuple((who, number(one)) for who, one in took.items()),
        tuple({"who": who, "microseconds": one} for who, one in took.items()),
        (Target("an ordinary `/decide` counts in", MOST, took["by the event loop"], "µs"),),
        ("Two looks at the clock are part of it; so is nothing of the loop around it.",),
    )


def cost(count: Count, answers: Sequence[Answer]) -> float:
    """In microseconds: the clock twice, and counting."""

    def counted(one: Answer) -> None:
        began = perf_counter_ns()
        count(one, perf_counter_ns() - began)

    def nothing(one: Answer) -> None:
        pass

    found = [whole(counted, answers) - whole(nothing, answers) for _ in range(ROUNDS + 1)][1:]
    return median(found) / len(answers) / 1e3


def whole(work: Callable[[Answer], Any], answers: Sequence[Answer]) -> int:
    began = perf_counter_ns()
    for one in answers:
        work(one)
    return perf_counter_ns() - began
