"""Charges the store for allows of the fast path; generated code calls this module."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from policyengine.clock import Clock
from policyengine.engine.question import new_id
from policyengine.runtime.apply_limits import apply_limits, deny_unanswered
from policyengine.runtime.current_caller import outcome_key
from policyengine.runtime.decision import Answer, Decision, Effects, PrincipalTuple
from policyengine.runtime.history import HistoryRecord
from policyengine.runtime.ids import Stamp
from policyengine.runtime.limits import ChargeResult, RateCharge, to_limit_charge
from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore

SIMPLE_CHARGE_TYPES = {tuple}  # a meter and a key; full charges are instances of a subclass


class StoreCharger:
    """Charges a store for decisions of the fast path, under their ids."""

    def __init__(self, store: Store, clock: Clock, ids: Callable[[datetime], str]) -> None:
        self._store, self._clock, self._ids = store, clock, ids
        self._look_up_rates = store.plainly if isinstance(store, MemoryStore) else None

    def charge(
        self, answer: Answer, principal: PrincipalTuple, stamp: Stamp, charges: tuple[Any, ...]
    ) -> Decision | None:
        """Return the decision with the state of its limits, or None if the state of the policies has changed in the
        meantime."""
        decision = Decision(answer, principal, stamp)
        if not charges:
            return decision
        if self._look_up_rates is not None and set(map(type, charges)) == SIMPLE_CHARGE_TYPES:
            standings = self._look_up_rates(charges, stamp_microseconds(stamp) * 1_000)
            return apply_limits(decision, [meter.limited for meter, _ in charges], standings)
        limits = tuple(map(to_limit_charge, charges))
        name = ""
        if not all(isinstance(limit.charge, RateCharge) for limit in limits):  # a charge may be refunded later
            decision = self._with_id(decision)
            name = outcome_key(decision.id)
        return self._commit(decision, Effects(limits=limits), name, stamp)

    def note(
        self,
        answer: Answer,
        principal: PrincipalTuple,
        stamp: Stamp,
        charges: tuple[Any, ...],
        records: tuple[HistoryRecord, ...],
        changes: int,
    ) -> Decision | None:
        """Return the decision as `charge` does, if it is recorded in history or depends on history; None if that
        history has changed."""
        assert isinstance(self._store, MemoryStore)
        decision = Decision(answer, principal, stamp)
        name = ""
        if charges or any(record.awaits for record in records):
            decision = self._with_id(decision)
            name = outcome_key(decision.id)
        if not charges:
            return decision if self._store.note(records, name, stamp_microseconds(stamp), changes) else None
        effects = Effects(limits=tuple(map(to_limit_charge, charges)), records=records)
        return self._commit(decision, effects, name, stamp, changes)

    def _commit(
        self, decision: Decision, effects: Effects, name: str, stamp: Stamp, changes: int | None = None
    ) -> Decision | None:
        at = stamp_microseconds(stamp)
        if changes is None:
            result = self._store.commit(effects, name, at)
        else:
            assert isinstance(self._store, MemoryStore)
            result = self._store.commit(effects, name, at, changes=changes)
        return None if result is None else apply_charges(decision, effects, result)

    def _with_id(self, decision: Decision) -> Decision:
        """Return the decision with its id; the engine's own ids are derived from its stamp."""
        if self._ids is new_id:
            return decision
        assert isinstance(decision.stamp, tuple)
        return decision.with_id((decision.stamp[0], self._ids(self._clock())))


def apply_charges(decision: Decision, effects: Effects, result: ChargeResult) -> Decision:
    """Return the decision with the store's result, if there is one."""
    if result.failed is None:
        return apply_limits(decision, effects.limits, result.standings)
    remembered = bool(effects.records or effects.relied)
    approved = bool(effects.spends)
    return deny_unanswered(decision, effects.limits, approved=approved, remembered=remembered, why=result.reason)


def stamp_microseconds(stamp: Stamp) -> int:
    """Return the time of a decision of the fast path."""
    assert not isinstance(stamp, str)
    return stamp[0] // 1_000
