"""Finds all pairs of callers that move as one. Needs numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyengine.behavior.lockstep.bounds import FALSE_SHARE, LEAST_COMMON, SLOTS
from policyengine.behavior.lockstep.candidates import find_candidates
from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.comparison import PairColumns, PairComparison
from policyengine.behavior.lockstep.crowds import CrowdMembers, crowd_runs, regular_crowds
from policyengine.behavior.lockstep.ordered_events import Numbers, OrderedEvents
from policyengine.behavior.lockstep.pair import LockstepPair
from policyengine.behavior.lockstep.significance import poisson_tail, q_values


@dataclass(frozen=True, slots=True)
class PairSearch:
    """The pairs and the crowds that were found. `left_out` counts the candidates that were not compared because there
    were too many, and `token_callers` is the maximum number of callers of the tokens that were used."""

    events: OrderedEvents
    pairs: tuple[LockstepPair, ...]
    crowds: tuple[CrowdMembers, ...]
    left_out: int
    token_callers: int


def search_pairs(columns: EventColumns) -> PairSearch:
    """Return the pairs of callers that move as one."""
    events = OrderedEvents(columns)
    crowded = crowd_runs(events)
    crowds = tuple(regular_crowds(events, crowded))
    events.leave_out(crowded)
    candidates = {slot: find_candidates(events, slot) for slot in SLOTS}
    left_out = sum(found.left_out for found in candidates.values())
    involved = [column for found in candidates.values() for column in (found.first, found.second)]
    comparison = PairComparison(events, np.unique(np.concatenate(involved)))
    compared, slots = [], []
    for slot, pairs_of_slot in candidates.items():
        columns_of_slot, missing = comparison.compare(pairs_of_slot, slot)
        left_out += missing
        compared.append(columns_of_slot)
        slots.append(np.full(len(columns_of_slot.first), slot))
    active = int(np.count_nonzero(events.runs_of >= LEAST_COMMON))
    columns_of_all = PairColumns(*map(np.concatenate, zip(*compared, strict=True)))
    pairs = significant_pairs(columns_of_all, np.concatenate(slots), active * (active - 1) // 2, columns.begin)
    token_callers = min(found.token_callers for found in candidates.values())
    return PairSearch(events, pairs, crowds, left_out, token_callers)


def significant_pairs(compared: PairColumns, slots: Numbers, tests: int, begin: int) -> tuple[LockstepPair, ...]:
    """Return the significant pairs, each with the slot in which its common runs are the least probable by chance."""
    probable = np.minimum(poisson_tail(compared.common, compared.expected) * len(SLOTS), 1.0)
    low, high = np.minimum(compared.first, compared.second), np.maximum(compared.first, compared.second)
    order = np.lexsort((slots, probable, high, low))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
    best = order[new]
    values = q_values(probable[best], max(tests, len(best)))
    sure = values <= FALSE_SHARE
    best = best[sure]
    swapped = compared.first[best] > compared.second[best]
    columns = (
        low[best], high[best], compared.common[best], compared.expected[best], values[sure], slots[best],
        np.where(swapped, -compared.lag[best], compared.lag[best]), compared.confirmed[best] + begin,
    )  # fmt: skip
    return tuple(LockstepPair(*row) for row in zip(*(column.tolist() for column in columns), strict=True))
