"""One step of a store that keeps its states outside this process: the states to read, the answer, and the states to
write.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, assert_never

from policyengine.runtime.decision import Effects, OpenedApproval
from policyengine.runtime.limits import (
    BudgetCharge,
    Charge,
    ChargeResult,
    ConcurrencyCharge,
    LimitState,
    RateCharge,
    TokenBucket,
    acquire_slot,
    charge_budget,
    charge_prepaid_rate,
    charge_rate,
    deduct_prepaid,
    refuse_rate,
    refused_rate_state,
    uncharged_state,
)

DAY_MICROSECONDS = 86_400_000_000
MAX_APPROVAL_MICROSECONDS = 31 * DAY_MICROSECONDS
MAX_RECEIPTS_PER_RATE = (
    1_000  # maximum receipts of one rate and key; beyond it, the oldest receipt is dropped, and its charge is repeated
)
CHARGE_KINDS = {RateCharge: "rate", BudgetCharge: "budget", ConcurrencyCharge: "at once"}


class StateUpdate(NamedTuple):
    """A state to write for a charge, and its expiry, after which it may be deleted."""

    charge: Charge
    state: Any
    until: int


class Receipt(NamedTuple):
    """Tokens of a rate that a confirm paid, and the time until which an allow does not pay them again. A receipt
    without tokens removes an earlier receipt."""

    charge: RateCharge
    tokens: int
    until: int


class StoreTransition(NamedTuple):
    settled: ChargeResult
    kept: tuple[StateUpdate, ...]
    receipts: tuple[Receipt, ...] = ()


def apply_charges(
    effects: Effects, states: Sequence[Any], paid: Sequence[int], now: int, decision: str
) -> StoreTransition:
    """Return the answer to the charges of a decision at these `states`, and the states to write. `paid` holds, for each
    charge, the tokens that earlier confirms of the decision paid."""
    charges = [one.charge for one in effects.limits]
    found = [evaluate_charge(*one, now, decision) for one in zip(charges, states, paid, strict=True)]
    settled = ChargeResult(tuple(standing for standing, _ in found), now)
    if not settled.admitted or effects.denied:
        return refuse_charges(charges, states, paid, settled, now)
    if effects.opens:
        return confirm_charges(effects, charges, states, paid, found, now)
    kept = [
        StateUpdate(charge, state, state_expiry(charge, state))
        for charge, (_, state) in zip(charges, found, strict=True)
        if state is not None
    ]
    over = [
        Receipt(one, 0, now)
        for one, tokens in zip(charges, paid, strict=True)
        if tokens and isinstance(one, RateCharge)
    ]
    return StoreTransition(settled, tuple(kept), tuple(over))


def confirm_charges(
    effects: Effects,
    charges: Sequence[Charge],
    states: Sequence[Any],
    paid: Sequence[int],
    found: Sequence[tuple[LimitState, Any]],
    now: int,
) -> StoreTransition:
    """Return the transition of a confirm that all limits admit, which only charges rates for tokens that are not yet
    paid."""
    standings, kept, receipts = [], [], []
    lasts = now + approval_lifetime(effects.opens)
    for charge, state, tokens, (standing, after) in zip(charges, states, paid, found, strict=True):
        takes = isinstance(charge, RateCharge)
        standings.append(standing if takes else uncharged_state(state, charge, now))
        if isinstance(charge, RateCharge) and after is not None:
            full = state_expiry(charge, after)
            kept.append(StateUpdate(charge, after, full))
            if charge.cost > tokens:
                receipts.append(Receipt(charge, charge.cost, max(lasts, full)))
    return StoreTransition(ChargeResult(tuple(standings), now), tuple(kept), tuple(receipts))


def refuse_charges(
    charges: Sequence[Charge], states: Sequence[Any], paid: Sequence[int], settled: ChargeResult, now: int
) -> StoreTransition:
    """Return the transition of a decision that is denied or not admitted: rates that count denials are charged for
    tokens that are not yet paid, and clamps continue.
    """
    rest = [
        deduct_prepaid(one, tokens) if isinstance(one, RateCharge) else one
        for one, tokens in zip(charges, paid, strict=True)
    ]
    if not settled.admitted:
        stand = zip(rest, states, settled.standings, strict=True)
        settled = ChargeResult(
            tuple(state_beside_refusal(state, one, now) if how.admitted else how for one, state, how in stand), now
        )
    kept = (
        refused_rate_update(charge, state, now)
        for charge, state in zip(rest, states, strict=True)
        if isinstance(charge, RateCharge)
    )
    return StoreTransition(settled, tuple(one for one in kept if one is not None))


def state_beside_refusal(state: Any, charge: Charge, now: int) -> LimitState:
    """Return the state of a limit when another limit had no room; a limit that is already paid needs no room."""
    if isinstance(charge, RateCharge):
        return refused_rate_state(state, charge, now, admitted=True)
    return uncharged_state(state, charge, now)._replace(admitted=True, retry=0)


def evaluate_charge(charge: Charge, state: Any, paid: int, now: int, decision: str) -> tuple[LimitState, Any]:
    match charge:
        case RateCharge():
            rest = deduct_prepaid(charge, paid)
            return charge_prepaid_rate(state, rest, now) if paid and not rest.cost else charge_rate(state, rest, now)
        case BudgetCharge():
            return charge_budget(state or (), charge, now, decision)
        case ConcurrencyCharge():
            return acquire_slot(state or (), charge, now, decision)
        case _:
            assert_never(charge)


def refused_rate_update(charge: RateCharge, state: TokenBucket | None, now: int) -> StateUpdate | None:
    if not (charge.counts or charge.latching):
        return None
    after = refuse_rate(state, charge, now)
    return StateUpdate(charge, after, state_expiry(charge, after))


def state_expiry(charge: Charge, state: Any) -> int:
    """Return the time (microseconds) from which the state equals an empty state."""
    match charge:
        case RateCharge():
            return int(state.full_at()) * charge.tick
        case BudgetCharge():
            return state[-1].at + charge.within if state else 0
        case ConcurrencyCharge():
            return max((until for _, until in state), default=0)
        case _:
            assert_never(charge)


def reportable_until(charges: Sequence[Charge], now: int) -> tuple[int, tuple[Charge, ...]]:
    """Return the time (microseconds) until which the outcome of a decision can be reported, and the charges that the
    report affects.
    """
    found = tuple(one for one in charges if not isinstance(one, RateCharge))
    return now + max(
        (one.lease if isinstance(one, ConcurrencyCharge) else one.within for one in found), default=0
    ), found


def approval_lifetime(opens: Sequence[OpenedApproval]) -> int:
    """Return how long (microseconds) the charges of a confirm stay paid: a day for a person to answer, plus the longest
    validity of its approvals."""
    counts = max((int(one.within * 1_000_000) for one in opens), default=DAY_MICROSECONDS)
    return min(DAY_MICROSECONDS + counts, MAX_APPROVAL_MICROSECONDS)


def receipt_name(confirms: Sequence[str]) -> str:
    """Return the name of receipts for the confirms of a decision; empty without confirms."""
    return digest_parts(*confirms) if confirms else ""


def charge_digest(charge: Charge) -> str:
    """Return the digest under which a charge is stored. Facts may be long and personal, so only the digest is stored.
    The digest includes the unit, because a level has no meaning in another unit; after a change of the pace, the rate
    starts empty.
    """
    unit = (str(charge.token), str(charge.tick)) if isinstance(charge, RateCharge) else ()
    return digest_parts(CHARGE_KINDS[type(charge)], charge.rule, *unit, *charge.key)


def digest_parts(*parts: str) -> str:
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
