"""What a store in this process says of plain rates of which one may have no room: in numbers, and in one look at each.

`rate_update` is quicker still where all of them have room, and says no more than that one has not; callers who are
refused come again and again, so they must not cost more than those who are let through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from policyengine.runtime.limits import CountKey, LimitState, SteadyRate

RateLevels = dict[CountKey | str, Any]


def charge_steady_rates(
    charges: Sequence[tuple[SteadyRate, CountKey | str]],
    states: Callable[[SteadyRate], RateLevels],
    room: Callable[[Sequence[RateLevels]], object],
    moment: int,
) -> tuple[LimitState, ...]:
    """How rates stand at a time (nanoseconds), each by whose count it is: one is taken of all, or nothing of any.

    `room` makes room for a new key in each. Whoever calls holds the lock of the store.
    """
    levels: list[tuple[SteadyRate, RateLevels, CountKey | str, int, int]] = []
    admitted, grown = True, []
    for meter, key in charges:
        of = states(meter)
        was, empty = of.get(key), moment // (meter.tick * 1_000) * meter.drain
        if was is None:
            grown.append(of)
        level = was - empty if was is not None and was > empty else 0
        admitted = admitted and level + meter.token <= meter.full
        levels.append((meter, of, key, level, empty))
    if not admitted:
        return tuple([meter.standing(level, level + meter.token <= meter.full) for meter, _, _, level, _ in levels])
    if grown:
        room(grown)
    for meter, of, key, level, empty in levels:
        of[key] = empty + level + meter.token
    return tuple([meter.standing(level + meter.token, True) for meter, _, _, level, _ in levels])
