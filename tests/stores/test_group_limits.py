"""Groups in every store: what a member is charged, and the groups of processes that share a store."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from typing import Any

import pytest

from policyengine.behavior import recent_requests, shared_requests
from policyengine.behavior.events import Caller
from policyengine.behavior.operator_store import StoredBehavior
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.shared_requests import StoredRequests
from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import LimitCharge
from policyengine.stores.base import Store, StoreError
from policyengine.stores.floors import choose_parts
from policyengine.stores.memory.store import MemoryStore
from tests import forking
from tests.behavior.keys_of_one_clock import BEGIN, POLICY, Clockwork
from tests.stores.charges import SECOND, START, rate
from tests.stores.learned import Stores

RATE, FLOOR = 100, 2  # less than those of the policy, so that fewer requests reach them
SMALL = POLICY.replace("600/1m floor 6/1m", f"{RATE}/1m floor {FLOOR}/1m")
KEYS = [f"key-{number}" for number in range(6)]
NOON = BEGIN + timedelta(days=1, hours=12)


@pytest.fixture(autouse=True)
def forked_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that search for groups, instead of starting each with its imports."""
    monkeypatch.setattr(sys, "executable", forking.python())


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────


def divided(member: str, **more: Any) -> LimitCharge:
    """Return the charge of a member: two requests at once for itself, and four for all members."""
    own = LimitCharge(rate(2, 60 * SECOND, key=f"ring {member}", rule="r#floor", **more), "r", "", "own")
    return LimitCharge(rate(4, 60 * SECOND, key="ring", **more), "r", "", "shared", own=own)


def charged(store: Store, member: str, at: int = START, **effects: Any) -> tuple[str, bool]:
    """Return which part a member is charged, and whether the request passes."""
    found = choose_parts(store, Effects(limits=(divided(member),), **effects), f"{member} {at}", at)
    assert found.limits[0].own is None
    result = store.commit(found, f"{member} {at}", at)
    assert result is not None
    return found.limits[0].words, result.admitted


def test_a_member_takes_its_own_part_first_and_then_the_shared_one(store: Store) -> None:
    assert [charged(store, "ann") for _ in range(7)] == [("own", True)] * 2 + [("shared", True)] * 4 + [
        ("shared", False)
    ]
    assert [charged(store, "bob") for _ in range(3)] == [("own", True)] * 2 + [("shared", False)]


def test_a_choice_changes_nothing(store: Store) -> None:
    effects = Effects(limits=(divided("ann"),))
    chosen = {choose_parts(store, effects, f"d{number}", START).limits[0].words for number in range(10)}
    assert chosen == {"own"}
    assert choose_parts(store, Effects(), "d", START) == Effects()


def test_a_full_member_waits_for_the_part_that_has_room_first(store: Store) -> None:
    for _ in range(2):
        charged(store, "ann")
    for _ in range(4):
        charged(store, "ann", START + 29 * SECOND)
    # The own part has room after 30 s, the shared one after 44 s.
    assert charged(store, "ann", START + 29 * SECOND + 1) == ("own", False)


def test_what_others_do_between_choice_and_commit_does_not_take_the_floor(store: Store) -> None:
    chosen = choose_parts(store, Effects(limits=(divided("ann"),)), "ann", START)
    while charged(store, "bob")[1]:
        pass
    result = store.commit(chosen, "ann", START)
    assert result is not None
    assert result.admitted


def test_a_denied_request_counts_for_the_own_part_alone(store: Store) -> None:
    def deny(member: str) -> None:
        found = choose_parts(store, Effects(limits=(divided(member, counts=True),), denied=True), member, START)
        store.commit(found, member, START)

    for _ in range(5):
        deny("ann")
    assert charged(store, "bob") == ("own", True)
    assert charged(store, "ann") == ("shared", True)


def test_a_store_that_does_not_answer_leaves_the_own_part() -> None:
    class FailingStore(MemoryStore):
        def commit(self, *of: Any, **how: Any) -> Any:
            return super().commit(*of, **how)._replace(failed="down")

    chosen = choose_parts(FailingStore(), Effects(limits=(divided("ann"),)), "ann", START)
    assert chosen.limits[0].words == "own"


# ── Processes that share a store ─────────────────────────────────────────────────────────────────


def tracker_of(clockwork: Clockwork) -> SharedTracker:
    tracker = clockwork.engine.behavior
    assert isinstance(tracker, SharedTracker)
    return tracker


def run_day(processes: list[Clockwork], day: int, keys: list[str], runs: int = 12) -> None:
    """Let the keys run on one clock; the processes take turns."""
    first = processes[0]
    for at in first.times(day, runs):
        for number, key in enumerate(keys):
            for step in range(3):
                first.random.choice(processes).decide(key, at + timedelta(seconds=number / 8 + step))


