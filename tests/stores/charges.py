"""Charges like those of rules, in a short form."""

from __future__ import annotations

from policyengine.runtime.decision import ApproverSet, Effects, OpenedApproval
from policyengine.runtime.limits import (
    MICRO,
    BudgetCharge,
    Charge,
    ClampCharge,
    ConcurrencyCharge,
    LimitCharge,
    RateCharge,
    rate_unit,
)

SECOND = 1_000_000
START = 1_800_000_000 * SECOND


def rate(
    count: int = 10,
    within: int = SECOND,
    burst: int | None = None,
    *,
    cost: int = 1,
    key: str = "alice",
    rule: str = "r",
    clamp: tuple[int, int] | None = None,
    acts: bool = False,
    lasts: int = 0,
    raised: int | None = None,
    counts: bool = False,
    failing: str = "deny",
) -> RateCharge:
    """`clamp` is a count and a burst in the same window, `lasts` in ticks of it; `raised` a count that is in force."""
    changing = clamp is not None or raised is not None
    paces = [(count, within), *([(clamp[0], within)] if clamp else []), *([(raised, within)] if raised else [])]
    unit = rate_unit(tuple(paces))
    burst = count if burst is None else burst
    clamps = () if clamp is None else (ClampCharge(unit.flow(clamp[0], within, clamp[1]), acts, lasts),)
    flow = unit.flow(raised or count, within, burst)
    return RateCharge(rule, (key,), cost, flow, unit.token, unit.tick, clamps, counts, not changing, failing)  # type: ignore[arg-type]


def budget(
    bound: int,
    within: int = 60 * SECOND,
    amount: int = 1,
    *,
    value: str | None = None,
    key: str = "alice",
    rule: str = "b",
    failing: str = "deny",
) -> BudgetCharge:
    return BudgetCharge(rule, (key,), bound * MICRO, within, amount * MICRO, value, failing)  # type: ignore[arg-type]


def places(
    most: int, lease: int = 60 * SECOND, *, key: str = "alice", rule: str = "h", failing: str = "deny"
) -> ConcurrencyCharge:
    return ConcurrencyCharge(rule, (key,), most, lease, failing)  # type: ignore[arg-type]


def asks(
    *charges: Charge,
    spends: tuple[str, ...] = (),
    opens: tuple[str, ...] = (),
    confirms: tuple[str, ...] | None = None,
    within: float = 900.0,
    denied: bool = False,
) -> Effects:
    """`opens` are the bindings that a confirm requests; by default all of its `confirms`."""
    limits = tuple(LimitCharge(one, one.rule, "p.policy:1", "words") for one in charges)
    opened = tuple(
        OpenedApproval("g", one, "role finance", 1, within, "summary", ApproverSet(role="finance")) for one in opens
    )
    return Effects(spends, opened, limits, denied, confirms=opens if confirms is None else confirms)
