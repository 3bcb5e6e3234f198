"""Finds the newcomers that share limits, without the evidence that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.detection import require_numpy
from policyengine.behavior.lockstep.membership import form_groups


class LockstepPool(NamedTuple):
    """The numbers of newcomers that move as one, and the time from which there was evidence of it, in milliseconds
    since 1970."""

    members: tuple[int, ...]
    confirmed: int


def find_pools(columns: EventColumns, ready: Sequence[int]) -> tuple[LockstepPool, ...]:
    """Return the newcomers that share limits, by their numbers in `columns`. `ready` has for each caller the time since
    which it is ready, in milliseconds since 1970. Raises LockstepError without numpy."""
    require_numpy()
    from policyengine.behavior.lockstep.pair_search import search_pairs

    pairs = search_pairs(columns).pairs
    found = []
    for group in form_groups(pairs, ready, {}):
        if group.pooled:
            inside = set(group.pooled)
            times = [pair.confirmed for pair in pairs if pair.first in inside and pair.second in inside]
            found.append(LockstepPool(group.pooled, min(times)))
    return tuple(found)
