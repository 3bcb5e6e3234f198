"""One step of a store that keeps states elsewhere: what it must know before, what it answers, what it keeps after."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, assert_never

from policyengine.runtime.decision import Effects, OpenedApproval
from policyengine.runtime.limits import (
    Add,
    Bucket,
    Charge,
    Hold,
    Settled,
    Standing,
    Take,
    add,
    deduct,
    hold,
    refused,
    take,
    take_prepaid,
    untouched,
)

DAY = 86_400_000_000  # microseconds
LONGEST_OPEN = 31 * DAY
MOST_RECEIPTS = 1_000  # of one rate by one key; then the oldest is forgotten, and what it was for is taken again
KINDS = {Take: "rate", Add: "budget", Hold: "at once"}


class Kept(NamedTuple):
    """A state that is to be kept for a charge, and until when it counts for anybody: then it may be forgotten."""

    charge: Charge
    state: Any
    until: int


class Receipt(NamedTuple):
    """So many tokens were taken of a rate by a confirm, and until when no allow takes them again. With none it is
    over."""

    charge: Take
    tokens: int
    until: int


class Step(NamedTuple):
    settled: Settled
    kept: tuple[Kept, ...]
    receipts: tuple[Receipt, ...] = ()


def step(effects: Effects, states: Sequence[Any], paid: Sequence[int], now: int, decision: str) -> Step:
    """What is answered to the charges of a decision where they stand at `states`, and what is kept of it. `paid` is how
    much was taken of each for its confirms before."""
    charges = [one.charge for one in effects.limits]
    found = [asked(*one, now, decision) for one in zip(charges, states, paid, strict=True)]
    settled = Settled(tuple(standing for standing, _ in found), now)
    if not settled.admitted or effects.denied:
        return refuse(charges, states, paid, settled, now)
    if effects.opens:
        return confirm(effects, charges, states, paid, found, now)
    kept = [
        Kept(charge, state, counts_until(charge, state))
        for charge, (_, state) in zip(charges, found, strict=True)
        if state is not None
    ]
    over = [Receipt(one, 0, now) for one, tokens in zip(charges, paid, strict=True) if tokens and isinstance(one, Take)]
    return Step(settled, tuple(kept), tuple(over))


def confirm(
    effects: Effects,
    charges: Sequence[Charge],
    states: Sequence[Any],
    paid: Sequence[int],
    found: Sequence[tuple[Standing, Any]],
    now: int,
) -> Step:
    """Of a confirm that all limits have room for: it takes of rates what was not taken for it before, and no more."""
    standings, kept, receipts = [], [], []
    lasts = now + open_for(effects.opens)
    for charge, state, tokens, (standing, after) in zip(charges, states, paid, found, strict=True):
        takes = isinstance(charge, Take)
        standings.append(standing if takes else untouched(state, charge, now))
        if isinstance(charge, Take) and after is not None:
            full = counts_until(charge, after)
            kept.append(Kept(charge, after, full))
            if charge.cost > tokens:
                receipts.append(Receipt(charge, charge.cost, max(lasts, full)))
    return Step(Settled(tuple(standings), now), tuple(kept), tuple(receipts))


def refuse(charges: Sequence[Charge], states: Sequence[Any], paid: Sequence[int], settled: Settled, now: int) -> Step:
    """Of what is denied, or not admitted: rates that count denials take what was not taken before, and clamps go on."""
    if not settled.admitted:
        stand = zip(charges, states, settled.standings, strict=True)
        settled = Settled(tuple(leave(state, one, now) if how.admitted else how for one, state, how in stand), now)
    rows = zip(charges, states, paid, strict=True)
    kept = (kept_of_refused(charge, state, tokens, now) for charge, state, tokens in rows if isinstance(charge, Take))
    return Step(settled, tuple(one for one in kept if one is not None))


def leave(state: Any, charge: Charge, now: int) -> Standing:
    """How a limit stands that had room, where another had none; one that was paid before needs none."""
    return untouched(state, charge, now)._replace(admitted=True, retry=0)


def asked(charge: Charge, state: Any, paid: int, now: int, decision: str) -> tuple[Standing, Any]:
    match charge:
        case Take():
            rest = deduct(charge, paid)
            return take_prepaid(state, charge, now) if paid and not rest.cost else take(state, rest, now)
        case Add():
            return add(state or (), charge, now, decision)
        case Hold():
            return hold(state or (), charge, now, decision)
        case _:
            assert_never(charge)


def kept_of_refused(charge: Take, state: Bucket | None, paid: int, now: int) -> Kept | None:
    if not (charge.counts or charge.latching):
        return None
    rest = deduct(charge, paid)
    after = take_prepaid(state, charge, now)[1] if paid and not rest.cost else refused(state, rest, now)
    return None if after is None else Kept(charge, after, counts_until(charge, after))


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


def open_for(opens: Sequence[OpenedApproval]) -> int:
    """How long what a confirm took stays taken for it: a day for a person to answer, and as long as the approval that
    lasts longest then counts (another day, where one says no end)."""
    counts = max((int((one.within or 0) * 1_000_000) or DAY for one in opens), default=DAY)
    return min(DAY + counts, LONGEST_OPEN)


def name_of(confirms: Sequence[str]) -> str:
    """What receipts for the confirms of a decision are kept under; empty where it has none."""
    return digest_of(*confirms) if confirms else ""


def digest(charge: Charge) -> str:
    """What a charge is kept under. Facts may be long and personal: none of them is written down.

    The unit is part of it, as levels mean nothing in another: where a policy changes a pace, it is counted anew.
    """
    unit = (str(charge.token), str(charge.tick)) if isinstance(charge, Take) else ()
    return digest_of(KINDS[type(charge)], charge.rule, *unit, *charge.key)


def digest_of(*parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
