"""Compares pairs of callers exactly: how many runs they have in common, at the same time and at shifted times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from policyengine.behavior.lockstep.bounds import (
    LAGS,
    LEAST_COMMON,
    LEAST_SHARE,
    MAX_EXPLAINED,
    MAX_LOOKUPS,
    MINUTE,
    PERIODS,
)
from policyengine.behavior.lockstep.candidates import CandidatePairs
from policyengine.behavior.lockstep.ordered_events import Numbers, OrderedEvents, is_new

PART: Final = 1_000_000  # events that are compared together
TIME_BITS, BASE = 35, 2**33  # a time with a shift, in milliseconds, plus BASE is not negative and has TIME_BITS
HIGH, LOW = np.uint64(32), np.uint64(2**32 - 1)


class PairColumns(NamedTuple):
    """Pairs with enough common runs, in columns of equal length.

    `common` are the common runs without those that a period explains, and `expected` is the number expected by chance.
    `lag` is the median time from a request of the first caller to that of the second, and `confirmed` the time of the
    common run with which there were LEAST_COMMON.
    """

    first: Numbers
    second: Numbers
    common: Numbers
    expected: Numbers
    lag: Numbers
    confirmed: Numbers


class Lookups(NamedTuple):
    """Events of the first callers of some pairs. Each has the number of its pair and the number of the uses of its
    bigram by the second caller."""

    pairs: Numbers
    events: Numbers
    uses: Numbers


class SharedRequests(NamedTuple):
    """Requests of the first callers, by the indexes of their lookups, with the requests of the second callers."""

    lookups: Numbers
    others: Numbers


class PairComparison:
    """Compares pairs. Reads only the events of the callers that are `involved` in a pair."""

    def __init__(self, events: OrderedEvents, involved: Numbers) -> None:
        callers = np.zeros(len(events.runs_of), bool)
        callers[involved] = True
        rows = np.flatnonzero(callers[events.callers])
        words = (events.callers[rows].astype(np.uint64) << HIGH) | events.bigrams[rows]
        order = np.lexsort((events.times[rows], words))
        rows, words = rows[order], words[order]
        starts = np.flatnonzero(is_new(words))
        self._words = words[starts]  # a use: a caller and a bigram
        self._starts, self._lengths = starts, np.diff(starts, append=len(words))
        self._times, self._runs = events.times[rows].astype(np.int64), events.runs[rows].astype(np.uint64)
        numbers = np.repeat(np.arange(len(starts)), self._lengths)
        self._keys = (numbers << TIME_BITS) + self._times + BASE
        known = np.arange(len(events.runs_of) + 1).astype(np.uint64) << HIGH
        self._uses_of = np.searchsorted(self._words, known)
        self._sizes = np.append(0, np.cumsum(self._lengths))[self._uses_of]  # events before each caller
        self._run_starts, self._runs_of = events.run_starts.astype(np.int64), events.runs_of

    def compare(self, candidates: CandidatePairs, slot: int) -> tuple[PairColumns, int]:
        """Return the pairs with enough common runs. Also return the number of pairs that were not compared because
        MAX_LOOKUPS events had already been compared. Callers with few events are compared first: busy callers cannot
        use up the work for others."""
        swap = self._events_of(candidates.first) > self._events_of(candidates.second)
        first = np.where(swap, candidates.second, candidates.first)
        second = np.where(swap, candidates.first, candidates.second)
        order = np.argsort(self._events_of(first), kind="stable")
        first, second = first[order], second[order]
        work = np.cumsum(self._events_of(first))
        enough = int(np.searchsorted(work, MAX_LOOKUPS, side="right"))
        found = [
            self._compare_part(first[start:end], second[start:end], slot // 2) for start, end in parts(work[:enough])
        ]
        columns = (
            [np.concatenate(column) for column in zip(*found, strict=True)] if found else [np.zeros(0, np.int64)] * 6
        )
        return PairColumns(*columns), len(first) - enough

    def _events_of(self, callers: Numbers) -> Numbers:
        counts: Numbers = self._sizes[callers + 1] - self._sizes[callers]
        return counts

    def _compare_part(self, first: Numbers, second: Numbers, within: int) -> PairColumns:
        lookups = self._lookups(first, second)
        found = self._find_shared(lookups, 0, within)
        common = self._count_common_runs(lookups, found, len(first))
        least = LEAST_SHARE * np.maximum(self._runs_of[first], self._runs_of[second])
        likely = np.flatnonzero((common >= LEAST_COMMON) & (common >= least))
        lookups, found = select_pairs(lookups, found, likely)
        first, second, common, least = first[likely], second[likely], common[likely], least[likely]
        period = self._period(lookups, found, len(first), 2 * within)
        explained = np.zeros(len(first), np.int64)
        for shift in (*(np.full(len(first), one) for one in PERIODS), period, -period):
            explained = np.maximum(explained, self._count_common_runs_at(lookups, shift, within, len(first)))
        real = common - explained
        sure = np.flatnonzero((explained <= MAX_EXPLAINED * common) & (real >= LEAST_COMMON) & (real >= least))
        lookups, found = select_pairs(lookups, found, sure)
        chance = np.ones(len(sure))
        for lag in LAGS:
            chance += self._count_common_runs_at(lookups, np.full(len(sure), lag), within, len(sure))
        lags, confirmed = self._lags(lookups, found, len(sure)), self._find_confirmations(lookups, found, len(sure))
        return PairColumns(first[sure], second[sure], real[sure], chance / len(LAGS), lags, confirmed)

    def _lookups(self, first: Numbers, second: Numbers) -> Lookups:
        """Return the events of the first callers whose bigrams the second callers use."""
        counts = self._uses_of[first + 1] - self._uses_of[first]
        pairs, uses = np.repeat(np.arange(len(first)), counts), ranges(self._uses_of[first], counts)
        words = (second[pairs].astype(np.uint64) << HIGH) | (self._words[uses] & LOW)
        places = np.minimum(np.searchsorted(self._words, words), len(self._words) - 1)
        same = self._words[places] == words
        pairs, uses, places = pairs[same], uses[same], places[same]
        counts = self._lengths[uses]
        return Lookups(np.repeat(pairs, counts), ranges(self._starts[uses], counts), np.repeat(places, counts))

    def _find_shared(self, lookups: Lookups, shift: int | Numbers, within: int) -> SharedRequests:
        """Return the requests for which the other caller has a request at the shifted time."""
        least = (lookups.uses << TIME_BITS) + self._times[lookups.events] + (shift + (BASE - within))
        places = np.searchsorted(self._keys, least)
        shared = self._keys[np.minimum(places, len(self._keys) - 1)] <= least + 2 * within
        shared &= places < len(self._keys)
        rows = np.flatnonzero(shared)
        return SharedRequests(rows, places[rows])

    def _count_common_runs_at(self, lookups: Lookups, shifts: Numbers, within: int, count: int) -> Numbers:
        """Return the number of common runs of each pair at its shift; 0 if the shift is 0."""
        found = self._find_shared(lookups, shifts[lookups.pairs], within)
        return np.where(shifts == 0, 0, self._count_common_runs(lookups, found, count))

    def _count_common_runs(self, lookups: Lookups, found: SharedRequests, count: int) -> Numbers:
        """Return the number of common runs of each pair: the smallest of the numbers of runs of the first caller, of
        runs of the second caller, and of minutes."""
        pairs, events = lookups.pairs[found.lookups], lookups.events[found.lookups]
        values = self._runs[events], self._runs[found.others], self._times[events] // MINUTE
        counts = [np.bincount(distinct(pairs, value)[0], minlength=count) for value in values]
        return np.minimum(np.minimum(counts[0], counts[1]), counts[2])

    def _period(self, lookups: Lookups, found: SharedRequests, count: int, least: int) -> Numbers:
        """Return the median time between the common runs of each pair, or a multiple of it that is at least twice as
        long as a slot; 0 for a pair with fewer than two common runs."""
        pairs, runs = distinct(lookups.pairs[found.lookups], self._runs[lookups.events[found.lookups]])
        order = np.lexsort((self._run_starts[runs], pairs))
        pairs, times = pairs[order], self._run_starts[runs[order]]
        gaps, same = np.diff(times), ~is_new(pairs)[1:]
        period = medians(pairs[1:][same], gaps[same], count)
        times_least = np.where(period > 0, -(-2 * least // np.maximum(period, 1)), 0)
        return np.where(period < 2 * least, period * times_least, period)

    def _lags(self, lookups: Lookups, found: SharedRequests, count: int) -> Numbers:
        pairs, events = lookups.pairs[found.lookups], lookups.events[found.lookups]
        return medians(pairs, self._times[found.others] - self._times[events], count)

    def _find_confirmations(self, lookups: Lookups, found: SharedRequests, count: int) -> Numbers:
        """Return the time of the LEAST_COMMON-th common minute of each pair. Every pair must have at least LEAST_COMMON
        common minutes."""
        minutes = self._times[lookups.events[found.lookups]] // MINUTE
        pairs, minutes = distinct(lookups.pairs[found.lookups], minutes)
        starts = np.searchsorted(pairs, np.arange(count))
        return (minutes[starts + LEAST_COMMON - 1] if count else minutes) * MINUTE


def parts(work: Numbers) -> Iterator[tuple[int, int]]:
    """Yield ranges of pairs with about PART events each. `work` is the sum of the events up to and including each
    pair."""
    start = 0
    while start < len(work):
        before = int(work[start - 1]) if start else 0
        end = max(int(np.searchsorted(work, before + PART, side="right")), start + 1)
        yield start, end
        start = end


def ranges(starts: Numbers, lengths: Numbers) -> Numbers:
    """Return the numbers of several ranges, one after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: Numbers = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return numbers


