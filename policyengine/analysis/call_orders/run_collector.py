"""Collects the runs of each class of callers under several rules, in one pass and in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from math import log2
from typing import Final, NamedTuple, TypeAlias

from policyengine.analysis.call_orders.run_rules import FactPath, RunRule, rules_for
from policyengine.behavior.events import Caller
from policyengine.runtime.endpoints import Endpoint

MAX_CLASSES: Final = 1_000
MAX_ENDPOINTS: Final = 4_096  # endpoints that are distinguished
MAX_KEYS: Final = 6  # facts of a class that could be the key of runs
MAX_OPEN: Final = 50_000  # callers of a class whose runs are open
MAX_CALLS: Final = 1_024  # of a longer run, only the beginning is compared
MAX_REPEATS: Final = 33  # of more equal calls in a row; an order has at most 32 steps
MAX_VARIANTS: Final = 20_000  # different runs of a class
MAX_STORED: Final = 1_000_000  # calls of these runs
MAX_AGENTS: Final = 100_000  # agents of a class, and pairs of an agent and a different run
MAX_EXAMPLES: Final = 3
UNKNOWN: Final = 0  # the number of every endpoint that is not distinguished

Principal: TypeAlias = tuple[str, str]  # issuer and agent


class AllowedCall(NamedTuple):
    """An allowed call at a time in milliseconds. `keys` has the facts that could be the key of its run, `endpoint` the
    number of its endpoint, and `example` the id of its decision, or the name of its run."""

    at: int
    caller: Caller
    group: str
    endpoint: int
    keys: Mapping[FactPath, str]
    example: str


class EndpointTable:
    """Numbers the endpoints of calls: calls with equal numbers match the same patterns."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, tuple[int, ...]], int] = {("", ()): UNKNOWN}
        self.names: list[str] = [""]
        self.samples: list[Endpoint | None] = [None]

    def number(self, name: str, patterns: tuple[int, ...], sample: Endpoint | None) -> int:
        """Return the number of an endpoint; UNKNOWN for too many endpoints, or without a sample or a name."""
        if sample is None or not name:
            return UNKNOWN
        found = self._numbers.get((name, patterns))
        if found is None:
            if len(self.names) >= MAX_ENDPOINTS:
                return UNKNOWN
            found = self._numbers[name, patterns] = len(self.names)
            self.names.append(name)
            self.samples.append(sample)
        return found


@dataclass(slots=True)
class RunVariant:
    """Runs with equal calls."""

    runs: int = 0
    agents: Counter[Principal] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class OpenRun:
    """The latest run of a caller."""

    key: str
    at: int
    example: str
    calls: list[int] = field(default_factory=list)


