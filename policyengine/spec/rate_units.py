"""The units of rates: whole numbers, chosen so that no store rounds."""

from __future__ import annotations

from datetime import timedelta

from policyengine import kernel as k
from policyengine.clock import MICROSECOND
from policyengine.runtime.limits import MAX_UNITS, RateUnit, rate_unit
from policyengine.vocabulary import CLUSTER_ID


def to_microseconds(span: timedelta) -> int:
    return span // MICROSECOND


def unit_of_rate(rate: k.Rate) -> RateUnit:
    """Return the unit in which all paces of a rate are whole numbers."""
    others = [one.at_most for one in rate.raises] + [one.pace for one in rate.clamps] + floors_of(rate)
    paces = [(one.count, to_microseconds(one.within)) for one in others]
    assert rate.pace is not None
    if isinstance(rate.pace, k.PaceByFact) or rate.raises:  # a raised pace has another count in the same window
        return rate_unit(tuple(paces), (to_microseconds(rate.pace.within),))
    return rate_unit((*paces, (rate.pace.count, to_microseconds(rate.pace.within))))


def floors_of(rate: k.Rate) -> list[k.Pace]:
    """Return the floor of a rate that counts by groups of callers; elsewhere, a floor has no effect."""
    return [rate.floor] if rate.floor is not None and counts_by_groups(rate) else []


def counts_by_groups(limit: k.Limit) -> bool:
    """Return whether `cluster.id` is in the key of a limit."""
    return any(isinstance(node, k.Fact) and node.path == CLUSTER_ID for key in limit.keys for node in k.walk(key))


def is_countable(rate: k.Rate) -> bool:
    """Return whether stores can represent the largest bucket exactly."""
    found = unit_of_rate(rate)
    counts = [rate.pace.count, rate.pace.burst] if isinstance(rate.pace, k.Pace) else [1]
    counts += [one.at_most.count for one in rate.raises] + [one.pace.count for one in rate.clamps]
    counts += [one.count for one in floors_of(rate)]
    return max(counts) * found.token <= MAX_UNITS and found.flow(1, found.tick, 1).drain * max(counts) <= MAX_UNITS
