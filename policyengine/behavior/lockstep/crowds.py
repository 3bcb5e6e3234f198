"""Finds crowds: many callers that start the same run in the same minute, as after an event that many await.

The runs of a crowd are no evidence of a common owner. Crowds that meet several times at irregular times are reported.
Needs numpy.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from policyengine.behavior.lockstep.bounds import (
    CROWD_DEVIATIONS,
    CROWD_MINUTES,
    LEAST_COMMON,
    LEAST_SHARE,
    MAX_CROWD_MEMBERS,
    MAX_CROWDS,
    MAX_EXPLAINED,
    MAX_TOKEN_CALLERS,
    MINUTE,
)
from policyengine.behavior.lockstep.ordered_events import Numbers, OrderedEvents, is_new
from policyengine.behavior.row import HOUR

HIGH = np.uint64(32)
PRIME = np.uint64(0x9E3779B97F4A7C15)


class CrowdMembers(NamedTuple):
    """The numbers of the callers of a crowd, at most MAX_CROWD_MEMBERS, how many there are, and the times of the crowd
    in milliseconds since the start of the window."""

    callers: tuple[int, ...]
    size: int
    times: tuple[int, ...]


def crowd_runs(events: OrderedEvents) -> Numbers:
    """Return for each run whether it is in a crowd. Runs are the same if they start with the same two bigrams."""
    found = np.zeros(len(events.run_starts), bool)
    begins = beginnings(events)
    for offset in (0, MINUTE // 2):
        minutes = (events.run_starts + np.uint32(offset)) // np.uint32(MINUTE)
        found |= are_crowded(begins, minutes + np.uint32(CROWD_MINUTES), events.run_callers)
    return found


def regular_crowds(events: OrderedEvents, crowded: Numbers) -> list[CrowdMembers]:
    """Return the crowds whose members meet again and again, at most MAX_CROWDS: those with the most members first.
    Crowds that repeat after an hour are left out: they follow a schedule. `crowded` is the result of `crowd_runs`; call
    this before the runs are left out of the events."""
    begins = beginnings(events)[crowded]
    order = np.argsort(begins, kind="stable")
    callers, starts = events.run_callers[crowded][order].astype(np.int64), events.run_starts[crowded][order]
    borders = np.append(np.flatnonzero(is_new(begins[order])), len(order)).tolist()
    found = []
    for first, last in pairwise(borders):
        times = crowd_times(starts[first:last])
        members, counts = np.unique(callers[first:last], return_counts=True)
        least = np.maximum(max(LEAST_COMMON, len(times) / 2), LEAST_SHARE * events.runs_of[members])
        members = members[counts >= least]
        if len(members) > MAX_TOKEN_CALLERS and not is_scheduled(times):
            numbers = tuple(members[:MAX_CROWD_MEMBERS].tolist())
            found.append(CrowdMembers(numbers, len(members), tuple(times.tolist())))
    return sorted(found, key=lambda crowd: (-crowd.size, crowd.callers))[:MAX_CROWDS]


def crowd_times(starts: Numbers) -> Numbers:
    """Return the first start of each crowd: starts that follow another within a minute belong to the same crowd."""
    ordered = np.sort(starts).astype(np.int64)
    return ordered[np.diff(ordered, prepend=-2 * MINUTE) > MINUTE]


def is_scheduled(times: Numbers) -> bool:
    """Return whether most of the times repeat after an hour."""
    places = np.minimum(np.searchsorted(times, times + HOUR - MINUTE), len(times) - 1)
    repeated = np.abs(times[places] - times - HOUR) <= MINUTE
    return bool(repeated.sum() > MAX_EXPLAINED * len(times))


def beginnings(events: OrderedEvents) -> Numbers:
    """Return a 32-bit hash of the first two bigrams of each run."""
    first = np.flatnonzero(is_new(events.runs))
    last = np.append(first[1:], len(events)) - 1
    second = events.bigrams[np.minimum(first + 1, last)]
    hashed: Numbers = ((events.bigrams[first] * PRIME + second) * PRIME) >> HIGH
    return hashed


def are_crowded(begins: Numbers, minutes: Numbers, callers: Numbers) -> Numbers:
    """Return for each run whether many more callers start it in its minute than in the minutes around it."""
    words = (begins << HIGH) | minutes
    order = np.lexsort((callers, words))
    words, callers = words[order], callers[order]
    starts = np.flatnonzero(is_new(words))
    sizes = np.add.reduceat(is_new(words) | is_new(callers), starts, dtype=np.int64) if len(starts) else starts
    large = sizes > MAX_TOKEN_CALLERS
    around = runs_between(words, words[starts], CROWD_MINUTES) - runs_between(words, words[starts], 1)
    usual = around / (2 * CROWD_MINUTES - 2)
    large &= sizes - usual > MAX_TOKEN_CALLERS + CROWD_DEVIATIONS * np.sqrt(usual)
    found = np.empty(len(words), bool)
    found[order] = np.repeat(large, np.diff(starts, append=len(words)))
    return found


def runs_between(words: Numbers, centers: Numbers, minutes: int) -> Numbers:
    """Return for each center how many of the sorted words are at most `minutes` before or after it. A word holds the
    beginning of a run and, in its low bits, the minute in which the run starts.
    """
    span = np.uint64(minutes)
    return np.searchsorted(words, centers + span, side="right") - np.searchsorted(words, centers - span)
