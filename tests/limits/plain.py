"""A simple reference store: exact fractions and whole lists, nothing forgotten, nothing optimized. Other stores must
equal it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import (
    MICRO,
    BudgetCharge,
    Charge,
    ChargeResult,
    ConcurrencyCharge,
    LimitState,
    RateCharge,
)
from policyengine.stores.approvals import MemoryApprovals
from policyengine.stores.halts import MemoryHalts

Where = tuple[str, tuple[str, ...]]
COVERED = -1  # as the cost of a rate: already paid, so it needs no room


@dataclass
class Level:
    """The state of a rate: the tokens that are taken and not yet restored, at which tick, and how many are restored in
    a tick."""

    tokens: Fraction
    at: int
    back: Fraction
    until: dict[int, int] = field(default_factory=dict)


@dataclass
class PlainStore:
    levels: dict[Where, Level] = field(default_factory=dict)
    added: dict[Where, list[tuple[int, int, str | None, str]]] = field(default_factory=dict)
    held: dict[Where, list[tuple[int, str]]] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    # What was taken of rates for open confirms: how many tokens, and until when no allow takes them again.
    paid: dict[tuple[Where, tuple[str, ...]], tuple[int, int]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    clock: int = 0
    approvals: MemoryApprovals = field(default_factory=MemoryApprovals)
    halts: MemoryHalts = field(default_factory=MemoryHalts)

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        return frozenset(self.spent & set(approvals))

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        now = max(self.clock, now)
        self.clock = self.clock if peek else now
        if self.spent & set(effects.spends):
            return None
        charges = [self.rest(one.charge, effects, now) for one in effects.limits]
        fits = [self.covers(charge) or self.room(charge, now) for charge in charges]
        takes = [all(fits) and self.taken_by(effects, charge) for charge in charges]
        standings = tuple(
            self.standing(charge, now, fit, taken=taken, refused=not all(fits))
            for charge, fit, taken in zip(charges, fits, takes, strict=True)
        )
        if peek:
            return ChargeResult(standings, now)
        if effects.denied or not all(fits):
            for charge in charges:
                if isinstance(charge, RateCharge):
                    self.deny(charge, now)
            return ChargeResult(standings, now)
        for charge, taken in zip(charges, takes, strict=True):
            if taken:
                self.charge(charge, now, decision)
        self.receipts(effects, now)
        self.spent |= set(effects.spends)
        lasting = [
            one.lease if isinstance(one, ConcurrencyCharge) else one.within
            for one in charges
            if not isinstance(one, RateCharge)
        ]
        if lasting and not effects.opens:
            self.ends[decision] = now + max(lasting)
        return ChargeResult(standings, now)

    # ── Confirms ──────────────────────────────────────────────────────────────────────────────

    def rest(self, charge: Charge, effects: Effects, now: int) -> Charge:
        """Return the charges that are still to be taken: none for a rate that is already paid."""
        tokens, until = self.paid.get(((charge.rule, charge.key), effects.confirms), (0, 0))
        if not isinstance(charge, RateCharge) or not effects.confirms or until <= now:
            return charge
        return charge._replace(cost=charge.cost - tokens if charge.cost > tokens else COVERED)

    def covers(self, charge: Charge) -> bool:
        return isinstance(charge, RateCharge) and charge.cost == COVERED

    def taken_by(self, effects: Effects, charge: Charge) -> bool:
        """Return what a confirm takes: from rates only."""
        return isinstance(charge, RateCharge) or not effects.opens

    def receipts(self, effects: Effects, now: int) -> None:
        day = 86_400 * MICRO
        lasts = max((int((one.within or 86_400) * MICRO) for one in effects.opens), default=0) + day
        for one in effects.limits:
            where = (one.charge.rule, one.charge.key), effects.confirms
            if not isinstance(one.charge, RateCharge) or not effects.confirms:
                continue
            tokens, until = self.paid.get(where, (0, 0))
            if not effects.opens:
                self.paid.pop(where, None)
            elif one.charge.cost > (tokens if until > now else 0):
                self.paid[where] = one.charge.cost, max(now + min(lasts, 31 * day), self.full_at(one.charge))

    def full_at(self, charge: RateCharge) -> int:
        """Return when a rate is full again and no clamp continues."""
        level = self.levels[charge.rule, charge.key]
        return max(level.at + ceil(level.tokens / level.back), *level.until.values(), 0) * charge.tick

    def finish(self, decision: str, now: int, *, refund: bool = False) -> str | None:
        if self.ends.get(decision, 0) <= max(now, self.clock):
            return None
        if decision in self.over:
            return "again"
        self.over.add(decision)
        for where, places in self.held.items():
            self.held[where] = [one for one in places if one[1] != decision]
        for where, entries in self.added.items() if refund else ():
            self.added[where] = [one for one in entries if one[3] != decision]
        return "first"

    # ── Rates ─────────────────────────────────────────────────────────────────────────────────

    def level(self, charge: RateCharge, now: int) -> Level:
        """Return the current level, with the clamps that continue after this request."""
        known = self.levels.get((charge.rule, charge.key), Level(Fraction(0), 0, Fraction(0)))
        tick = now // charge.tick
        tokens = max(Fraction(0), known.tokens - (tick - known.at) * known.back)
        until = {n: max(known.until.get(n, 0), tick + c.lasts if c.lasts else 0) for n, c in enumerate(charge.clamps)}
        return Level(tokens, tick, known.back, until)

    def pace(self, charge: RateCharge, level: Level) -> tuple[int, Fraction]:
        """Return the maximum at one moment, and the tokens that are restored in a tick, by the tightest clamp."""
        acting = [c.flow for n, c in enumerate(charge.clamps) if c.acts or level.at < level.until[n]]
        flows = [charge.flow, *acting]
        return min(flow.most for flow in flows), min(Fraction(flow.drain, charge.token) for flow in flows)

    def deny(self, charge: RateCharge, now: int) -> None:
        level, where = self.level(charge, now), (charge.rule, charge.key)
        most, back = self.pace(charge, level)
        if charge.counts and not self.covers(charge):
            tokens = max(level.tokens, min(level.tokens + charge.cost, Fraction(most)))
            self.levels[where] = Level(tokens, level.at, back, level.until)
        else:
            self.latch(where, level, back)

    def latch(self, where: Where, level: Level, back: Fraction) -> None:
        """Continue clamps although nothing is taken."""
        if where in self.levels:
            self.levels[where].until = level.until
        else:
            self.levels[where] = Level(Fraction(0), level.at, back, level.until)

    # ── One charge ────────────────────────────────────────────────────────────────────────────

    def room(self, charge: Charge, now: int) -> bool:
        match charge:
            case RateCharge():
                level = self.level(charge, now)
                return level.tokens + charge.cost <= self.pace(charge, level)[0]
            case BudgetCharge():
                others = [one for one in self.window(charge, now) if charge.value is None or one[2] != charge.value]
                return sum(one[1] for one in others) + charge.amount <= charge.bound
            case ConcurrencyCharge():
                return len(self.places(charge, now)) < charge.most

    def charge(self, charge: Charge, now: int, decision: str) -> None:
        where = charge.rule, charge.key
        match charge:
            case RateCharge():
                level = self.level(charge, now)
                _, back = self.pace(charge, level)
                if self.covers(charge):
                    return self.latch(where, level, back)
                self.levels[where] = Level(level.tokens + charge.cost, level.at, back, level.until)
            case BudgetCharge():
                window = self.window(charge, now)
                others = [one for one in window if charge.value is None or one[2] != charge.value]
                whose = decision if others == window else "several"
                self.added[where] = [*others, (now, charge.amount, charge.value, whose)]
            case ConcurrencyCharge():
                self.held[where] = [*self.places(charge, now), (now + charge.lease, decision)]

    def standing(self, charge: Charge, now: int, fits: bool, *, taken: bool, refused: bool) -> LimitState:
        """Return the state after the request, with what it took if all of it was taken."""
        match charge:
            case RateCharge():
                return self.rate_standing(charge, now, fits, taken=taken, refused=refused)
            case BudgetCharge():
                window, retry = self.window(charge, now), 0 if fits else self.retry(charge, now)
                if taken:
                    window = [*[one for one in window if charge.value is None or one[2] != charge.value],
                              (now, charge.amount, charge.value, "")]  # fmt: skip
                left = max(0, charge.bound - sum(one[1] for one in window)) // MICRO
                reset = max((one[0] for one in window), default=now - charge.within) + charge.within - now
                return LimitState(fits, charge.bound // MICRO, left, reset, retry)
            case ConcurrencyCharge():
                ends = [until for until, _ in self.places(charge, now)] + [now + charge.lease] * taken
                retry = 0 if fits else self.retry(charge, now)
                return LimitState(fits, charge.most, charge.most - len(ends), max(ends, default=now) - now, retry)

    def rate_standing(self, charge: RateCharge, now: int, fits: bool, *, taken: bool, refused: bool) -> LimitState:
        """Return the state of a rate. What is taken falls at the pace of this request; a level from which nothing is
        taken falls on at the pace of the request that took from it."""
        level, known = self.level(charge, now), (charge.rule, charge.key) in self.levels
        most, pace = self.pace(charge, level)
        tokens, back = level.tokens, level.back if known else pace
        if taken and not self.covers(charge):
            tokens, back = tokens + charge.cost, pace
        elif refused and charge.counts and not self.covers(charge):
            tokens, back = max(tokens, min(tokens + charge.cost, Fraction(most))), pace
        retry: int | None = 0
        if not fits:
            retry = None if charge.cost > most else ceil((tokens + charge.cost - most) / back) * charge.tick
        base = Fraction(charge.flow.drain, charge.token)
        reset = ceil(tokens / back) * charge.tick
        return LimitState(fits, most, max(0, floor(most - tokens)), reset, retry, float(pace / base))

    def retry(self, charge: BudgetCharge | ConcurrencyCharge, now: int) -> int | None:
        match charge:
            case BudgetCharge():
                ends = sorted(one[0] + charge.within for one in self.window(charge, now))
                return next((end - now for end in ends if self.room(charge, end)), None)
            case ConcurrencyCharge():
                return min(until for until, _ in self.places(charge, now)) - now

    def window(self, charge: BudgetCharge, now: int) -> list[tuple[int, int, str | None, str]]:
        return [one for one in self.added.get((charge.rule, charge.key), []) if one[0] > now - charge.within]

    def places(self, charge: ConcurrencyCharge, now: int) -> list[tuple[int, str]]:
        return [one for one in self.held.get((charge.rule, charge.key), []) if one[0] > now]