def keep(processes: list[Clockwork], day: int) -> None:
    for clockwork in [*processes, *processes]:
        clockwork.decide("clock", BEGIN + timedelta(days=day))
        tracker_of(clockwork).keep()


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the threads of trackers: tests learn models when they want to."""
    monkeypatch.setattr(SharedTracker, "start", lambda self: None)


@pytest.fixture
def processes(shared: Stores) -> list[Clockwork]:
    store = shared()
    if store.behavior is None:
        pytest.skip("only this process uses a memory store")
    return [Clockwork(SMALL, store=shared.again(store)) for _ in range(3)]


def test_processes_find_groups_in_their_requests_together(processes: list[Clockwork]) -> None:
    keep(processes, 0)
    run_day(processes, 0, KEYS)
    for clockwork in processes:
        tracker_of(clockwork).keep()
    keep(processes, 1)
    found = [clockwork.decide("key-3", NOON).principal for clockwork in processes]
    assert {(one.cluster_size, one.cluster) for one in found} == {(6, found[0].cluster)}
    assert processes[0].decide("clock", NOON).principal.cluster == "clock"
    counts = [sum(one.decide("key-3", NOON).allowed for _ in range(50)) for one in processes]
    assert sum(counts) == RATE - 5 * FLOOR - 3


def test_the_store_contains_no_name_of_an_agent(processes: list[Clockwork]) -> None:
    run_day(processes, 0, KEYS, runs=4)
    for clockwork in processes:
        tracker_of(clockwork).keep()
    store = tracker_of(processes[0])._store
    parts = list(store.requests(int(BEGIN.timestamp()) // 86_400))
    assert len(parts) == 3
    assert not any(b"key-" in part for part in parts)


def test_damaged_parts_are_left_out_and_logged(processes: list[Clockwork], caplog: pytest.LogCaptureFixture) -> None:
    run_day(processes, 0, KEYS, runs=4)
    for clockwork in processes:
        tracker_of(clockwork).keep()
    tracker = tracker_of(processes[0])
    day = int(BEGIN.timestamp()) // 86_400
    [first, *_] = tracker._store.requests(day)
    for damaged in (first[:-1], b""):
        tracker._store.add_requests(day, damaged, tracker._last * 1_000)
    with caplog.at_level(logging.ERROR, "policyengine"):
        found = tracker._requests.load(tracker._keys, day + 1)
    assert len(found) == 4 * 6 * 3
    assert [record.message for record in caplog.records] == [
        "2 parts of the recent requests in the store are damaged, and are left out"
    ]


def test_an_operator_takes_a_caller_out_of_its_group(processes: list[Clockwork]) -> None:
    keep(processes, 0)
    run_day(processes, 0, KEYS)
    for clockwork in processes:
        tracker_of(clockwork).keep()
    keep(processes, 1)
    tracker = tracker_of(processes[0])
    StoredBehavior(tracker._store).forget(Caller("acme", "key-3"))
    keep(processes, 1)
    assert processes[0].decide("key-3", NOON).principal.cluster_size == 1
    assert processes[0].decide("key-2", NOON).principal.cluster_size == 5


# ── Sending ──────────────────────────────────────────────────────────────────────────────────────


class ListingStore:
    """Lists the parts that it gets; it fails while `fails` is set."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, bytes]] = []
        self.fails = False

    def add_requests(self, day: int, part: bytes, now: int) -> None:
        if self.fails:
            raise StoreError("down")
        self.parts.append((day, part))


def test_requests_wait_while_the_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from policyengine.behavior.shared_keys import SharedKeys

    store, keys = ListingStore(), SharedKeys(b"k" * 32)
    requests: Any = StoredRequests(store)  # type: ignore[arg-type]
    store.fails = True
    for number in range(4):
        requests.add(number, Caller("acme", "bot"), "hash", 1, 1, 0)
        with pytest.raises(StoreError):
            requests.send(keys, 0)
    store.fails = False
    requests.send(keys, 0)
    requests.send(keys, 0)
    assert len(store.parts) == 4
    monkeypatch.setattr(shared_requests, "MAX_WAITING", 2)
    store.fails = True
    for number in range(4):
        requests.add(number, Caller("acme", "bot"), "hash", 1, 1, 0)
        with pytest.raises(StoreError):
            requests.send(keys, 0)
    store.fails = False
    requests.send(keys, 0)
    assert len(store.parts) == 6


def test_one_thread_at_a_time_sends_requests() -> None:
    from policyengine.behavior.shared_keys import SharedKeys

    class LockCheckingStore(ListingStore):
        def add_requests(self, day: int, part: bytes, now: int) -> None:
            assert not requests._sending.acquire(blocking=False)
            super().add_requests(day, part, now)

    store, keys = LockCheckingStore(), SharedKeys(b"k" * 32)
    requests: Any = StoredRequests(store)  # type: ignore[arg-type]
    for day in range(3):
        requests.add(day * 86_400_000, Caller("acme", "bot"), "hash", 1, 1, 0)
    requests.send(keys, 0)
    assert [day for day, _ in store.parts] == [0, 1, 2]


def test_a_process_sends_a_limited_number_of_requests_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    from policyengine.behavior.shared_keys import SharedKeys

    monkeypatch.setattr(shared_requests, "MAX_DAY_EVENTS", 3)
    store, keys = ListingStore(), SharedKeys(b"k" * 32)
    requests: Any = StoredRequests(store)  # type: ignore[arg-type]
    for day in (0, 1):
        for _ in range(3):
            for number in range(2):
                requests.add(day * 86_400_000 + number, Caller("acme", "bot"), "hash", 1, 1, 0)
            requests.send(keys, 0)
    found = recent_requests.RecentRequests()
    for _, part in store.parts:
        found.merge(part[32:])
    assert [each.count for each in found.days.values()] == [3, 3]
