"""Counters of the server, in memory that all workers share; each worker writes its own regions.

A worker writes two regions: one from its event loop, without a lock, and one from its threads. Counters are stored in a
region behind their key. A scrape adds up all regions. The regions of a worker outlive it, and its replacement continues
with them, so that no counter ever decreases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import count as counting
from itertools import cycle, repeat
from mmap import mmap
from operator import add
from threading import Lock
from time import perf_counter_ns, time
from typing import Generic, TypeAlias, TypeVar

import msgspec

from policyengine.runtime.decision import Answer, Outcome

CounterKey: TypeAlias = tuple[str, ...]
# An answer, and its start (`perf_counter_ns`); 0 if it is not timed.
CountFunction: TypeAlias = Callable[[Answer, int], None]
TimingTurns: TypeAlias = Iterator[int]  # whether to time the next decision
CellValues: TypeAlias = Iterator[int]  # yields the next value of a cell
AnswerCells: TypeAlias = tuple[
    int, CellValues, tuple[tuple[int, CellValues], ...]
]  # the cells of a decision, and those of its rules
Places = TypeVar("Places")

CELL_BYTES = 8  # bytes per cell
REGION_BYTES = 512 * 1024  # bytes of a region; untouched pages take no memory
# Bytes of a region that are reserved for decisions: adapters, outcomes and gates are few, and always have room.
RESERVED_BYTES = 192 * 1024
HEAD = 2  # cells before a key: the length of the key in bytes, and the number of cells behind it
# The first bound of latencies is 2**10 nanoseconds, and each further bound is twice the previous one.
MIN_LATENCY_BITS = 10
BOUNDS = 24  # number of exported bounds
SLOTS = 64 - MIN_LATENCY_BITS  # enough for every value of the clock
SUM = 1 + SLOTS  # after the count and the slots: the total in nanoseconds
# One in this many decisions is timed, because reading the clock takes as long as the rest of the counting.
TIMING_INTERVAL = 16
MAX_RULES = 200  # maximum rules with counters of their own
MAX_CACHED_ANSWERS = 4_096  # maximum answers whose cells are cached
OTHER = "other"
UNKNOWN_STATUS = "unknown"  # the class of a status that was not reported
MAX_LATENCY_MS = 3_600_000  # a longer latency is counted as this latency, one hour
NANOSECONDS_PER_MILLISECOND = 1_000_000
CELL_LIMIT = 1 << 8 * CELL_BYTES
MAX_MERGED_KEYS = frozenset(
    {"reloads", "reloads_widened", "reload_refusals", "clock_skew", "sink_lag", "unsealed", "halts", "webhook_waiting"}
    | {"behavior_model_age", "behavior_model_number", "behavior_callers", "behavior_damaged", "behavior_ready"}
)

encode_key, decode_key = msgspec.json.encode, msgspec.json.Decoder(CounterKey).decode


class CounterRegion:
    """Keys, each followed by its cells of 64 bits. A region has one writer and many readers; readers ignore a key until
    it is complete.
    """

    def __init__(self, memory: memoryview) -> None:
        self._bytes, self.numbers = memory, memory.cast("Q")
        self._places = {key: first for key, first, _ in self.entries()}
        self._values: dict[int, CellValues] = {}

    def cells(self, key: CounterKey, many: int = 1) -> int | None:
        """Return the first cell of the key, or None if there is no room for a new key."""
        found = self._places.get(key)
        return self._begun(key, many) if found is None else found

    def _begun(self, key: CounterKey, many: int) -> int | None:
        written = encode_key(key)
        start = self.numbers[0] or 1
        first = start + HEAD + -(-len(written) // CELL_BYTES)
        if first + many > len(self.numbers) - (RESERVED_BYTES // CELL_BYTES if many == 1 else 0):
            return None
        self.numbers[start], self.numbers[start + 1] = len(written), many
        at = (start + HEAD) * CELL_BYTES
        self._bytes[at : at + len(written)] = written
        for cell in range(first, first + many):
            self.numbers[cell] = 0  # a killed worker may have left a value
        self.numbers[0] = first + many
        self._places[key] = first
        return first

    def values(self, cell: int) -> CellValues:
        """Return an iterator of the next values of a cell with a single writer, which is faster than reading and
        adding."""
        return self._values.setdefault(cell, counting(self.numbers[cell] + 1))

    def entries(self) -> Iterator[tuple[CounterKey, int, int]]:
        """Yield each key, its first cell and the number of its cells."""
        at, end = 1, self.numbers[0]
        while at < end:
            length, many = self.numbers[at], self.numbers[at + 1]
            text = (at + HEAD) * CELL_BYTES
            first = at + HEAD + -(-length // CELL_BYTES)
            yield decode_key(self._bytes[text : text + length]), first, many
            at = first + many

    def read(self) -> Iterator[tuple[CounterKey, list[int]]]:
        for key, first, many in self.entries():
            yield key, self.numbers[first : first + many].tolist()


class AnswerCellCache(Generic[Places]):
    """Caches the cells of answers, by the `id` of each answer. Cached answers are kept alive, so their ids
    stay unique.
    """

    def __init__(self) -> None:
        self.places: dict[int, Places] = {}  # a plain dict, because every decision looks into it
        self._kept: list[Answer] = []

    def keep(self, answer: Answer, places: Places) -> Places:
        if len(self._kept) >= MAX_CACHED_ANSWERS:
            self.clear()
        self.places[id(answer)] = places
        self._kept.append(answer)
        return places

    def clear(self) -> None:
        self.places.clear()
        self._kept.clear()


def time_always() -> TimingTurns:
    return repeat(1)


def time_sampled() -> TimingTurns:
    """Return an iterator that says whether to time the next decision: the first decision, and then one in
    TIMING_INTERVAL."""
    return cycle((1,) + (0,) * (TIMING_INTERVAL - 1))


class ServerCounters:
    """The counters of one worker, and the sum over all workers.

    `rules` holds the names of the rules that are counted separately, at most MAX_RULES. The object is created before
    the workers are forked; each worker then takes its place.
    """

    def __init__(self, workers: int = 1, rules: Iterable[str] = (), clock: Callable[[], int] = perf_counter_ns) -> None:
        self._clock = clock
        memory = memoryview(mmap(-1, REGION_BYTES * 2 * workers))
        self._parts = [memory[at : at + REGION_BYTES] for at in range(0, REGION_BYTES * 2 * workers, REGION_BYTES)]
        self._lock = Lock()
        self._told: dict[CounterKey, tuple[object, int]] = {}
        self._known: list[AnswerCellCache[AnswerCells]] = []
        self._apart: dict[str, AnswerCellCache[tuple[int, tuple[int, ...]]]] = {}
        self.rules: set[str] = set()
        self.engine: object = None  # the engine whose rules are counted separately
        self.began = time()
        self.learn(rules)
        self.take(0)

    def learn(self, rules: Iterable[str]) -> None:
        """Add the rules of new policies; earlier rules keep their counters."""
        for rule in rules:
            if len(self.rules) < MAX_RULES:
                self.rules.add(rule)
        self._forget()

    def take(self, place: int) -> None:
        """Write the counters of the worker at this place from now on; no other process writes them."""
        self.loop, self.threads = CounterRegion(self._parts[2 * place]), CounterRegion(self._parts[2 * place + 1])
        self._told.clear()
        self._forget()

    def _forget(self) -> None:
        """Clear the caches; called from the event loop, or before it runs."""
        for known in self._known:
            known.clear()
        with self._lock:
            for apart in self._apart.values():
                apart.clear()

    # ── Counting ──────────────────────────────────────────────────────────────────────────────

    def counter(self, door: str) -> CountFunction:
        """Return a function that counts answers of an adapter; call it from the event loop only. Every decision waits
        for this function, so it must be fast. It updates shared memory before it returns, so no count is lost.
        """
        region, clock = self.loop, self._clock
        known: AnswerCellCache[AnswerCells] = AnswerCellCache()
        self._known.append(known)
        numbers, places, first_bits, total = region.numbers, known.places, MIN_LATENCY_BITS, SUM

        def learn(answer: Answer) -> AnswerCells:
            base, rules = self._cells(region, door, answer)
            return known.keep(answer, (base, region.values(base), tuple((one, region.values(one)) for one in rules)))

        def count(answer: Answer, began: int) -> None:
            try:
                base, values, rules = places[id(answer)]
            except KeyError:
                base, values, rules = learn(answer)
            numbers[base] = next(values)
            if rules:
                for cell, following in rules:
                    numbers[cell] = next(following)
            if began:
                took = clock() - began
                numbers[base + 1 + (took >> first_bits).bit_length()] += 1
                numbers[base + total] += took

        return count

    def apart(self, door: str) -> CountFunction:
        """Return a function that counts answers of an adapter, from any thread."""
        lock, known = self._lock, self._apart.setdefault(door, AnswerCellCache())

        def count(answer: Answer, began: int) -> None:
            with lock:
                region = self.threads
                base, rules = known.places.get(id(answer)) or known.keep(answer, self._cells(region, door, answer))
                region.numbers[base] += 1
                if began:
                    took = self._clock() - began
                    region.numbers[base + 1 + (took >> MIN_LATENCY_BITS).bit_length()] += 1
                    region.numbers[base + SUM] += took
                for cell in rules:
                    region.numbers[cell] += 1

        return count

    def _cells(self, region: CounterRegion, door: str, answer: Answer) -> tuple[int, tuple[int, ...]]:
        """Return the cells of an answer and of its rules, if there is room for them."""
        key = ("decisions", door, answer.outcome.value, answer.gate.value if answer.gate else "")
        base = region.cells(key, SUM + 1)
        assert base is not None
        named = {(self.told(one.rule), one.outcome.value) for one in answer.reasons if one.rule is not None}
        keys: list[CounterKey] = [("rules", *one) for one in sorted(named)]
        if answer.would_be not in (None, answer.outcome):
            keys.append(("would_be", str(answer.would_be)))
        found = [region.cells(one) for one in keys]
        return base, tuple(one for one in found if one is not None)

    def told(self, rule: str) -> str:
        return rule if rule in self.rules else OTHER

    def denied(self, door: str, gate: str) -> None:
        """Count a denial that no engine made, without a duration. Thread-safe."""
        with self._lock:
            base = self.threads.cells(("decisions", door, Outcome.DENY.value, gate), SUM + 1)
            if base is not None:
                self.threads.numbers[base] += 1

    def outcome(self, status: int | None, latency_ms: Decimal | float | None) -> None:
        """Count the reported outcome of a request, and its latency if it was reported. Thread-safe."""
        group = UNKNOWN_STATUS if status is None else f"{status // 100}xx"
        with self._lock:
            base, numbers = self.threads.cells(("outcomes", group), SUM + 1), self.threads.numbers
            if base is None:
                return
            numbers[base] += 1
            if latency_ms is not None:
                took = round(min(latency_ms, MAX_LATENCY_MS) * NANOSECONDS_PER_MILLISECOND)
                numbers[base + 1 + (took >> MIN_LATENCY_BITS).bit_length()] += 1
                # Callers choose the value that they report.
                numbers[base + SUM] = (numbers[base + SUM] + took) % CELL_LIMIT

    def add(self, *key: str, by: int = 1) -> None:
        """Increase a counter. Thread-safe."""
        with self._lock:
            cell = self.threads.cells(key)
            if cell is not None:
                self.threads.numbers[cell] += by

    def reached(self, *key: str, count: int, of: object = None) -> None:
        """Add the increase of a running count since the last call. `of` is the object that keeps the count; the count
        of another object starts at 0.
        """
        whose, told = self._told.get(key, (of, 0))
        new = count - (told if whose is of else 0)
        if new > 0:
            self.add(*key, by=new)
        self._told[key] = of, max(count, 0)

    def now(self, *key: str, value: int) -> None:
        """Set a gauge of this worker."""
        with self._lock:
            cell = self.threads.cells(key)
            if cell is not None:
                self.threads.numbers[cell] = value

    def labels(self, word: str) -> list[str]:
        """Return the labels of this worker's counters and gauges whose keys begin with `word`."""
        with self._lock:
            return [key[1] for key, _, _ in self.threads.entries() if key[0] == word and len(key) > 1]

    def only(self, *key: str) -> None:
        """Set the gauge of this key to 1, and all others of this worker with the same first word to 0."""
        with self._lock:
            for one, first, _ in self.threads.entries():
                if one[0] == key[0]:
                    self.threads.numbers[first] = 0
        self.now(*key, value=1)

    # ── Totals ────────────────────────────────────────────────────────────────────────────────

    def total(self) -> dict[CounterKey, Sequence[int]]:
        """Return the value of each key over all workers: the sum or, for values that each worker reports on behalf of
        all workers, the maximum.
        """
        found: dict[CounterKey, Sequence[int]] = {}
        for part in self._parts:
            for key, numbers in CounterRegion(part).read():
                known = found.get(key, [0] * len(numbers))
                merge = max if key[0] in MAX_MERGED_KEYS else add
                found[key] = list(map(merge, known, numbers))
        return found
