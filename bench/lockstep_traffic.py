"""Seeded traffic of a day: independent callers, farms of callers with one owner, and decoys that only look like farms.

Needs numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from policyengine.behavior.lockstep.columns import EventColumns

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
BEGAN: Final = 1_800_000_000_000 // DAY * DAY
NEVER: Final = 2**62
WORKFLOWS, ENDPOINTS = 3_000, 600
STEADY: Final = "steady"
MIMIC, MIMICKED, SPARSE = "mimics", "mimicked residents", "few common runs"
SKIPS, OWN_WORK = "skips a third of the beats", "two thirds own work"
FARMS: Final = {STEADY: 0.5, SKIPS: 0.15, OWN_WORK: 0.1, "jitter ±10 s": 0.15, "jitter ±30 s": 0.1}
JITTER: Final = {"jitter ±10 s": 10 * SECOND, "jitter ±30 s": 30 * SECOND}
Random = np.random.Generator
Numbers = Any  # arrays of numpy


class Runs(NamedTuple):
    """Runs of callers: the caller, the start in milliseconds since the begin of the day, and the workflow."""

    callers: Numbers
    starts: Numbers
    workflows: Numbers


class Traffic(NamedTuple):
    """A day. `farms` has the number of the farm of each caller, or -1, `kinds` the kind of each caller, and `ready` the
    time since which a caller is known."""

    columns: EventColumns
    farms: Numbers
    kinds: list[str]
    ready: list[int]


class TrafficMaker:
    """Makes runs of callers. Each part of the traffic takes the next free numbers of callers."""

    def __init__(self, random: Random, keys: int) -> None:
        self.random, self.keys, self.free = random, keys, 0
        self.runs: list[Runs] = []
        self.farms, self.kinds, self.ready = np.full(keys, -1), ["independent"] * keys, [NEVER] * keys
        weights = 1 / np.arange(1, WORKFLOWS + 1) ** 0.8
        self._popular = weights / weights.sum()
        self.farm_count = 0

    def take(self, count: int, kind: str, ready: int = NEVER) -> Numbers:
        """Return the numbers of new callers of a kind."""
        callers = np.arange(self.free, min(self.free + count, self.keys))
        self.free += len(callers)
        for caller in callers:
            self.kinds[caller], self.ready[caller] = kind, ready
        return callers

    def add(self, callers: Numbers, starts: Numbers, workflows: Numbers | int) -> None:
        callers = np.asarray(callers)
        self.runs.append(Runs(callers, np.asarray(starts), np.broadcast_to(workflows, callers.shape)))

    def workflow(self) -> int:
        return int(self.random.integers(WORKFLOWS))

    def moments(self, count: int) -> Numbers:
        """Return irregular times; half of all schedules follow office hours."""
        if self.random.random() < 0.5:
            return np.clip(self.random.normal(14 * HOUR, 3 * HOUR, count), 0, DAY - HOUR).astype(np.int64)
        return self.random.integers(0, DAY - HOUR, count)

    def farm(self, kind: str, size: int) -> None:
        """Add callers that run one workflow at the same irregular times."""
        random, jitter = self.random, JITTER.get(kind, SECOND)
        callers, beats = self.take(size, kind), self.moments(int(random.integers(25, 60)))
        workflow = self.workflow() if random.random() < 0.5 else int(random.choice(WORKFLOWS, p=self._popular))
        self.own(callers)
        for caller in callers:
            joined = beats[random.random(len(beats)) < 0.67] if kind == SKIPS else beats
            self.add(np.full(len(joined), caller), joined + random.integers(-jitter, jitter + 1, len(joined)), workflow)
            alone = self.moments({SKIPS: len(beats) // 3, OWN_WORK: 2 * len(beats)}.get(kind, 2))
            self.add(np.full(len(alone), caller), alone, self.workflow())

    def own(self, callers: Numbers) -> None:
        """Give the callers one owner: they are a farm."""
        self.farms[callers] = self.farm_count
        self.farm_count += 1

    def mimics(self, size: int) -> None:
        """Add a known caller, and new callers that follow each of its runs: the new ones are a farm."""
        victim = self.take(1, MIMICKED, ready=BEGAN - DAY)
        followers, beats, workflow = self.take(size, MIMIC), self.moments(40), self.workflow()
        self.own(followers)
        self.add(np.repeat(victim, len(beats)), beats, workflow)
        for caller in followers:
            self.add(np.full(len(beats), caller), beats + self.random.integers(300, 1_500, len(beats)), workflow)

    def other_clock(self, size: int) -> None:
        """Add callers with one workflow and the same pauses, each at another time."""
        beats, workflow = self.moments(40), self.workflow()
        for caller in self.take(size, "same workflow, other clock"):
            self.add(np.full(len(beats), caller), (beats + caller % 97 * 101 * SECOND) % (DAY - HOUR), workflow)

    def scheduled(self, size: int, period: int, kind: str) -> None:
        """Add callers whose runs start at the same minute of each period."""
        first, workflow = int(self.random.integers(0, period // MINUTE)) * MINUTE, self.workflow()
        beats = np.arange(first, DAY - HOUR, period)
        for caller in self.take(size, kind):
            joined = beats[self.random.random(len(beats)) < self.random.choice([1.0, 0.9, 0.6])]
            self.add(np.full(len(joined), caller), joined + self.random.integers(0, 2_000, len(joined)), workflow)

    def timers(self, size: int, period: int) -> None:
        """Add callers of one program with a timer that started at any time."""
        workflow = self.workflow()
        for caller in self.take(size, "timers of one program"):
            beats = np.arange(int(self.random.integers(period)), DAY - HOUR, period)
            self.add(np.full(len(beats), caller), beats + self.random.integers(0, 300, len(beats)), workflow)

    def parents(self, count: int) -> None:
        """Add pairs of an agent and the one that it calls in each run."""
        for _ in range(count):
            pair, beats, workflow = self.take(2, "parent and child"), self.moments(40), self.workflow()
            for place, caller in enumerate(pair):
                self.add(np.full(len(beats), caller), beats + place * 400, workflow)

    def popular(self, size: int, runs: int) -> None:
        """Add callers of one popular workflow at independent times."""
        workflow, callers = self.workflow(), self.take(size, "popular workflow")
        counts = self.random.poisson(runs, len(callers))
        self.add(np.repeat(callers, counts), self.random.integers(0, DAY - HOUR, counts.sum()), workflow)

    def triggered(self, size: int) -> None:
        """Add many callers with different owners that one popular event triggers at irregular times."""
        callers, beats, workflow = self.take(size, "popular trigger"), self.moments(40), self.workflow()
        for beat in beats:
            self.add(callers, beat + self.random.integers(0, 1_500, len(callers)), workflow)

    def independent(self, runs: int) -> None:
        """Add the other callers: each has up to three workflows, and works all day or in office hours."""
        callers = np.arange(self.free, self.keys)
        for caller in callers[: len(callers) // 2]:
            self.ready[caller] = BEGAN - DAY
        scale = self.random.lognormal(0, 0.9, len(callers))
        counts = self.random.poisson(scale * runs / scale.sum())
        repeated = np.repeat(np.arange(len(callers)), counts)
        used = self.random.choice(WORKFLOWS, (len(callers), 3), p=self._popular)
        office = self.random.random(len(callers)) < 0.5
        starts = self.random.integers(0, DAY - HOUR, len(repeated))
        working = np.clip(self.random.normal(14 * HOUR, 3 * HOUR, len(repeated)), 0, DAY - HOUR).astype(np.int64)
        choice = self.random.choice(3, len(repeated), p=[0.7, 0.2, 0.1])
        self.add(callers[repeated], np.where(office[repeated], working, starts), used[repeated, choice])

    def columns(self) -> EventColumns:
        """Return the events of all runs: the requests of a workflow, about a second apart."""
        random = self.random
        lengths = random.integers(3, 9, WORKFLOWS)
        steps = random.integers(1, ENDPOINTS, (WORKFLOWS, 9)).astype(np.uint32) * np.uint32(7_919)
        pauses = random.lognormal(6.9, 0.6, WORKFLOWS)
        runs = Runs(*(np.concatenate(column) for column in zip(*self.runs, strict=True)))
        counts = lengths[runs.workflows]
        run = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts
        place = np.arange(len(run)) - first[run]
        gaps = random.lognormal(0, 0.25, len(run)) * pauses[runs.workflows[run]]
        gaps[first] = 0
        passed = np.cumsum(gaps)
        times = np.clip(runs.starts[run] + (passed - passed[first][run]).astype(np.int64), 0, DAY - 1)
        columns = EventColumns(BEGAN, BEGAN + DAY)
        order = np.argsort(times, kind="stable")
        columns.times.frombytes(times[order].astype(np.uint32).tobytes())
        columns.callers.frombytes(runs.callers[run[order]].astype(np.uint32).tobytes())
        columns.endpoints.frombytes(steps[runs.workflows[run], place][order].tobytes())
        columns.runs.frombytes((run[order] + 1).astype(np.uint32).tobytes())
        return columns


def make_traffic(keys: int, events: int, seed: int) -> Traffic:
    """Return a day of traffic with about as many events."""
    random = np.random.default_rng(seed)
    maker = TrafficMaker(random, keys)
    parts: list[Callable[[], None]] = []
    for kind, share in FARMS.items():
        parts += [lambda kind=kind: maker.farm(kind, farm_size(random))] * round(keys * 0.004 * share)  # type: ignore[misc]
    parts += [lambda: maker.mimics(4)] * max(keys // 2_000, 1)
    parts += [lambda: maker.other_clock(8)] * max(keys // 1_000, 1)
    parts += [lambda: maker.scheduled(8, HOUR, "same minute of the hour")] * max(keys // 1_000, 1)
    parts += [lambda: maker.scheduled(8, 10 * MINUTE, "each ten minutes")] * max(keys // 2_000, 1)
    parts += [lambda: maker.timers(max(keys // 200, 40), 7 * MINUTE)]
    parts += [lambda: maker.parents(max(keys // 500, 2))]
    parts += [lambda: maker.popular(max(keys // 50, 100), 20)] * 2
    parts += [lambda: maker.popular(30, 400)] * max(keys // 10_000, 1)
    parts += [lambda: maker.triggered(150)] * max(keys // 20_000, 1)
    for part in parts:
        part()
    spent = sum(len(runs.callers) for runs in maker.runs)
    maker.independent(max(round(events / 5.5) - spent, 1))
    return Traffic(maker.columns(), maker.farms, maker.kinds, maker.ready)


def farm_size(random: Random) -> int:
    return int(min(3 + random.geometric(0.12), 40))


def make_sparse(keys: int, common: int, seed: int, *, runs: int = 20) -> Traffic:
    """Return a day of independent callers with some `runs`, and of farms with `common` common runs and as many others;
    without farms if `common` is 0."""
    random = np.random.default_rng(seed)
    maker = TrafficMaker(random, keys)
    for _ in range(keys // 200 if common else 0):
        callers, beats, workflow = maker.take(6, SPARSE), maker.moments(common), maker.workflow()
        maker.own(callers)
        for caller in callers:
            maker.add(np.full(common, caller), beats + random.integers(-SECOND, SECOND + 1, common), workflow)
            maker.add(np.full(common, caller), maker.moments(common), maker.workflow())
    maker.independent((keys - maker.free) * runs)
    return Traffic(maker.columns(), maker.farms, maker.kinds, maker.ready)
