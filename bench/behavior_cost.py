"""What learned behavior costs: CPU time of a decision and of its parts, bytes of a row, memory of a principal."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import fmean, median
from time import perf_counter, process_time
from typing import Final, NamedTuple

from bench.behavior_limits import BEGAN
from bench.behavior_traffic import DAY, MINUTE
from bench.machine import rss_mb
from policyengine import Engine
from policyengine.behavior.events import ALLOWED, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.row import MAX_SEEN, MAX_SHAPES, BehaviorRow, pack_row
from policyengine.behavior.state import BehaviorState, CallerRow

GROUP: Final = "profile reporting"
COST_EVENTS, READS, ROUNDS = 60_000, 20_000, 7
DECISIONS, TAUGHT_DAYS = 1_000, 28
# The conditions of the clamp of one rate.
COSTLY: Final = {
    "burst": "behavior.burst",
    "burst, trust, errors": "behavior.burst or behavior.error_rate > 0.3 or behavior.trust < 0.1",
    "deviation": "behavior.deviation > 0.99",
}
POLICY: Final = """
language 1
package bench.behavior
issuer acme { url "https://login.acme.example"   scopes none }
agent "report-*" { issued by acme   acts alone   may GET /data/**, POST /report }
rate "reporting" per agent.id on /** { 100000/1m CLAMP }
"""


class Cost(NamedTuple):
    """Microseconds of CPU time of an event that is folded, and of the facts of a request with and without the order of
    requests. Microseconds of decisions by the facts that a rule reads (`""`: none of them): `decisions_us` are means,
    with a part of the model that is learned once a day, and `usual_us` are medians."""

    fold_us: float
    read_us: float
    read_few_us: float
    decisions_us: dict[str, float]
    usual_us: dict[str, float]
    row_bytes: int  # the longest row
    memory_bytes: int | None  # a principal; None where it cannot be measured
    learn_seconds: float

    def added(self, facts: str) -> float:
        """Return what a decision costs more if a rule reads these facts, with its part of the model of the day."""
        return self.decisions_us[facts] - self.decisions_us[""]

    def usually_added(self, facts: str) -> float:
        """Return what a usual decision costs more if a rule reads these facts."""
        return self.usual_us[facts] - self.usual_us[""]


def cost(principals: int) -> Cost:
    events = seeded_events()
    fold, read, row = step_times(events, ProfileSettings())
    _, read_few, _ = step_times(events, ProfileSettings(sequences=False))
    row.seen, row.shapes = dict.fromkeys(range(MAX_SEEN), 1), dict.fromkeys(range(MAX_SHAPES), 1)
    memory, seconds = memory_of(principals)
    return Cost(fold, read, read_few, *decision_times(), len(pack_row(row)), memory, seconds)


def seeded_events() -> list[BehaviorEvent]:
    """Return the events of a hundred callers on twenty days."""
    random, at, events = Random(1), BEGAN, []
    callers = [Caller("https://issuer.example", f"agent {number}", f"instance {number}") for number in range(100)]
    endpoints = [f"GET /v1/things/{number}/{{id}}" for number in range(10)]
    for _ in range(COST_EVENTS):
        at += int(random.expovariate(1 / (20 * DAY / COST_EVENTS)))
        run = at // (10 * MINUTE) % 97 + 1
        events.append(BehaviorEvent(at, random.choice(callers), GROUP, random.choice(endpoints), run, ALLOWED))
    return events


def step_times(events: list[BehaviorEvent], settings: ProfileSettings) -> tuple[float, float, BehaviorRow]:
    """Return the microseconds in which an event is folded, and those in which the facts of a request are read; and a
    row."""
    folds, reads, at = [], [], events[-1].at
    for _ in range(ROUNDS):
        state = BehaviorState(Tagger(b"cost"))
        began = process_time()
        for event in events:
            state.fold(event, lambda _: settings)
        folds.append((process_time() - began) / len(events) * 1e6)
        requests = [
            (event.caller, RequestTags(state.tagger.tag(event.endpoint), event.run)) for event in events[-READS:]
        ]
        for caller in {caller for caller, _ in requests}:  # the first read of an hour copies the row
            state.row_at(caller, at, settings)
        began = process_time()
        for caller, tags in requests:
            state.snapshot(caller, GROUP, tags, at, settings, lambda _: settings)
        reads.append((process_time() - began) / len(requests) * 1e6)
    return median(folds), median(reads), state.rows[events[0].caller].row


def decision_times() -> tuple[dict[str, float], dict[str, float]]:
    """Return the microseconds of a decision by the facts that a rule reads, as means and as medians of a day, each the
    median of several rounds."""
    cases = {name: LearningAgents(f"clamp 90000/1m when {facts}") for name, facts in COSTLY.items()}
    cases[""] = LearningAgents('clamp 90000/1m when request.method == "PUT"')
    days: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            days[name].append(case.work())
    means = {name: median(map(fmean, times)) for name, times in days.items()}
    return means, {name: median(map(median, times)) for name, times in days.items()}


class LearningAgents:
    """Ten agents of one class that send a hundred requests each at one time of the day, with some weeks of such work
    behind them."""

    def __init__(self, clamp: str) -> None:
        self.now = datetime(2027, 1, 4, 9, tzinfo=UTC)
        self.engine = Engine.from_text(POLICY.replace("CLAMP", clamp), clock=lambda: self.now)
        self.questions = [
            {"agent": {"id": f"report-{number}", "issuer": "acme"}, "request": {"method": "GET", "path": "/data/sales"}}
            for number in range(10)
        ]
        for _ in range(TAUGHT_DAYS):
            self.work()

    def work(self) -> list[float]:
        """Return the microseconds of each decision of the next day."""
        decide, questions, step = self.engine.decide, self.questions, timedelta(milliseconds=100)
        tomorrow = self.now + timedelta(days=1)
        times = []
        for number in range(DECISIONS):
            self.now += step
            question, began = questions[number % 10], perf_counter()
            decide(question)
            times.append((perf_counter() - began) * 1e6)
        self.now = tomorrow
        return times


def memory_of(principals: int) -> tuple[int | None, float]:
    """Return the bytes of memory that a principal takes, with two weeks of history and eight endpoints, and the seconds
    in which a model of all is learned. The bytes are None if they cannot be measured.
    """
    gc.collect()
    before, random, settings = rss_mb(), Random(2), ProfileSettings()
    state, tags = BehaviorState(Tagger(b"memory"), learns=False), [random.randrange(2**32) for _ in range(40)]
    day = BEGAN // DAY
    for number in range(principals):
        row = BehaviorRow(BEGAN)
        row.runs, row.days, row.serial = 100 + number % 900, (1 << 14) - 1, 1_000 + number
        row.run_tag, row.run_last, row.level_at = random.randrange(2**32), BEGAN - number, BEGAN - number
        row.seen = {random.choice(tags): day - number % 9 for _ in range(8)}
        for hour in range(8, 18):
            row.paces[hour] = random.randrange(300, 3_000)
        for place in range(28):
            row.peaks[place], row.ratios[place] = random.randrange(300, 3_000), random.randrange(300, 3_000)
        caller = Caller("https://issuer.example", f"agent {number}", f"instance {number}")
        state.rows[caller] = CallerRow(GROUP, row)
    gc.collect()
    after, began = rss_mb(), process_time()
    state.learn(BEGAN + 1, lambda _: settings)
    return int((after - before) * 1e6 / principals) or None, process_time() - began
