"""Stores with learned behavior: what an engine learned in ten days, and several processes that share it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from policyengine import Engine
from policyengine.behavior.events import ALLOWED, DENIED, HELD, Caller, Tagger
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.row import HOUR, MAX_LEVEL
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.shared_keys import derive, sign_model
from policyengine.behavior.shared_rows import encode_saved
from policyengine.behavior.state import BehaviorState
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.runtime.behavior import BehaviorCharge
from policyengine.runtime.decision import Decision, Effects
from policyengine.stores.base import Store
from policyengine.stores.behavior import (
    MODEL,
)
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sql.store import SqlStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.reporting_agents import POLICY, FakeClock, work

KEY = b"k" * 32
CALLER = Caller("idp", "report-0")


class Stores:
    """Creates empty stores, and opens them again as another process does."""

    def __init__(self, fresh: Callable[[], Store]) -> None:
        self._fresh, self._opened = fresh, list[Any]()

    def __call__(self) -> Store:
        return self._keep(self._fresh())

    def again(self, store: Any) -> Store:
        if isinstance(store, MemoryStore):
            return store
        if isinstance(store, SqliteStore):
            return self._keep(SqliteStore(store.path))
        if isinstance(store, SqlStore):
            return self._keep(store.again())  # type: ignore[attr-defined]
        return self._keep(type(store)(store._client, virtual=True))

    def _keep(self, store: Any) -> Store:
        self._opened.append(store)
        found: Store = store
        return found

    def close(self) -> None:
        for store in self._opened:
            if not isinstance(store, MemoryStore):
                getattr(store, "_wires", store).close()


def engine_of(store: Store, clock: FakeClock) -> Engine:
    return Engine.from_text(POLICY, clock=clock, store=store)


def keep(engines: list[Engine], clock: FakeClock) -> None:
    """Learn the model of a new day before its first request, as one process does by itself."""
    for engine in engines:
        tracker = engine.behavior
        if isinstance(tracker, SharedTracker):
            at = int(clock.now.timestamp() * 1_000)
            tracker._last, tracker._settings_of = max(at, tracker._last), engine.decider.behavior.settings_of
            tracker.keep()


def told(decision: Decision) -> str:
    return f"{decision.outcome} {decision.rates[0].limit if decision.rates else ''}"


def learn_ten_days() -> BehaviorState:
    """Return what an engine learned in ten days."""
    clock = FakeClock()
    tracker = BehaviorTracker(BehaviorState(Tagger(derive(KEY, b"tags"))))
    work(Engine.from_text(POLICY, clock=clock, behavior=tracker), clock)
    tracker.state.learn(int(clock.now.timestamp() * 1_000) + 18 * HOUR, lambda group: ProfileSettings("reporting"))
    return tracker.state


def charge_of(chance: random.Random, at: int) -> BehaviorCharge:
    outcome = chance.choice([ALLOWED, ALLOWED, DENIED, HELD])
    base = chance.choice([0, 0, 0, 3, 20])
    pace = chance.choice([16, 10**4, 2**32])
    ceilings = chance.choice([MAX_LEVEL, 10**8, 10**9]), chance.choice([MAX_LEVEL, 10**8, 3 * 10**8])
    row = chance.choice([b"", bytes(range(256))])
    return BehaviorCharge(
        chance.choice(["a" * 32, "b" * 32]), at, 16 * HOUR, MAX_LEVEL, (2 * pace, 10 * pace), ceilings,
        chance.choice([0, at - 50]), at + chance.choice([10**9, 2]), chance.random() < 0.4, chance.random() < 0.1,
        outcome, HELD if outcome == ALLOWED else outcome, (2**32 - 1, 7, 3), base, base + chance.randrange(8), row,
        10**6, outcome == ALLOWED, chance.choice([(MAX_LEVEL, MAX_LEVEL), (10**9, 2 * 10**9)]),
    )  # fmt: skip


def teach(store: Store, learned: BehaviorState) -> None:
    """Put what was learned into a shared store."""
    behavior = store.behavior
    assert behavior is not None
    behavior.shared_key(KEY)
    behavior.save_document(MODEL, learned.model.content.serial, sign_model(learned.model, derive(KEY, b"models")))
    tracker = SharedTracker(behavior)
    for caller, found in learned.rows.items():
        group, row = found.group, found.row
        charge = charge_of(random.Random(1), row.level_at)
        charge.key, charge.outcome, charge.content = tracker.key_of(caller), DENIED, (0, 0, 0)
        charge.burst, charge.ceilings, charge.falls, charge.strict = (
            False,
            (MAX_LEVEL, MAX_LEVEL),
            (10**6, 10**6),
            False,
        )
        for base, number, saved in ((0, 0, b""), (0, 1, encode_saved(caller.issuer, caller.agent, group, row))):
            charge.base, charge.number, charge.row, charge.lasts = base, number, saved, 10**9
            assert store.commit(Effects(behavior=charge), "", row.level_at * 1_000) is not None


def tracker_of(engine: Engine) -> SharedTracker:
    assert isinstance(engine.behavior, SharedTracker)
    return engine.behavior
