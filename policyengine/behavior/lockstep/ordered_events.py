"""Orders events by caller, run and time, separates runs, and computes the bigrams of endpoints."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policyengine.behavior.lockstep.bounds import (
    MAX_CALLER_EVENTS,
    MAX_RUN_EVENTS,
    MAX_RUN_TIME,
    MINUTE,
    RUN_PAUSE,
)
from policyengine.behavior.lockstep.columns import EventColumns

Numbers: TypeAlias = NDArray[Any]
BEFORE_RUN: Final = np.uint64(2**32)  # stands for the endpoint before the first one of a run
MULTIPLIER, MIXER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


class OrderedEvents:
    """Events ordered by caller, run and time, with columns of equal length: `callers`, `times`, `runs` and `bigrams`.
    Runs are numbered; `run_starts` and `run_callers` have the start and the caller of each run. `runs_of` and
    `minutes_of` have the numbers of runs and of active minutes of each caller, and `minutes` is the number of minutes
    with events."""

    def __init__(self, columns: EventColumns) -> None:
        callers, times, endpoints, tags = map(as_numbers, columns_of(columns))
        keys = (callers.astype(np.uint64) << np.uint64(32)) | tags
        order = np.lexsort(((times.astype(np.uint64) << np.uint64(32)) | endpoints, keys))
        keys, self.times, self.callers = keys[order], times[order], callers[order]
        endpoints = endpoints[order]
        del order, callers, times, tags
        begins = is_new(keys)
        begins[1:] |= (self.times[1:] - self.times[:-1] > RUN_PAUSE) & ~begins[1:]
        self.bigrams = bigrams_of(endpoints, begins)
        self.runs = number_runs(begins, self.times)
        starts = is_new(self.runs)
        self.run_starts, self.run_callers = self.times[starts], self.callers[starts]
        self.runs_of = np.bincount(self.run_callers) if len(self) else np.zeros(0, np.int64)
        active = np.unique((self.callers.astype(np.uint64) << np.uint64(32)) | (self.times // MINUTE))
        self.minutes_of = np.bincount((active >> np.uint64(32)).astype(np.int64), minlength=len(self.runs_of))
        self.minutes = len(np.unique(active & np.uint64(2**32 - 1)))

    def __len__(self) -> int:
        return len(self.times)

    def leave_out(self, runs: Numbers) -> None:
        """Remove the events of the runs for which `runs` is true. The numbers of runs of callers do not change."""
        left = ~runs[self.runs]
        self.callers, self.times = self.callers[left], self.times[left]
        self.runs, self.bigrams = self.runs[left], self.bigrams[left]


def columns_of(columns: EventColumns) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return callers, times, endpoints and runs, without the events of each caller beyond MAX_CALLER_EVENTS."""
    read = (columns.callers, columns.times, columns.endpoints, columns.runs)
    callers, times, endpoints, runs = map(as_numbers, read)
    counts = np.bincount(callers) if len(callers) else np.zeros(1, np.int64)
    if counts.max() <= MAX_CALLER_EVENTS:
        return callers, times, endpoints, runs
    order = np.lexsort((endpoints, times, callers))
    ranks = np.arange(len(order)) - (np.cumsum(counts) - counts)[callers[order]]
    kept = order[ranks < MAX_CALLER_EVENTS]
    return callers[kept], times[kept], endpoints[kept], runs[kept]


def as_numbers(column: Any) -> Numbers:
    return np.asarray(column, np.uint32)


def is_new(values: Numbers) -> Numbers:
    """Return for each value whether it differs from the value before it."""
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new


def bigrams_of(endpoints: Numbers, begins: Numbers) -> Numbers:
    """Return a 32-bit hash of each endpoint and the endpoint before it in the run."""
    before = np.empty(len(endpoints), np.uint64)
    before[1:] = endpoints[:-1]
    before[begins] = BEFORE_RUN
    before *= MULTIPLIER
    before += endpoints
    before *= MIXER
    before >>= np.uint64(32)
    return before.astype(np.uint32)


def number_runs(begins: Numbers, times: Numbers) -> Numbers:
    """Return the number of the run of each event. Long runs are divided by MAX_RUN_EVENTS and MAX_RUN_TIME."""
    first = np.flatnonzero(begins)
    lengths = np.diff(first, append=len(begins))
    ranks = (np.arange(len(begins)) - np.repeat(first, lengths)) // MAX_RUN_EVENTS
    ages = (times - np.repeat(times[first], lengths)) // MAX_RUN_TIME
    return (np.cumsum(begins | is_new(ranks) | is_new(ages)) - 1).astype(np.uint32)
