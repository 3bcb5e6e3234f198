"""Charges rates that the memory store knows already, with the results of the general step but without its objects.

Most decisions charge nothing else. `make compiled` compiles this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policyengine.runtime.limits import (
    BucketParameters,
    ChargeResult,
    LimitCharge,
    LimitState,
    RateCharge,
    TokenBucket,
    idle_latches,
)


def charge_known_rates(
    rules: dict[object, Any], limits: Sequence[LimitCharge], now: int, *, peek: bool
) -> ChargeResult | None:
    """Charge rates, and return their states. `rules` has the states of each rule by key. Return None, and change
    nothing, if a limit is no rate, has no state for its key yet, or does not admit the request."""
    found: list[LimitState] = []
    updates: list[tuple[dict[Any, Any], object, object]] = []
    for limit in limits:
        charge = limit[0]
        if type(charge) is not RateCharge:
            return None
        key, token, tick, steady = charge[1], charge[4], charge[5], charge[8]
        rule = rules.get((charge[0], token, tick, charge[3][1] if steady else None))
        if rule is None:
            return None
        states: dict[Any, Any] = rule.states
        compact = key[0] if len(key) == 1 else key
        stored = states.get(compact)
        if stored is None:
            return None
        charged = charge_steady(stored, charge, now // tick) if steady else charge_moving(stored, charge, now // tick)
        if charged is None:
            return None
        found.append(charged[0])
        updates.append((states, compact, charged[1]))
    if not peek:
        for kept, place, state in updates:
            kept[place] = state
    return ChargeResult(tuple(found), now)


def charge_steady(stored: int, charge: RateCharge, at: int) -> tuple[LimitState, object] | None:
    """Return the state of a rate of a constant pace at a tick, and what the store keeps of it; None if the rate does
    not admit the request. `stored` is the number of units that drain from tick 0 until the bucket is empty."""
    flow, token = charge[3], charge[4]
    most, drain = flow[0], flow[1]
    empty = at * drain
    after = (stored - empty if stored > empty else 0) + charge[2] * token
    if after > most * token:
        return None
    state = LimitState(True, most, (most * token - after) // token, -(-after // drain) * charge[5], 0)
    return state, empty + after


def charge_moving(bucket: TokenBucket, charge: RateCharge, at: int) -> tuple[LimitState, object] | None:
    """Return the state of a rate whose pace changes, at a tick, and its bucket; None if the rate does not admit the
    request."""
    token, latches = charge[4], bucket[3]
    level = bucket[0]
    if at > bucket[1]:
        level -= (at - bucket[1]) * bucket[2]
        if level < 0:
            level = 0
    else:
        at = bucket[1]
    flow = charge[3]
    most, drain, declared = flow[0], flow[1], flow[1]
    if charge[6] or latches:
        most, drain, latches = clamped_flow(charge, latches, at)
    after = level + charge[2] * token
    if after > most * token:
        return None
    state = LimitState(
        True, most, (most * token - after) // token, -(-after // drain) * charge[5], 0, drain / declared
    )  # fmt: skip
    return state, TokenBucket(after, at, drain, latches)


def clamped_flow(charge: RateCharge, latches: tuple[int, ...], at: int) -> tuple[int, int, tuple[int, ...]]:
    """Return the most tokens and the drain of a rate with its active clamps, and the tick at which each clamp ends."""
    clamps, flow = charge[6], charge[3]
    most, drain = flow[0], flow[1]
    idle = idle_latches(len(clamps))
    if len(latches) != len(clamps):
        latches = idle
    until: list[int] = []
    for place in range(len(clamps)):
        clamp, end = clamps[place], latches[place]
        tightest: BucketParameters = clamp[0]
        lasts = clamp[2]
        if lasts and at + lasts > end:
            end = at + lasts
        if clamp[1] or at < end:
            most, drain = min(most, tightest[0]), min(drain, tightest[1])
        until.append(end)
    return most, drain, tuple(until) if any(until) else idle
