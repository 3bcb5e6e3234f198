"""Limits in whole numbers: the charge of a request and the state after it. Stores do no other arithmetic.

A rate is a leaky bucket. Its level counts units: each request adds `token` units per token, and each tick removes
`drain` units. Units are chosen so that nothing is rounded, neither in Python nor in the doubles of a Redis script.
Between requests, the level falls at the pace of the last admitted request; raises, clamps and data change the pace.
Times are microseconds since 1970 by the store's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, isclose, lcm
from typing import Any, NamedTuple, TypeAlias, assert_never
from typing import Literal as Word

FailureMode: TypeAlias = Word["deny", "local", "allow"]
CountKey: TypeAlias = tuple[str, ...]

MAX_UNITS = 2**52  # exact in a double, even after one addition
COARSE = 10_000_000  # microseconds; longer windows are counted in milliseconds
MICRO = 1_000_000  # budgets count six decimal places
STORE_UNANSWERED = "the store did not answer"
MAX_BUDGET_ENTRIES = 10_000  # maximum entries for each key of a budget; later amounts are added to the last entry


class BucketParameters(NamedTuple):
    """A bucket of at most `most` tokens, from which `drain` units leave in each tick."""

    most: int
    drain: int


class ClampCharge(NamedTuple):
    """A clamp: whether it acts on this request, and for how many ticks it continues afterwards (0: not at all)."""

    flow: BucketParameters
    acts: bool
    lasts: int


class RateCharge(NamedTuple):
    """A charge of `cost` tokens to a rate, at `flow` unless a clamp is tighter. If `counts`, denied requests are
    charged too."""

    rule: str
    key: CountKey
    cost: int
    flow: BucketParameters
    token: int  # units
    tick: int  # microseconds
    clamps: tuple[ClampCharge, ...] = ()
    counts: bool = False
    steady: bool = True  # the flow never changes
    failing: FailureMode = "deny"

    @property
    def latching(self) -> bool:
        """Whether a clamp continues after this request, for every outcome."""
        return any(one.lasts for one in self.clamps)


class BudgetCharge(NamedTuple):
    """A charge to a budget: an amount in millionths (a million for `count` or `distinct`), or a distinct `value`."""

    rule: str
    key: CountKey
    bound: int  # millionths
    within: int  # microseconds
    amount: int = MICRO
    value: str | None = None
    failing: FailureMode = "deny"


class ConcurrencyCharge(NamedTuple):
    """A slot of a concurrency limit, held until the slot is released or `lease` microseconds have passed."""

    rule: str
    key: CountKey
    most: int
    lease: int
    failing: FailureMode = "deny"


Charge: TypeAlias = RateCharge | BudgetCharge | ConcurrencyCharge


class LimitState(NamedTuple):
    """The state of a limit after a request.

    `limit` and `remaining` are in tokens, or in the unit of the budget. `reset` is the time until the limit is full
    again, `retry` the time until this request would pass, both in microseconds; `retry` is None if it never would.
    """

    admitted: bool
    limit: int
    remaining: int
    reset: int
    retry: int | None
    base: float = 1.0  # current pace relative to the pace of the rule


# ── Rates ─────────────────────────────────────────────────────────────────────────────────────


class RateUnit(NamedTuple):
    token: int
    tick: int

    def flow(self, count: int, within: int, burst: int) -> BucketParameters:
        return BucketParameters(burst, count * self.token // (within // self.tick))

    @property
    def most(self) -> int:
        """The largest number of tokens that the bucket can count."""
        return MAX_UNITS // self.token


@lru_cache(maxsize=4_096)
def rate_unit(paces: tuple[tuple[int, int], ...], by_fact: tuple[int, ...] = ()) -> RateUnit:
    """Return the unit in which all paces (count, microseconds) are whole numbers.

    `by_fact` holds the windows of paces whose count is a fact.
    """
    windows = [within for _, within in paces] + list(by_fact)
    tick = 1_000 if min(windows) >= COARSE else 1
    needed = [within // tick // gcd(count, within // tick) for count, within in paces]
    return RateUnit(lcm(*needed, *(within // tick for within in by_fact)), tick)


class TokenBucket(NamedTuple):
    """A token bucket: its level (units) and time (ticks) at the last admitted request, and its drain since then.

    `latches` holds the tick at which each clamp ends.
    """

    level: int
    at: int
    drain: int
    latches: tuple[int, ...] = ()

    def full_at(self) -> int:
        """Return the tick at which the bucket has all of its tokens again, and its state can be dropped."""
        return max(self.at - -self.level // self.drain, *self.latches, 0)


@lru_cache(maxsize=64)
def idle_latches(clamps: int) -> tuple[int, ...]:
    """Return the latches of a bucket without active clamps, as one shared object."""
    return (0,) * clamps


class BucketView(NamedTuple):
    """A bucket at a tick, for one request, with the effect of its active clamps."""

    tick: int
    level: int
    latches: tuple[int, ...]
    flow: BucketParameters


def view_bucket(bucket: TokenBucket | None, charge: RateCharge, now: int) -> BucketView:
    none = idle_latches(len(charge.clamps))
    tick, level, latches = now // charge.tick, 0, none
    if bucket is not None:
        tick = max(tick, bucket.at)
        level = max(0, bucket.level - (tick - bucket.at) * bucket.drain)
        latches = bucket.latches if len(bucket.latches) == len(latches) else latches
    if not charge.clamps:
        return BucketView(tick, level, latches, charge.flow)
    until = tuple(
        max(was, tick + one.lasts if one.lasts else 0) for one, was in zip(charge.clamps, latches, strict=True)
    )
    acting = [one.flow for one, end in zip(charge.clamps, until, strict=True) if one.acts or tick < end]
    flows = [charge.flow, *acting]
    flow = BucketParameters(min(one.most for one in flows), min(one.drain for one in flows))
    return BucketView(tick, level, until if any(until) else none, flow)


def charge_rate(bucket: TokenBucket | None, charge: RateCharge, now: int) -> tuple[LimitState, TokenBucket]:
    """Return the state of the rate, and the bucket with the cost added."""
    tick, level, latches, flow = view_bucket(bucket, charge, now)
    full, after = flow.most * charge.token, level + charge.cost * charge.token
    charged = TokenBucket(after, tick, flow.drain, latches)
    if after > full:
        return refused_rate_state(bucket, charge, now, admitted=False), charged
    remaining, reset = (full - after) // charge.token, -(-after // flow.drain) * charge.tick
    return LimitState(True, flow.most, remaining, reset, 0, flow.drain / charge.flow.drain), charged


def refused_rate_state(bucket: TokenBucket | None, charge: RateCharge, now: int, *, admitted: bool) -> LimitState:
    """Return the state of a rate when the request is refused, by this rate or, if it `admitted` the request, by another
    limit. The bucket is then that of `refuse_rate`: until a request is admitted, its level falls at the earlier pace,
    also if a clamp begins or ends.
    """
    _, level, _, flow = view_bucket(bucket, charge, now)
    full, need = flow.most * charge.token, charge.cost * charge.token
    drain = flow.drain if bucket is None or charge.counts else bucket.drain
    if charge.counts:
        level = max(level, min(level + need, full))
    return LimitState(
        admitted,
        flow.most,
        max(0, (full - level) // charge.token),
        -(-level // drain) * charge.tick,
        0 if admitted else -(-(level + need - full) // drain) * charge.tick if charge.cost <= flow.most else None,
        flow.drain / charge.flow.drain,
    )


def refuse_rate(bucket: TokenBucket | None, charge: RateCharge, now: int) -> TokenBucket:
    """Return the bucket after a refused request: clamps continue, and a rate that counts denials charges as much as
    fits.
    """
    tick, level, latches, flow = view_bucket(bucket, charge, now)
    if charge.counts:
        level = max(level, min(level + charge.cost * charge.token, flow.most * charge.token))
        return TokenBucket(level, tick, flow.drain, latches)
    return TokenBucket(0, tick, flow.drain, latches) if bucket is None else bucket._replace(latches=latches)


def deduct_prepaid(charge: RateCharge, paid: int) -> RateCharge:
    """Return the charge without the tokens that were charged before for the same request. A fully prepaid charge is not
    charged if the request is denied."""
    if not paid:
        return charge
    cost = max(0, charge.cost - paid)
    return charge._replace(cost=cost, counts=charge.counts and cost > 0)


def charge_prepaid_rate(
    bucket: TokenBucket | None, charge: RateCharge, now: int
) -> tuple[LimitState, TokenBucket | None]:
    """Return the state of a fully prepaid rate, and the bucket to store: None unless a clamp continues.

    A prepaid charge needs no free capacity at any pace.
    """
    standing = refused_rate_state(bucket, charge, now, admitted=True)
    return standing, refuse_rate(bucket, charge, now) if charge.latching else None


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────


class BudgetEntry(NamedTuple):
    """One entry of a budget: time, amount, value, and the decision that can release it; "" if several requests share
    it."""

    at: int
    amount: int
    value: str | None
    decision: str


BudgetEntries: TypeAlias = tuple[BudgetEntry, ...]


def charge_budget(
    entries: Sequence[BudgetEntry], charge: BudgetCharge, now: int, decision: str
) -> tuple[LimitState, BudgetEntries]:
    """Return the state of the budget and its entries, oldest first, with the amount added if it is admitted."""
    now = max(now, entries[-1].at) if entries else now
    live = tuple(one for one in entries if one.at > now - charge.within)
    others = live if charge.value is None else tuple(one for one in live if one.value != charge.value)
    used = sum(one.amount for one in others)
    admitted = used + charge.amount <= charge.bound
    whose = decision if len(others) == len(live) else ""
    after = (*others, BudgetEntry(now, charge.amount, charge.value, whose)) if admitted else live
    if len(after) > MAX_BUDGET_ENTRIES:
        *first, last, new = after
        after = (*first, BudgetEntry(now, last.amount + new.amount, new.value, ""))
    total = sum(one.amount for one in after)
    standing = LimitState(
        admitted,
        charge.bound // MICRO,
        max(0, charge.bound - total) // MICRO,
        after[-1].at + charge.within - now if after else 0,
        0 if admitted else _time_until_room(others, charge, used, now),
    )
    return standing, after


def _time_until_room(entries: Sequence[BudgetEntry], charge: BudgetCharge, used: int, now: int) -> int | None:
    """Return the microseconds until enough amounts have left the window; None if that never happens."""
    for entry in entries:
        used -= entry.amount
        if used + charge.amount <= charge.bound:
            return entry.at + charge.within - now
    return None


# ── Concurrency ───────────────────────────────────────────────────────────────────────────────────

SlotHolders: TypeAlias = tuple[tuple[str, int], ...]  # decision id, end of its slot


def acquire_slot(
    held: SlotHolders, charge: ConcurrencyCharge, now: int, decision: str
) -> tuple[LimitState, SlotHolders]:
    """Return the state of a concurrency limit and its holders, with this decision added if it is admitted."""
    live = tuple((name, until) for name, until in held if until > now)
    admitted = len(live) < charge.most
    first = min((until for _, until in live), default=now) - now
    after = (*live, (decision, now + charge.lease)) if admitted else live
    last = max((until for _, until in after), default=now) - now
    return LimitState(admitted, charge.most, charge.most - len(after), last, 0 if admitted else first), after


def uncharged_state(state: Any, charge: Charge, now: int) -> LimitState:
    """Return the state of a limit to which nothing is charged, not even a denial."""
    match charge:
        case RateCharge():
            return refused_rate_state(state, charge._replace(counts=False), now, admitted=True)
        case BudgetCharge():
            live = [one for one in state or () if one.at > now - charge.within]
            left = max(0, charge.bound - sum(one.amount for one in live)) // MICRO
            return LimitState(True, charge.bound // MICRO, left, live[-1].at + charge.within - now if live else 0, 0)
        case ConcurrencyCharge():
            ends = [until for _, until in state or () if until > now]
            return LimitState(True, charge.most, charge.most - len(ends), max(ends, default=now) - now, 0)
        case _:
            assert_never(charge)


# ── The charges of a decision, and the response of the store ─────────────────────────


class ClampedPace(NamedTuple):
    """The pace of a clamp as a flow, and as text."""

    flow: BucketParameters
    words: str


class LimitCharge(NamedTuple):
    """A charge and its rule: name, place in the source, text, and the paces of its clamps.

    If the caller is in a group with a `floor`, `own` is its own part of the limit, and `charge` is the part that the
    group shares. A decision charges only one of them (`stores/floors.py`).
    """

    charge: Charge
    name: str
    at: str
    words: str
    clamps: tuple[ClampedPace, ...] = ()
    own: LimitCharge | None = None

    def words_at(self, state: LimitState) -> str:
        """Return the text of the limit in force: the tightest clamp that reduced it, and the declared limit."""
        pace = clamped_pace(self, state) if self.clamps else None
        return f"`{self.words}`" if pace is None else f"`{pace.words}`, clamped from `{self.words}`"


def clamped_pace(limit: LimitCharge, state: LimitState) -> ClampedPace | None:
    """Return the pace of the clamp that determines the state; None if no clamp reduced the limit."""
    charge = limit.charge
    if type(charge) is not RateCharge or (state.base >= 1.0 and state.limit >= charge.flow.most):
        return None
    drain = charge.flow.drain * state.base
    tight = [
        one
        for one in limit.clamps
        if isclose(one.flow.drain, drain) or (one.flow.drain > drain and one.flow.most == state.limit)
    ]
    return min(tight, key=lambda one: (one.flow.drain, one.flow.most != state.limit), default=None)


# A limit of a decision with its state after it.
LimitResult: TypeAlias = tuple[LimitCharge, LimitState]


class ChargeResult(NamedTuple):
    """The response of a store to the charges of one decision, in their order, and its time.

    If a store did not answer, `failed` describes the failure and `reason` is the message for callers.
    """

    standings: tuple[LimitState, ...]
    now: int
    failed: str | None = None
    reason: str = STORE_UNANSWERED

    @property
    def admitted(self) -> bool:
        for standing in self.standings:  # noqa: SIM110  # a generator takes longer
            if not standing.admitted:
                return False
        return True

    @property
    def clamped(self) -> bool:
        """Whether a clamp reduced a rate of the request."""
        for standing in self.standings:  # noqa: SIM110  # a generator takes longer
            if standing.base < 1.0:
                return True
        return False
