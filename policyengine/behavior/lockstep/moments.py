"""Finds the times at which the members of each group moved together. Needs numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from policyengine.behavior.lockstep.bounds import MAX_MOMENTS, MINUTE
from policyengine.behavior.lockstep.ordered_events import OrderedEvents, is_new

MemberTimes: TypeAlias = list[tuple[int, int]]  # numbers of callers, with times in milliseconds since the start


class GroupMoments(NamedTuple):
    """The number of common minutes of a group, the first and the last of them in milliseconds since the start of the
    window, and moments in different minutes: those with the most members, by time."""

    minutes: int
    first: int
    last: int
    moments: list[MemberTimes]


def find_moments(
    events: OrderedEvents, groups: Sequence[Sequence[int]], slots: Sequence[int], most: int = MAX_MOMENTS
) -> list[GroupMoments]:
    """Return the common minutes of each group, and at most `most` moments."""
    if not groups:
        return []
    numbers = np.full(len(events.runs_of), -1)
    for place, members in enumerate(groups):
        numbers[list(members)] = place
    rows = np.flatnonzero(numbers[events.callers] >= 0)
    group, caller = numbers[events.callers[rows]], events.callers[rows]
    bigram, time = events.bigrams[rows], events.times[rows]
    slot = time // np.asarray(slots)[group]
    order = np.lexsort((time, caller, bigram, slot, group))
    group, caller, bigram, time, slot = group[order], caller[order], bigram[order], time[order], slot[order]
    token = is_new(group) | is_new(slot) | is_new(bigram)
    entry = token | is_new(caller)
    group, caller, time, token = group[entry], caller[entry], time[entry], token[entry]
    starts = np.flatnonzero(token)
    counts = np.diff(starts, append=len(group))
    minutes = time[starts] // MINUTE
    order = np.lexsort((starts, -counts, minutes, group[starts]))
    best = order[is_new(group[starts][order]) | is_new(minutes[order])]
    best = best[counts[best] > 1]
    places = np.searchsorted(group[starts][best], np.arange(len(groups) + 1)).tolist()
    times = (minutes[best].astype(np.int64) * MINUTE).tolist()
    best = best[np.lexsort((minutes[best], -counts[best], group[starts][best]))]
    first = np.flatnonzero(is_new(group[starts][best]))
    ranks = np.arange(len(best)) - np.repeat(first, np.diff(first, append=len(best)))
    chosen = np.sort(best[ranks < most])
    found: list[list[MemberTimes]] = [[] for _ in groups]
    for start, count in zip(starts[chosen].tolist(), counts[chosen].tolist(), strict=True):
        part = slice(start, start + count)
        found[int(group[start])].append(list(zip(caller[part].tolist(), time[part].tolist(), strict=True)))
    return [
        GroupMoments(end - begin, times[begin] if begin < end else 0, times[end - 1] if begin < end else 0, moments)
        for (begin, end), moments in zip(pairwise(places), found, strict=True)
    ]
