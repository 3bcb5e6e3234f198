"""Computes from which time on callers are ready by their own runs. Needs numpy."""

from __future__ import annotations

from typing import Final

import numpy as np

from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.lockstep.bounds import DAY
from policyengine.behavior.lockstep.ordered_events import OrderedEvents, is_new

NEVER: Final = 2**62  # milliseconds


def ready_times(events: OrderedEvents, begin: int, count: int, settings: ProfileSettings | None = None) -> list[int]:
    """Return for each of `count` callers the time of the run with which it had enough runs on enough days, in
    milliseconds since 1970; NEVER if it did not."""
    settings = settings or ProfileSettings()
    callers, times = events.run_callers.astype(np.int64), events.run_starts.astype(np.int64) + begin
    order = np.lexsort((times, callers))
    callers, times = callers[order], times[order]
    days = is_new(callers) | is_new(times // DAY)
    ready = np.maximum(
        time_of_rank(callers, times, settings.ready_runs, count),
        time_of_rank(callers[days], times[days], settings.ready_days, count),
    )
    found: list[int] = ready.tolist()
    return found


def time_of_rank(callers: np.ndarray, times: np.ndarray, rank: int, count: int) -> np.ndarray:
    """Return the time of the entry with this rank of each caller, counted from 1."""
    sizes = np.bincount(callers, minlength=count)
    places = np.cumsum(sizes) - sizes + rank - 1
    enough = sizes >= max(rank, 1)
    found = np.full(len(sizes), NEVER)
    found[enough] = times[places[enough]]
    return found
