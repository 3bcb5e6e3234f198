"""One step of a store that keeps states elsewhere: what it must know before, what it answers, what it keeps after."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, assert_never

from policyengine.runtime.decision import OpenedApproval
from policyengine.runtime.limits import (
    Add,
    Bucket,
    Charge,
    Hold,
    Settled,
    Standing,
    Take,
    add,
    hold,
    refused,
    take,
    untouched,
)

OPEN = 86_400_000_000  # microseconds that an approval stays asked for, where its rule says no other time
KINDS = {Take: "rate", Add: "budget", Hold: "at once"}


class Kept(NamedTuple):
    """A state that is to be kept for a charge, and until when it counts for anybody: then it may be forgotten."""

    charge: Charge
    state: Any
    until: int


class Step(NamedTuple):
    settled: Settled
    kept: tuple[Kept, ...]


def step(charges: Sequence[Charge], states: Sequence[Any], now: int, decision: str, denied: bool) -> Step:
    """What is answered to the charges of a decision where they stand at `states`, and what is kept of it."""
    found = [asked(charge, state, now, decision) for charge, state in zip(charges, states, strict=True)]
    settled = Settled(tuple(standing for standing, _ in found), now)
    if settled.admitted and not denied:
        after = [
            Kept(charge, state, counts_until(charge, state)) for charge, (_, state) in zip(charges, found, strict=True)
        ]
        return Step(settled, tuple(after))
    pairs = list(zip(charges, states, strict=True))
    if not settled.admitted:
        stand = zip(pairs, settled.standings, strict=True)
        settled = Settled(
            tuple(untouched(state, one, now) if how.admitted else how for (one, state), how in stand), now
        )
    return Step(
        settled, tuple(kept_of_refused(charge, state, now) for charge, state in pairs if outlasts_refusal(charge))
    )


def asked(charge: Charge, state: Any, now: int, decision: str) -> tuple[Standing, Any]:
    match charge:
        case Take():
            return take(state, charge, now)
        case Add():
            return add(state or (), charge, now, decision)
        case Hold():
            return hold(state or (), charge, now, decision)
        case _:
            assert_never(charge)


def outlasts_refusal(charge: Charge) -> bool:
    return isinstance(charge, Take) and (charge.counts or charge.latching)


def kept_of_refused(charge: Charge, state: Bucket | None, now: int) -> Kept:
    assert isinstance(charge, Take)
    after = refused(state, charge, now)
    return Kept(charge, after, counts_until(charge, after))


def counts_until(charge: Charge, state: Any) -> int:
    """From when on (microseconds) the state says nothing that an empty one does not."""
    match charge:
        case Take():
            return int(state.full_at()) * charge.tick
        case Add():
            return state[-1].at + charge.within if state else 0
        case Hold():
            return max((until for _, until in state), default=0)
        case _:
            assert_never(charge)


def lasting(charges: Sequence[Charge], now: int) -> tuple[int, tuple[Charge, ...]]:
    """Until when the outcome of a decision can be reported, and to which of its charges that matters."""
    found = tuple(one for one in charges if not isinstance(one, Take))
    return now + max((one.lease if isinstance(one, Hold) else one.within for one in found), default=0), found


def open_for(asked: OpenedApproval) -> int:
    return int((asked.within or 0) * 1_000_000) or OPEN


def digest(charge: Charge) -> str:
    """What a charge is kept under. Facts may be long and personal: none of them is written down.

    The unit is part of it, as levels mean nothing in another: where a policy changes a pace, it is counted anew.
    """
    unit = (str(charge.token), str(charge.tick)) if isinstance(charge, Take) else ()
    return digest_of(KINDS[type(charge)], charge.rule, *unit, *charge.key)


def digest_of(*parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
