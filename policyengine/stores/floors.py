"""Chooses what a member of a group is charged: its own part of a rate, or the part that the group shares."""

from __future__ import annotations

from typing import Final

from msgspec import structs

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import LimitCharge, LimitState
from policyengine.stores.base import Store

NEVER: Final = 2**62  # microseconds


def has_parts(effects: Effects) -> bool:
    """Return whether a rate has two parts, of which only one is charged. The parts of a rate exist for members of a
    group, if the rate has a floor."""
    for limit in effects.limits:  # noqa: SIM110  # a generator takes longer
        if limit.own is not None:
            return True
    return False


def choose_parts(store: Store, effects: Effects, decision: str, now: int) -> Effects:
    """Return the effects with one part of each rate that has a floor: the own part of the caller if it has room, or
    else the shared part. Raises StoreError.

    No other caller charges the own part, so the choice cannot cost the caller its floor, whatever other members do
    between the choice and the commit.
    """
    divided = [one for one in effects.limits if one.own is not None]
    if not divided:
        return effects
    if effects.denied:
        return structs.replace(effects, limits=tuple(one.own or one for one in effects.limits))
    parts = tuple(part for one in divided for part in (one.own, one) if part is not None)
    found = store.commit(Effects(limits=parts, confirms=effects.confirms), decision, now, peek=True)
    if found is None or found.failed is not None:
        return structs.replace(effects, limits=tuple(one.own or one for one in effects.limits))
    states = iter(zip(found.standings[::2], found.standings[1::2], strict=True))
    chosen = [choose_part(one, *next(states)) if one.own else one for one in effects.limits]
    return structs.replace(effects, limits=tuple(chosen))


def choose_part(limit: LimitCharge, own: LimitState, shared: LimitState) -> LimitCharge:
    """Return the part that admits the request, or else the part that will admit it first."""
    assert limit.own is not None
    if own.admitted or (not shared.admitted and wait_of(own) <= wait_of(shared)):
        return limit.own
    return limit._replace(own=None)


def wait_of(state: LimitState) -> int:
    return NEVER if state.retry is None else state.retry