class RunTable:
    """The runs of a class under one rule. `dropped` counts the runs of variants beyond the first MAX_VARIANTS
    or MAX_STORED calls."""

    def __init__(self, rule: RunRule) -> None:
        self.rule = rule
        self.variants: dict[tuple[int, ...], RunVariant] = {}
        self.agents: Counter[Principal] = Counter()  # runs by agent
        self.runs = self.dropped = 0
        self._open: dict[Caller, OpenRun] = {}
        self._pairs = self._stored = 0

    def add(self, call: AllowedCall) -> None:
        """Add a call to the run of its caller, or begin a new run."""
        key = "" if self.rule.key is None else call.keys.get(self.rule.key, "")
        run = self._open.get(call.caller)
        if run is None or run.key != key or call.at - run.at > self.rule.idle:
            if run is not None:
                self._finish(call.caller, self._open.pop(call.caller))
            elif len(self._open) >= MAX_OPEN:
                oldest = next(iter(self._open))
                self._finish(oldest, self._open.pop(oldest))
            run = self._open[call.caller] = OpenRun(key, call.at, call.example)
        run.at = max(run.at, call.at)
        if len(run.calls) < MAX_CALLS and not is_repeated(run.calls, call.endpoint):
            run.calls.append(call.endpoint)

    def finish(self) -> None:
        """End all runs."""
        for caller, run in self._open.items():
            self._finish(caller, run)
        self._open.clear()

    def _finish(self, caller: Caller, run: OpenRun) -> None:
        self.runs += 1
        who = caller.issuer, caller.agent
        if who in self.agents or len(self.agents) < MAX_AGENTS:
            self.agents[who] += 1
        self.count(who, tuple(run.calls), run.example)

    def count(self, who: Principal, calls: tuple[int, ...], example: str) -> None:
        """Count a run that has ended."""
        found = self.variants.get(calls)
        if found is None:
            if len(self.variants) >= MAX_VARIANTS or self._stored + len(calls) > MAX_STORED:
                self.dropped += 1
                return
            found = self.variants[calls] = RunVariant()
            self._stored += len(calls)
        found.runs += 1
        if who in found.agents or self._pairs < MAX_AGENTS:
            self._pairs += who not in found.agents
            found.agents[who] += 1
        if len(found.examples) < MAX_EXAMPLES and example:
            found.examples.append(example)

    def irregularity(self) -> float:
        """Return the number of bits per call that are needed to predict the next call, or the end of the run, from the
        call before. Repetitions are not counted."""
        following: dict[int, Counter[int]] = {}
        for calls, variant in self.variants.items():
            short = [-1, *(number for number, _ in groupby(calls)), -1]
            for left, right in pairwise(short):
                following.setdefault(left, Counter())[right] += variant.runs
        bits = sum(count * log2(counts.total() / count) for counts in following.values() for count in counts.values())
        calls_in_all = sum(counts.total() for left, counts in following.items() if left >= 0)
        return bits / max(calls_in_all, 1)


def is_repeated(calls: list[int], number: int) -> bool:
    """Return whether the run already ends in MAX_REPEATS calls to this endpoint."""
    if not calls or calls[-1] != number or len(calls) < MAX_REPEATS:
        return False
    return all(one == number for one in calls[-MAX_REPEATS:])


class ClassRuns:
    """The runs of a class. With `rule`, runs are separated in this way only."""

    def __init__(self, rule: RunRule | None = None) -> None:
        self.calls = 0
        self._fixed = rule
        self._present: Counter[FactPath] = Counter()
        self._tables: dict[RunRule, RunTable] = {}
        for each in (rule,) if rule else rules_for(()):
            self._tables[each] = RunTable(each)

    def add(self, call: AllowedCall) -> None:
        self.calls += 1
        if self._fixed is None:
            for key in call.keys:
                self._count_key(key)
        for table in self._tables.values():
            table.add(call)

    def _count_key(self, key: FactPath) -> None:
        if key not in self._present:
            if len(self._present) >= MAX_KEYS:
                return
            for rule in rules_for((key,)):
                self._tables.setdefault(rule, RunTable(rule))
        self._present[key] += 1

    def tables(self) -> Iterator[RunTable]:
        """End all runs, and yield the runs under each rule whose key most calls have, the preferred rules first."""
        keys = tuple(key for key, count in self._present.items() if count >= 0.9 * self.calls)
        for rule in (self._fixed,) if self._fixed else rules_for(keys):
            table = self._tables[rule]
            table.finish()
            yield table


@dataclass(slots=True)
class RunCollector:
    """The runs of all classes. `fixed` has the rules of the classes whose profiles declare one; `further` counts the
    calls of classes beyond the first MAX_CLASSES."""

    fixed: Mapping[str, RunRule] = field(default_factory=dict)
    classes: dict[str, ClassRuns] = field(default_factory=dict)
    further: int = 0

    def add(self, call: AllowedCall) -> None:
        found = self.classes.get(call.group)
        if found is None:
            if len(self.classes) >= MAX_CLASSES:
                self.further += 1
                return
            found = self.classes[call.group] = ClassRuns(self.fixed.get(call.group))
        found.add(call)
