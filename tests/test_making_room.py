"""What makes room by dropping the oldest keys takes the same work however many keys were dropped before.

The first key of a plain dict is found by a search among all keys that were deleted before it, so a flood of new keys
would make each of them slower.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import DecisionRecord, read_log
from policyengine.behavior import log_events, shared
from policyengine.behavior.events import ALLOWED
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.log_events import LogEventReader
from policyengine.behavior.shared import SharedTracker
from policyengine.runtime.behavior import CallerEvent, CallerHistory
from policyengine.runtime.idempotency import GATEWAY_DIGITS, IdempotencyClaim
from policyengine.stores.base import StoreError
from policyengine.stores.memory import prepaid_tokens
from policyengine.stores.memory.idempotency import MemoryIdempotencyKeys
from policyengine.stores.memory.prepaid_tokens import PrepaidTokens, PrepaymentReceipts
from policyengine.stores.memory.store import MemoryStore
from tests.behavior.reporting_agents import POLICY, FakeClock, question
from tests.counted_order import CountedOrder
from tests.stores.charges import START, asks, budget

MOST, TIMES = 50, 400


def work_of(order: CountedOrder, add: Callable[[int], object], times: int = TIMES) -> list[int]:
    """Return what each of many new keys takes."""
    counts = []
    for number in range(times):
        before = order.count
        add(number)
        counts.append(order.count - before)
    return counts


def assert_is_bounded(counts: list[int]) -> None:
    assert set(counts[MOST + 1 :]) == {counts[MOST + 1]}
    assert 0 < counts[MOST + 1] < 8


def test_the_memory_store_forgets_the_oldest_reportable_decision() -> None:
    store, effects = MemoryStore(most_keys=MOST), asks(budget(1_000))
    assert type(store._made) is OrderedDict
    store._made = order = CountedOrder()
    assert_is_bounded(work_of(order, lambda number: store.commit(effects, f"decision {number}", START)))
    assert list(order) == [f"decision {number}" for number in range(TIMES - MOST, TIMES)]
    store._forget(START)
    assert type(store._made) is OrderedDict


def test_the_memory_store_forgets_the_oldest_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepaid_tokens, "MAX_RECEIPTS", MOST)
    receipts = PrepaymentReceipts()
    assert type(receipts._paid) is OrderedDict
    receipts._paid = order = CountedOrder()
    assert_is_bounded(work_of(order, lambda number: receipts.put(number, "confirm", PrepaidTokens(1, 10))))
    assert list(order) == list(range(TIMES - MOST, TIMES))


def test_the_memory_store_forgets_the_oldest_idempotency_key() -> None:
    keys, claim = MemoryIdempotencyKeys(MOST), IdempotencyClaim("e" * GATEWAY_DIGITS, "digest", "token")
    keys.claim(claim, START)
    assert type(keys._kept[claim.gateway]) is OrderedDict
    keys._kept[claim.gateway] = order = CountedOrder()
    assert_is_bounded(work_of(order, lambda number: keys.claim(claim._replace(name=f"{claim.name}{number}"), START)))
    assert len(keys) == MOST


class SilentStore:
    def shared_key(self, _: bytes) -> bytes:
        raise StoreError("gone")


def test_a_process_with_a_shared_store_forgets_the_caller_that_it_read_earliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "MAX_CACHED_CALLERS", MOST)
    tracker = SharedTracker(SilentStore())  # type: ignore[arg-type]
    assert type(tracker._callers) is OrderedDict
    tracker._callers = order = CountedOrder()
    first = CallerHistory(0, None, 1, (CallerEvent(START // 1_000, 0, 0, 0, ALLOWED, False, (1, 0, 0)),))
    assert_is_bounded(work_of(order, lambda number: tracker._merge(f"{number}", first, -1, ProfileSettings())))
    assert list(order) == [f"{number}" for number in range(TIMES - MOST, TIMES)]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    clock = FakeClock()
    engine = Engine.from_text(POLICY, clock=clock, log=DecisionLog(tmp_path / "log.jsonl", seal=None))
    assert engine.decide(question()).allowed
    clock.now += timedelta(seconds=1)
    engine.log.close()
    return engine


@pytest.fixture
def records(engine: Engine, tmp_path: Path) -> Iterator[DecisionRecord]:
    """Yield a decision of a log again and again, each time with another id."""
    [record] = [one for one in read_log(tmp_path / "log.jsonl") if isinstance(one, DecisionRecord)]
    return (replace(record, decision={**record.decision, "id": f"{number}"}) for number in range(TIMES))


@pytest.mark.parametrize("name", ["_seen", "_callers"])
def test_the_reader_of_a_log_forgets_the_oldest_decision(
    name: str, engine: Engine, records: Iterator[DecisionRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_events, "MAX_REPORTABLE", MOST)
    reader = LogEventReader(engine.decider.behavior)
    assert type(getattr(reader, name)) is OrderedDict
    setattr(reader, name, order := CountedOrder())
    assert_is_bounded(work_of(order, lambda _: reader.read(next(records))))
    assert list(order) == [f"{number}" for number in range(TIMES - MOST, TIMES)]