def distinct(pairs: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """Return the distinct values of each pair, ordered by pair and value."""
    words = np.unique((pairs.astype(np.uint64) << HIGH) | values.astype(np.uint64))
    return (words >> HIGH).astype(np.int64), (words & LOW).astype(np.int64)


def medians(pairs: Numbers, values: Numbers, count: int) -> Numbers:
    """Return the lower median of the values of each pair; 0 without a value."""
    order = np.lexsort((values, pairs))
    values, counts = values[order], np.bincount(pairs, minlength=count)
    middle = np.cumsum(counts) - counts + (counts - 1) // 2
    if not len(values):
        return np.zeros(count, np.int64)
    return np.where(counts > 0, values[np.clip(middle, 0, len(values) - 1)], 0)


def select_pairs(lookups: Lookups, found: SharedRequests, pairs: Numbers) -> tuple[Lookups, SharedRequests]:
    """Return the lookups and the shared requests of some pairs, which are numbered again."""
    size = int(lookups.pairs.max()) + 1 if len(lookups.pairs) else 0
    numbers = np.full(max(size, int(pairs.max()) + 1 if len(pairs) else 0), -1)
    numbers[pairs] = np.arange(len(pairs))
    places = numbers[lookups.pairs]
    selected = places >= 0
    rows = np.cumsum(selected) - 1
    shared = selected[found.lookups]
    return (
        Lookups(places[selected], lookups.events[selected], lookups.uses[selected]),
        SharedRequests(rows[found.lookups[shared]], found.others[shared]),
    )
