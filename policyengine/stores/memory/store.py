"""The memory store: used approvals, states of limits, and history in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeAlias, assert_never

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import (
    BudgetCharge,
    BudgetEntries,
    Charge,
    ChargeResult,
    ConcurrencyCharge,
    CountKey,
    LimitCharge,
    LimitState,
    RateCharge,
    SlotHolders,
    TokenBucket,
)
from policyengine.stores.approvals import MemoryApprovals
from policyengine.stores.base import CommitRequest, CommitResult, commit_individually
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.credential_marks import MemoryMarks
from policyengine.stores.halts import HaltStore, MemoryHalts
from policyengine.stores.memory.capacity import CapacityAlarm
from policyengine.stores.memory.eviction import SweepSchedule
from policyengine.stores.memory.history import MemoryHistory
from policyengine.stores.memory.idempotency import MemoryIdempotencyKeys
from policyengine.stores.memory.known_rates import charge_known_rates
from policyengine.stores.memory.prepaid_tokens import PrepaidTokens, PrepaymentReceipts
from policyengine.stores.transition import StoreTransition, apply_charges, receipt_name, reportable_until

MAX_KEYS = 1_000_000  # maximum keys of all rules together
BETWEEN_THREADS = 1_000  # microseconds, because threads may arrive in another order than they read the clock
MIN_KEYS_TO_SWEEP = 10_000  # minimum number of keys for which a search for keys to evict is worthwhile


LimitStates: TypeAlias = dict[CountKey | str, Any]
SteadyLevel: TypeAlias = tuple[int, int, int, int, int]  # level (units), then `most`, `drain`, `token` and `tick`


@dataclass(slots=True)
class RuleStates:
    """The states of one rule by key; `like` is one charge of the rule, which defines the unit of the states."""

    like: Charge
    states: LimitStates = field(default_factory=dict)


class MemoryStore:
    """A store in memory, lost when its process ends, with at most `most_keys` keys.

    A rule gets no new key while it has more keys than are free, so that one rule fills at most half of the store and
    there is always room for other rules. Keys that no longer count (full buckets, and entries that have left their
    window) are evicted. Spent approvals are never evicted; they are few, because people grant them. History before the
    creation of the store is unknown, unless `history_complete` says that there was none.

    The store's clock is the latest time that a caller gave it. If the clock of the caller is set back by more than
    `max_skew` microseconds, the store refuses calls until the caller's clock has caught up, because with a clock that
    does not advance, expired windows would still count.
    """

    def __init__(
        self, *, most_keys: int = MAX_KEYS, history_complete: bool = False, max_skew: int = MAX_SKEW_MICROSECONDS
    ) -> None:
        self.fullness = CapacityAlarm()
        self.marks = MemoryMarks(max_skew=max_skew, fullness=self.fullness)
        self.approvals = MemoryApprovals(fullness=self.fullness)
        self.skew = ClockSkew(max_skew, is_own_memory=True)
        self.halts: HaltStore = MemoryHalts()
        self._spent: set[str] = set()
        self._receipts = PrepaymentReceipts()
        self._rules: dict[object, RuleStates] = {}
        # For each decision, the end of the time in which its outcome can be reported, and its charges, which are empty
        # after the report. The first key of a plain dict is searched among all keys that were deleted before it.
        self._made: OrderedDict[str, tuple[int, tuple[Charge, ...]]] = OrderedDict()
        self._clock = self._keys = 0
        self._most, self._sweep_at = most_keys, MIN_KEYS_TO_SWEEP
        self._sweeps = SweepSchedule()
        self._lock, self._claims = Lock(), MemoryIdempotencyKeys()
        self._memories = MemoryHistory(
            self._lock, complete=history_complete, most_keys=most_keys, fullness=self.fullness
        )

    @property
    def behavior(self) -> None:
        return None

    def check(self, now: int) -> None:
        with self._lock:
            self._check_clock(now)

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        return frozenset(self._spent.intersection(approvals))

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        behavior = effects.behavior
        with self._lock:
            now = self._peek_clock(now) if peek else self._check_clock(now)
            if behavior is None or peek:
                return self._commit(effects, decision, now, peek=peek)
            if not behavior.is_current():
                return None
            settled = self._commit(effects, decision, now, peek=False)
            if settled is not None:
                behavior.settle(decision, settled[0])
            return settled

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        with self._lock:
            return self._claims.claim(claim, self._move_clock(now))

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        with self._lock:
            self._claims.release(claim)

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
        return commit_individually(self, asked, now)

    def _peek_clock(self, now: int) -> int:
        """Return the time, in microseconds, for a caller that only peeks, possibly at a later time. The store's clock
        does not advance.
        """
        return max(self._clock, now)

    def _move_clock(self, now: int) -> int:
        """Advance the store's clock, which never runs backwards, and return its time in microseconds."""
        self._clock = moved = max(self._clock, now)
        return moved

    def _check_clock(self, now: int) -> int:
        """Advance the store's clock for a decision, and return its time in microseconds. Raises ClockSkewError."""
        latest = self._clock
        if now >= latest:
            self._clock = latest = now
        if latest - now > BETWEEN_THREADS or self.skew.exceeded:
            self.skew.between(now, latest, now)
            self.skew.check()
        return latest

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        with self._lock:
            until, charges = self._made.get(decision, (0, ()))
            if until <= max(now, self._clock):
                return None
            for charge in charges:
                state = self._state(charge)
                if isinstance(charge, ConcurrencyCharge):
                    self._keep(charge, tuple(one for one in state or () if one[0] != decision))
                elif refund:
                    self._keep(charge, tuple(one for one in state or () if one.decision != decision))
            self._made[decision] = until, ()
            return "first" if charges else "again"

    def begin(self, watches: Iterable[str], now: int) -> None:
        with self._lock:
            self._memories.begin(watches, self._move_clock(now))

    def end(self, watches: Iterable[str]) -> None:
        with self._lock:
            self._memories.end(frozenset(watches))

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        with self._lock:
            return self._memories.fetch(keys, self._check_clock(now))

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        with self._lock:
            return self._memories.report(decision, report, self._move_clock(now))

    # ── One step ──────────────────────────────────────────────────────────────────────────────

    def _commit(self, effects: Effects, decision: str, now: int, *, peek: bool) -> ChargeResult | None:
        if has_only_limits(effects):
            settled = self._charge_steady_rates(effects.limits, now, peek=peek)
            if settled is None:
                settled = self._charge_known_rates(effects.limits, now, peek=peek)
            if settled is not None:
                return settled
        elif has_only_records(effects):
            return self._record(effects, decision, now, peek=peek)
        if not self._spent.isdisjoint(effects.spends) or (
            not peek and not self._memories.have_versions(effects.relied)
        ):
            return None
        if effects.claim is not None and not self._claims.holds(effects.claim):
            return None
        states = [self._state(one.charge) for one in effects.limits]
        done = apply_charges(effects, states, self._paid(effects, now), now, decision)
        if not peek:
            self._done(effects, decision, now, done)
        if effects.claim is not None:
            self._claims.keep(effects.claim, done.settled, now)
        return done.settled

    def _charge_steady_rates(
        self, limits: Sequence[LimitCharge], now: int, *, peek: bool = False
    ) -> ChargeResult | None:
        """Charge rates of a constant pace as the general step does, but without its objects, because most decisions
        charge nothing else. Return None, and change nothing, if there is any other charge.
        """
        levels: list[tuple[LimitStates, CountKey | str, int, SteadyLevel]] = []
        grown: list[LimitStates] = []
        admitted = True
        for limited in limits:
            charge = limited[0]
            if type(charge) is not RateCharge:
                return None
            rule, key, cost, (most, drain), token, tick, clamps, counts, steady, _ = charge
            if not steady or cost != 1 or most < 1 or clamps or counts:
                return None
            known = self._rules.get((rule, token, tick, drain))
            states = self._counts(charge).states if known is None else known.states
            compact = key[0] if len(key) == 1 else key
            stored, empty = states.get(compact), now // tick * drain
            if stored is None:
                grown.append(states)
            level = stored - empty if stored is not None and stored > empty else 0
            if level + token > most * token:
                admitted = False
            levels.append((states, compact, empty, (level, most, drain, token, tick)))
        if not admitted:
            return ChargeResult(tuple([state_beside_others(level) for _, _, _, level in levels]), now)
        if grown and not peek:
            self._make_room(grown, now)
        found = []
        for states, compact, empty, (level, most, drain, token, tick) in levels:
            after = level + token
            if not peek:
                if compact not in states:
                    self._keys += 1
                states[compact] = empty + after
            found.append(LimitState(True, most, (most * token - after) // token, -(-after // drain) * tick, 0))
        return ChargeResult(tuple(found), now)

    def _charge_known_rates(
        self, limits: Sequence[LimitCharge], now: int, *, peek: bool = False
    ) -> ChargeResult | None:
        """Charge rates as the general step does, but without its objects. Return None, and change nothing, if there is
        any other charge, a new key, or a rate that does not admit the request."""
        return charge_known_rates(self._rules, limits, now, peek=peek)

    def _record(self, effects: Effects, decision: str, now: int, *, peek: bool) -> ChargeResult | None:
        """Record the events of a decision as the general step does, without its objects. Return None, and record
        nothing, if a history on which the decision relies has changed.
        """
        if not peek:
            if not self._memories.have_versions(effects.relied):
                return None
            self._memories.make_room(effects.records, now)
            self._memories.keep(effects.records, decision, now)
        return ChargeResult((), now)

    def _paid(self, effects: Effects, now: int) -> list[int]:
        """Return for each limit the tokens that earlier confirms of this decision already paid."""
        name = receipt_name(effects.confirms)
        return [self._receipts.tokens(receipt_owner(one.charge), name, now) if name else 0 for one in effects.limits]

    def _done(self, effects: Effects, decision: str, now: int, done: StoreTransition) -> None:
        """Apply a transition. Room for new keys is made before any change, so a full store changes nothing."""
        kept, spends = done.kept, done.settled.admitted and not effects.denied
        records = effects.records if spends or effects.denied else ()
        counted = ((self._counts(one.charge).states, compact_key(one.charge)) for one in kept)
        self._make_room([states for states, key in counted if key not in states], now)
        self._memories.make_room(records, now)
        self._memories.keep(records, decision, now)
        for update in kept:
            self._keep(update.charge, update.state)
        self._receive(done, receipt_name(effects.confirms))
        if spends and not effects.opens:
            self._spent.update(effects.spends)
            until, lasts = reportable_until([one.charge for one in effects.limits], now)
            if lasts:
                self._forget_made(now)
                self._made[decision] = until, lasts

    def _forget_made(self, now: int) -> None:
        """Delete up to two expired decisions, so that no call takes long. Called for each new decision, so only
        decisions within the longest window remain."""
        for _ in range(2):
            first = next(iter(self._made), None)
            if first is not None and (self._made[first][0] <= now or len(self._made) >= self._most):
                del self._made[first]

    def _receive(self, done: StoreTransition, name: str) -> None:
        for charge, tokens, until in done.receipts:
            if tokens:
                self._receipts.put(receipt_owner(charge), name, PrepaidTokens(tokens, until))
            else:
                self._receipts.drop(receipt_owner(charge), name)

    def _state(self, charge: Charge) -> Any:
        found = self._counts(charge).states.get(compact_key(charge))
        if isinstance(charge, RateCharge) and charge.steady and found is not None:
            at = self._clock // charge.tick
            return TokenBucket(max(0, found - at * charge.flow.drain), at, charge.flow.drain)
        return found

    def _keep(self, charge: Charge, state: TokenBucket | BudgetEntries | SlotHolders) -> None:
        states, key = self._counts(charge).states, compact_key(charge)
        if not state:
            self._keys -= states.pop(key, None) is not None
            return
        self._keys += key not in states
        # The state of a steady rate is one number: the units that all ticks drain until the bucket is empty.
        steady = isinstance(charge, RateCharge) and charge.steady and isinstance(state, TokenBucket)
        states[key] = state.at * state.drain + state.level if steady else state  # type: ignore[union-attr]  # a bucket

    def _counts(self, charge: Charge) -> RuleStates:
        name = rule_identity(charge)
        found = self._rules.get(name)
        if found is None:
            found = self._rules[name] = RuleStates(charge)
        return found

    # ── Capacity ──────────────────────────────────────────────────────────────────────────────

    def _make_room(self, grown: Sequence[LimitStates], now: int) -> None:
        """Make room for one more key in each state. Raises StoreFullError, and changes nothing, if there is not enough
        for all."""
        crowded = self._evict_if_full(grown, now)
        if crowded is not None:
            rule = next(one.like.rule for one in self._rules.values() if one.states is crowded)
            held = f"`{rule}` holds {len(crowded):,} of at most {self._most:,} keys"
            raise self.fullness.refusal(f"the memory store has no room for another key of one rule: {held}")

    def _evict_if_full(self, grown: Sequence[LimitStates], now: int) -> LimitStates | None:
        """Return the states of a rule that may not get another key, after evicting keys that no longer count; None if
        every rule has room."""
        if not grown or (self._keys + len(grown) <= self._sweep_at and self._find_crowded(grown) is None):
            return None
        if self._sweeps.due(now):
            self._forget(now)
            self._sweeps.done(now, self._keys)
            self._sweep_at = max(MIN_KEYS_TO_SWEEP, 2 * self._keys)
        return self._find_crowded(grown)

    def _find_crowded(self, grown: Sequence[LimitStates]) -> LimitStates | None:
        """Return the states of a rule that may not get another key, or None."""
        free = self._most - self._keys - len(grown)
        return next((states for states in grown if len(states) > free), None)

    def _forget(self, now: int) -> None:
        """Evict everything that no longer counts."""
        self._memories.forget(now)
        self._made = OrderedDict((one, made) for one, made in self._made.items() if made[0] > now)
        self._receipts.forget(now)
        for rule in self._rules.values():
            for key in [key for key, state in rule.states.items() if not is_significant(state, rule.like, now)]:
                del rule.states[key]
        self._keys = sum(len(rule.states) for rule in self._rules.values())


def has_only_limits(effects: Effects) -> bool:
    """Return whether the only effects of a decision are ordinary charges to limits."""
    return not (
        effects.spends
        or effects.opens
        or effects.denied
        or effects.records
        or effects.relied
        or effects.claim is not None
        or effects.confirms
    )


def has_only_records(effects: Effects) -> bool:
    """Return whether the only effects of a decision are records in the history."""
    return not (effects.limits or effects.spends or effects.opens or effects.claim is not None or effects.confirms)


def state_beside_others(of: SteadyLevel) -> LimitState:
    """Return the state of a rate for a request that was not charged, because this rate or another rate had no room."""
    level, most, drain, token, tick = of
    over = level + token - most * token
    remaining, reset = max(0, most * token - level) // token, -(-level // drain) * tick
    return LimitState(over <= 0, most, remaining, reset, -(-over // drain) * tick if over > 0 else 0)


def rule_identity(charge: Charge) -> object:
    """Return the identity of a rule across policies; for a rate this includes the pace, the unit of its states."""
    if not isinstance(charge, RateCharge):
        return charge.rule
    return charge.rule, charge.token, charge.tick, charge.flow.drain if charge.steady else None


def receipt_owner(charge: Charge) -> object:
    return rule_identity(charge), compact_key(charge)


def compact_key(charge: Charge) -> CountKey | str:
    """Return a key that has one part as that part itself, which saves memory with millions of keys."""
    return charge.key[0] if len(charge.key) == 1 else charge.key


def is_significant(state: Any, charge: Charge, now: int) -> bool:
    """Return whether a state differs from an empty state at `now`."""
    match charge:
        case RateCharge(steady=True):
            return bool(state > now // charge.tick * charge.flow.drain)
        case RateCharge():
            return bool(state.full_at() > now // charge.tick)
        case BudgetCharge():
            return any(one.at > now - charge.within for one in state)
        case ConcurrencyCharge():
            return any(until > now for _, until in state)
        case _:
            assert_never(charge)
