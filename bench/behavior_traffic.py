"""Seeded traffic of callers: six kinds of benign traffic, a seventh with a heavy tail, and runs of tools.

Each kind yields, for every day, the sorted moments of the requests of one caller, in milliseconds after midnight. Every
caller has a size and habits of its own.
"""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.public_sets import package_folder

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
Days = Iterator[list[int]]


def poisson(random: Random, mean: float) -> int:
    if mean > 60:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, random.random()
    while product > limit:
        count += 1
        product *= random.random()
    return count


def size_of(random: Random, typical: float) -> float:
    """Return the size of a caller: most are between a half and twice the typical one."""
    return typical * random.lognormvariate(0, 0.4)


def service(random: Random) -> Days:
    """A service that works all day at a steady rate, and less at night."""
    rate = size_of(random, 9)
    while True:
        level = rate * random.lognormvariate(0, 0.1)
        yield sorted(
            int((hour + random.random()) * HOUR)
            for hour in range(24)
            for _ in range(poisson(random, level if 7 <= hour < 19 else level / 4))
        )


def cron(random: Random) -> Days:
    """Batches at fixed hours and minutes."""
    hours, minute, size = sorted(random.sample(range(24), 4)), random.randrange(60), size_of(random, 25)
    while True:
        moments = []
        for hour in hours:
            at = hour * HOUR + minute * MINUTE + abs(random.gauss(0, 2_000))
            for _ in range(poisson(random, size)):
                at += random.expovariate(1 / 200)
                moments.append(int(at))
        yield sorted(moments)


def agent(random: Random) -> Days:
    """Sessions of an LLM agent in working hours: clumps of calls, some seconds apart."""
    gap, length = size_of(random, 40 * MINUTE), size_of(random, 8)
    while True:
        yield sessions(random, gap, lambda: min(int(length * random.lognormvariate(0, 0.7)) + 1, 200))


def heavy_agent(random: Random) -> Days:
    """Sessions whose length has no usual size: the longest of a month is forty times the median."""
    gap = size_of(random, 40 * MINUTE)
    while True:
        yield sessions(random, gap, lambda: min(int(5 * random.paretovariate(1.5)), 200))


def sessions(random: Random, gap: float, length: Callable[[], int]) -> list[int]:
    moments, at = [], 8.0 * HOUR
    while (at := at + random.expovariate(1 / gap)) < 19 * HOUR:
        for _ in range(length()):
            at += random.lognormvariate(math.log(4_000), 1)
            moments.append(int(at))
    return [moment for moment in moments if moment < DAY]


def nightly(random: Random) -> Days:
    """A job at two o'clock, give or take five minutes."""
    size = size_of(random, 120)
    while True:
        at, moments = 2 * HOUR + random.gauss(0, 5 * MINUTE), []
        for _ in range(poisson(random, size)):
            at += random.expovariate(1 / 3_000)
            moments.append(int(at))
        yield moments


def poller(random: Random) -> Days:
    """A request every few minutes, all day."""
    every = random.choice([5, 10, 10, 15, 20]) * MINUTE
    offset = random.random() * every
    while True:
        yield sorted(
            min(max(int(offset + number * every + random.gauss(0, 700)), 0), DAY - 1) for number in range(DAY // every)
        )


def people(random: Random) -> Days:
    """A person at work: clumps of some clicks, on five days of the week, sometimes on others."""
    begins, clicks, day = random.gauss(8.5, 0.7), size_of(random, 5), random.randrange(7)
    while True:
        day += 1
        moments: list[int] = []
        if day % 7 < 5 or random.random() < 0.15:
            at, end = (begins + random.gauss(0, 0.4)) * HOUR, (begins + 8 + random.gauss(0, 0.7)) * HOUR
            while at < end:
                for _ in range(poisson(random, clicks)):
                    at += random.expovariate(1 / 8_000)
                    moments.append(int(at))
                at += random.expovariate(1 / (25 * MINUTE))
        yield moments


KINDS: Final[dict[str, Callable[[Random], Days]]] = {
    "steady service": service,
    "cron batches": cron,
    "agent sessions": agent,
    "nightly job": nightly,
    "poller": poller,
    "people at work": people,
}
HEAVY: Final = "agent sessions, heavy tail"
ALL_KINDS: Final = {**KINDS, HEAVY: heavy_agent}


def caller_days(kind: str, caller: int, days: int, seed: int = 1) -> list[list[int]]:
    """Return the moments of each day of a caller."""
    made = ALL_KINDS[kind](Random(f"{kind} {caller} {seed}"))
    return [next(made) for _ in range(days)]


# ── Tools ─────────────────────────────────────────────────────────────────────────────────────


class ToolUser:
    """An agent that uses tools, as the tasks of public benchmarks do: two to six calls of some of twenty tools. Its
    class has four kinds of tasks, each agent its own mix of them; one run in two hundred uses one of eight rare tools.
    """

    TASKS, TOOLS, RARE = 4, 20, 8

    def __init__(self, random: Random) -> None:
        self.random = random
        self.tasks = [random.expovariate(1) for _ in range(self.TASKS)]

    def run(self) -> list[str]:
        """Return the tools of a run, in order."""
        random = self.random
        task = random.choices(range(self.TASKS), self.tasks)[0]
        tools = [tool for tool in range(self.TOOLS) if tool % self.TASKS == task]
        weights = [1 / (2 + place) for place in range(len(tools))]
        used = [f"POST /tools/{tool}" for tool in random.choices(tools, weights, k=random.randint(2, 6))]
        if random.random() < 0.005:
            used.append(f"POST /rare/{random.randrange(self.RARE)}")
        return used


def public_runs() -> dict[str, list[list[str]]]:
    """Return the tools of the tasks of each public suite, if `python -m bench.public_sets` fetched it: those of
    AgentDojo (MIT), and those of the multi-turn tasks of BFCL (Apache 2.0)."""
    folder = package_folder("agentdojo", "default_suites", "v1")
    files = sorted(folder.glob("*/user_tasks.py")) if folder else []
    answers = package_folder("bfcl_eval", "data", "possible_answer")
    return {**{file.parent.name: tool_calls(file) for file in files}, **(function_runs(answers) if answers else {})}


def function_runs(answers: Path) -> dict[str, list[list[str]]]:
    """Return the functions in each solution of the multi-turn tasks of BFCL. A task is in the suite of that of its APIs
    which most tasks have. The other multi-turn sets have the same solutions, with other questions."""
    name = "BFCL_v4_multi_turn_base.json"
    tasks = {task["id"]: task["involved_classes"] for task in read_lines(answers.parent / name)}
    counts = Counter(api for apis in tasks.values() for api in apis)
    suites: dict[str, list[list[str]]] = {}
    for answer in read_lines(answers / name):
        suite = max(tasks[answer["id"]], key=lambda api: (counts[api], api))
        calls = [call for turn in answer["ground_truth"] for call in turn]
        suites.setdefault(f"BFCL {suite}", []).append([call.partition("(")[0] for call in calls])
    return suites


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def tool_calls(file: Path) -> list[list[str]]:
    """Return the tools in each solution of a module of tasks."""
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    runs = [
        [
            str(keyword.value.value)
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            for keyword in call.keywords
            if keyword.arg == "function" and isinstance(keyword.value, ast.Constant)
        ]
        for function in functions
        if function.name == "ground_truth"
    ]
    return [run for run in runs if run]
