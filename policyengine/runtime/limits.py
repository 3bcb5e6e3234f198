"""Limits as whole numbers: what one request takes, and what is left. A store does no other arithmetic than this.

A rate is a leaky bucket. Its level counts units, `token` of them for one request, and falls by `drain` of them in each
tick: both are chosen so that nothing is ever rounded, in Python as in the doubles of a Redis script. How fast the level
falls is as it was when somebody last got through; that is what raises, clamps and data change.

Times are microseconds since 1970, as a store's clock gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, lcm
from typing import Any, NamedTuple, TypeAlias, assert_never
from typing import Literal as Word

FailureMode: TypeAlias = Word["deny", "local", "allow"]
CountKey: TypeAlias = tuple[str, ...]

MAX_UNITS = 2**52  # what a double holds exactly, with room for one sum
COARSE = 10_000_000  # windows from here on (microseconds) are counted in milliseconds
MICRO = 1_000_000  # the sixth digit after the point is the last one that a budget counts
STORE_UNANSWERED = "the store did not answer"
MAX_BUDGET_ENTRIES = 10_000  # that a budget keeps of one key; then what comes is counted with the last one


class BucketParameters(NamedTuple):
    """`most` tokens at once; `drain` units leave the bucket in a tick."""

    most: int
    drain: int


class ClampCharge(NamedTuple):
    """A clamp: whether it acts on this request, and how many ticks it goes on after it (0: no longer than this)."""

    flow: BucketParameters
    acts: bool
    lasts: int


class RateCharge(NamedTuple):
    """Of a rate: `cost` tokens, at this flow unless a clamp is tighter. `counts`: denied requests take it, too."""

    rule: str
    key: CountKey
    cost: int
    flow: BucketParameters
    token: int  # units
    tick: int  # microseconds
    clamps: tuple[ClampCharge, ...] = ()
    counts: bool = False
    steady: bool = True  # the flow is the same for everybody, always
    failing: FailureMode = "deny"

    @property
    def latching(self) -> bool:
        """Whether a clamp goes on after this request, whatever comes of it."""
        return any(one.lasts for one in self.clamps)


class BudgetCharge(NamedTuple):
    """To a budget: an amount (millionths; of a `count` or `distinct`, one million), or one more different `value`."""

    rule: str
    key: CountKey
    bound: int  # millionths
    within: int  # microseconds
    amount: int = MICRO
    value: str | None = None
    failing: FailureMode = "deny"


class ConcurrencyCharge(NamedTuple):
    """A place among those under way, until it is given back or `lease` microseconds are over."""

    rule: str
    key: CountKey
    most: int
    lease: int
    failing: FailureMode = "deny"


Charge: TypeAlias = RateCharge | BudgetCharge | ConcurrencyCharge


class LimitState(NamedTuple):
    """How a limit stands after a request: `limit` and `remaining` in tokens or in what a budget counts; `reset` until
    all of it is there again and `retry` until this request would pass, in microseconds (None: it never would)."""

    admitted: bool
    limit: int
    remaining: int
    reset: int
    retry: int | None
    base: float = 1.0  # the pace in force, beside the one that the rule says


# ── Rates ─────────────────────────────────────────────────────────────────────────────────────


class RateUnit(NamedTuple):
    token: int
    tick: int

    def flow(self, count: int, within: int, burst: int) -> BucketParameters:
        return BucketParameters(burst, count * self.token // (within // self.tick))

    @property
    def most(self) -> int:
        """The most tokens that can be counted."""
        return MAX_UNITS // self.token


@lru_cache(maxsize=4_096)
def rate_unit(paces: tuple[tuple[int, int], ...], by_fact: tuple[int, ...] = ()) -> RateUnit:
    """In which all paces (so many in so many microseconds) are whole; those of `by_fact` (windows) for any count."""
    windows = [within for _, within in paces] + list(by_fact)
    tick = 1_000 if min(windows) >= COARSE else 1
    needed = [within // tick // gcd(count, within // tick) for count, within in paces]
    return RateUnit(lcm(*needed, *(within // tick for within in by_fact)), tick)


class TokenBucket(NamedTuple):
    """The level when somebody last got through (in units), when that was (in ticks), and how fast it falls since;
    until which tick each clamp goes on."""

    level: int
    at: int
    drain: int
    latches: tuple[int, ...] = ()

    def full_at(self) -> int:
        """The tick from which on nothing is missing: then it may be forgotten."""
        return max(self.at - -self.level // self.drain, *self.latches, 0)


@lru_cache(maxsize=64)
def idle_latches(clamps: int) -> tuple[int, ...]:
    """One object for all buckets whose clamps are at rest."""
    return (0,) * clamps


class BucketView(NamedTuple):
    """A bucket as it is at a tick, for one request: the clamps that act, or go on, have had their say."""

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
    """How the rate stands, and the bucket once the cost is in it."""
    tick, level, latches, flow = view_bucket(bucket, charge, now)
    full, after = flow.most * charge.token, level + charge.cost * charge.token
    admitted = after <= full
    left = after if admitted else level
    standing = LimitState(
        admitted,
        flow.most,
        max(0, (full - left) // charge.token),
        -(-left // flow.drain) * charge.tick,
        0 if admitted else -(-(after - full) // flow.drain) * charge.tick if charge.cost <= flow.most else None,
        flow.drain / charge.flow.drain,
    )
    return standing, TokenBucket(after, tick, flow.drain, latches)


def refuse_rate(bucket: TokenBucket | None, charge: RateCharge, now: int) -> TokenBucket:
    """The bucket after a request that was not let through: clamps go on, and of a rate that counts denials it has taken
    what there was."""
    tick, level, latches, flow = view_bucket(bucket, charge, now)
    if charge.counts:
        level = max(level, min(level + charge.cost * charge.token, flow.most * charge.token))
        return TokenBucket(level, tick, flow.drain, latches)
    return TokenBucket(0, tick, flow.drain, latches) if bucket is None else bucket._replace(latches=latches)


def deduct_prepaid(charge: RateCharge, paid: int) -> RateCharge:
    """What is still to be taken where so many tokens were taken before, for the same request."""
    return charge._replace(cost=max(0, charge.cost - paid)) if paid else charge


def charge_prepaid_rate(
    bucket: TokenBucket | None, charge: RateCharge, now: int
) -> tuple[LimitState, TokenBucket | None]:
    """How a rate stands of which all was taken before: it needs no room, whatever its pace is by now. What of it is to
    be kept: clamps that go on; None where nothing is."""
    standing = charge_rate(bucket, charge._replace(cost=0), now)[0]._replace(admitted=True, retry=0)
    return standing, refuse_rate(bucket, charge._replace(counts=False), now) if charge.latching else None


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────


class BudgetEntry(NamedTuple):
    """What one request added: when, how much, which value, and the decision that it may be given back by: none, where
    several requests added it."""

    at: int
    amount: int
    value: str | None
    decision: str


BudgetEntries: TypeAlias = tuple[BudgetEntry, ...]


def charge_budget(
    entries: Sequence[BudgetEntry], charge: BudgetCharge, now: int, decision: str
) -> tuple[LimitState, BudgetEntries]:
    """How the budget stands, and what it holds: with the amount in it, if that is admitted. Oldest first."""
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
    """How long until enough of it has left the window."""
    for entry in entries:
        used -= entry.amount
        if used + charge.amount <= charge.bound:
            return entry.at + charge.within - now
    return None


# ── At once ───────────────────────────────────────────────────────────────────────────────────

SlotHolders: TypeAlias = tuple[tuple[str, int], ...]  # decisions, and until when each holds its place


def acquire_slot(
    held: SlotHolders, charge: ConcurrencyCharge, now: int, decision: str
) -> tuple[LimitState, SlotHolders]:
    """How many are under way, and who: with this one, if that is admitted."""
    live = tuple((name, until) for name, until in held if until > now)
    admitted = len(live) < charge.most
    first = min((until for _, until in live), default=now) - now
    after = (*live, (decision, now + charge.lease)) if admitted else live
    last = max((until for _, until in after), default=now) - now
    return LimitState(admitted, charge.most, charge.most - len(after), last, 0 if admitted else first), after


def uncharged_state(state: Any, charge: Charge, now: int) -> LimitState:
    """How a limit stands that would have admitted a request which another one did not let through."""
    match charge:
        case RateCharge():
            return charge_rate(state, charge._replace(cost=0), now)[0]
        case BudgetCharge():
            live = [one for one in state or () if one.at > now - charge.within]
            left = max(0, charge.bound - sum(one.amount for one in live)) // MICRO
            return LimitState(True, charge.bound // MICRO, left, live[-1].at + charge.within - now if live else 0, 0)
        case ConcurrencyCharge():
            ends = [until for _, until in state or () if until > now]
            return LimitState(True, charge.most, charge.most - len(ends), max(ends, default=now) - now, 0)
        case _:
            assert_never(charge)


# ── What a decision asks of a store, and what follows from the answer ─────────────────────────


class LimitCharge(NamedTuple):
    """A charge, and the rule that makes it: its name, its place in the source, and what it says."""

    charge: Charge
    name: str
    at: str
    words: str


class SteadyRate:
    """A rate whose pace never changes and of which a request takes one: all of it but whose count it is by."""

    __slots__ = ("drain", "full", "limited", "rule", "tick", "token")

    def __init__(self, limited: LimitCharge) -> None:
        charge = limited.charge
        assert isinstance(charge, RateCharge)
        self.limited, self.rule, self.token, self.tick = limited, charge.rule, charge.token, charge.tick
        self.drain, self.full = charge.flow.drain, charge.flow.most * charge.token

    def by(self, key: CountKey) -> LimitCharge:
        """By this count."""
        charge, *words = self.limited
        rule, _, *pace = charge
        return LimitCharge(RateCharge(rule, key, *pace), *words)  # `_replace` takes three times as long

    def standing(self, level: int, admitted: bool) -> LimitState:
        reset = -(-level // self.drain) * self.tick
        after = level + self.token - self.full
        retry = 0 if admitted else -(-after // self.drain) * self.tick
        return LimitState(admitted, self.full // self.token, max(0, self.full - level) // self.token, reset, retry)


def to_limit_charge(charge: LimitCharge | tuple[SteadyRate, CountKey | str]) -> LimitCharge:
    """The charge of a plain rate, once it is asked for in full."""
    if isinstance(charge, LimitCharge):
        return charge
    meter, key = charge
    return meter.by((key,) if isinstance(key, str) else key)


class LimitResult(NamedTuple):
    """How a limit stood after a decision; by its `level`, where it is a plain rate that let the request through."""

    limited: LimitCharge | SteadyRate
    how: LimitState | int

    @property
    def name(self) -> str:
        return self.limited.limited.name if isinstance(self.limited, SteadyRate) else self.limited.name

    @property
    def standing(self) -> LimitState:
        if isinstance(self.how, LimitState):
            return self.how
        assert isinstance(self.limited, SteadyRate)
        return self.limited.standing(self.how, True)


class ChargeResult(NamedTuple):
    """What a store answered to the charges of one decision, in their order, and when, by its clock.

    `failed` says, for the charges of a store that could not be asked, what went wrong, and `reason` what callers are
    told of it.
    """

    standings: tuple[LimitState, ...]
    now: int
    failed: str | None = None
    reason: str = STORE_UNANSWERED

    @property
    def admitted(self) -> bool:
        return all(one.admitted for one in self.standings)
