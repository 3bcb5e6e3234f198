"""The history of the memory store: records without the general step, and views that later events do not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime import history
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, HistoryList, HistoryRecord, OutcomeReport, PastEvent, WindowKey
from policyengine.runtime.values import Unknown
from policyengine.stores.base import StoreError
from policyengine.stores.memory import store as memory_store
from policyengine.stores.memory.store import MemoryStore
from tests.depth import scaled
from tests.stores.charges import SECOND, START

KEYS: list[WindowKey] = [("paid", "ann"), ("paid", "bob"), ("seen", "ann")]
WITHIN = 60 * SECOND


def record(key: WindowKey, fact: str = "x", *, latest: bool = False, awaits: bool = False) -> HistoryRecord:
    return HistoryRecord(*key, (fact,), (), WITHIN, latest, awaits)


def new_store(**options: Any) -> MemoryStore:
    store = MemoryStore(history_complete=True, **options)
    store.begin(["paid", "seen"], START)
    return store


def past(store: MemoryStore, now: int, key: WindowKey = KEYS[0]) -> History:
    return store.fetch([key], now)[key]


def plain(found: History) -> object:
    return list(found.events), found.complete_after, found.version, found.now, list(found.among(0, "x"))


# ── Records without the general step ──────────────────────────────────────────────────────────

STEPS = st.sampled_from([0, 0, 1, 999, SECOND, 30 * SECOND, 61 * SECOND, -1, -6 * SECOND])
RECORDS = st.lists(st.builds(record, st.sampled_from(KEYS), st.sampled_from("xy"), awaits=st.booleans()), max_size=3)
COMMITS = st.tuples(st.just("commit"), STEPS, RECORDS, st.booleans(), st.booleans(), st.integers(0, 1))
REPORTS = st.tuples(st.just("report"), STEPS, st.integers(1, 5))
TASKS = st.lists(st.one_of(COMMITS, COMMITS, REPORTS), min_size=1, max_size=20)


def did(store: MemoryStore, tasks: list[Any]) -> list[object]:
    """Do the tasks; return the answers and everything that the store then has."""
    now, told = START, list[object]()
    for number, (task, step, *how) in enumerate(tasks):
        now += step
        try:
            if task == "report":
                told.append(store.report(f"d{number - how[0]}", OutcomeReport(200, {}), now))
                continue
            records, peek, denied, behind = how
            relied = tuple((key, one.version - behind) for key, one in store.fetch(KEYS, now).items())
            effects = Effects(records=tuple(records), relied=relied, denied=denied)
            told.append(store.commit(effects, f"d{number}", now, peek=peek))
        except StoreError as error:
            told.append((type(error), str(error)))
    return [*told, store._clock, *(plain(one) for one in store._memories.fetch(KEYS, now).values())]


@scaled
@given(tasks=TASKS, most_keys=st.sampled_from([4, 1_000]))
def test_records_are_kept_as_by_the_general_step(tasks: list[Any], most_keys: int) -> None:
    found = did(new_store(most_keys=most_keys), tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_store, "has_only_records", lambda effects: False)
        assert found == did(new_store(most_keys=most_keys), tasks)


# ── Views ─────────────────────────────────────────────────────────────────────────────────────


def keep(store: MemoryStore, many: int, now: int, **how: Any) -> None:
    for number in range(many):
        fact: Any = ("x", "y", Unknown.of("f", "why"))[number % 3]
        store.commit(Effects(records=(record(KEYS[0], fact, **how),)), f"{now} {number}", now + number)


def test_a_view_does_not_contain_later_events() -> None:
    store = new_store()
    keep(store, 9, START)
    before = past(store, START + 10)
    events, among = list(before.events), list(before.among(0, "x"))
    assert (len(events), len(among), before.count_between(START, None)) == (9, 6, 8)
    keep(store, 9, START + 20)
    assert (list(before.events), list(before.among(0, "x"))) == (events, among)
    assert before.count_between(START - 1, None) == 9
    after = past(store, START + 40)
    assert (len(after.events), len(after.among(0, "x")), after.count_between(START - 1, None)) == (18, 12, 18)


def test_a_view_whose_events_were_dropped_is_outdated() -> None:
    store = new_store()
    keep(store, 9, START)
    before = past(store, START + 10)
    keep(store, 3, START + WITHIN + 5)
    assert [one.at - START for one in before.events] == [8]  # START + WITHIN + 7 is the time of the last event
    assert before.count_between(START - 1, None) == len(before.events)
    effects = Effects(records=(record(KEYS[0]),), relied=((KEYS[0], before.version),))
    assert store.commit(effects, "late", START + WITHIN + 9) is None


def test_a_view_of_the_latest_event_does_not_contain_a_later_one() -> None:
    store = new_store()
    keep(store, 1, START, latest=True)
    before = past(store, START + 10)
    assert [one.at for one in before.among(0, "x")] == [START]
    keep(store, 1, START + 20, latest=True)
    assert (list(before.events), list(before.among(0, "x")), before.count_between(0, None)) == ([], [], 0)
    after = past(store, START + 30)
    assert [one.at for one in after.events] == [one.at for one in after.among(0, "x")] == [START + 20]


def test_the_maximum_number_of_events_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.stores.memory.history.MAX_EVENTS_PER_KEY", 5)
    store = new_store()
    assert history.MAX_EVENTS_PER_KEY > 5
    keep(store, 9, START)
    found = past(store, START + 10)
    assert [one.at - START for one in found.events] == [4, 5, 6, 7, 8]
    assert (found.complete_after, found.count_between(START, None)) == (START + 3, 5)


TIMES = st.lists(st.integers(0, 12), max_size=12).map(sorted)


@given(times=TIMES, start=st.integers(-1, 13), until=st.none() | st.integers(-1, 13))
def test_counts_are_those_of_a_scan(times: list[int], start: int, until: int | None) -> None:
    store = new_store()
    for number, at in enumerate(times):
        store.commit(Effects(records=(record(KEYS[0]),)), f"{number}", START + at)
    found = past(store, START + 20)
    bounds = START + start, None if until is None else START + until
    events = tuple(PastEvent(START + at, number, "d", ()) for number, at in enumerate(times))
    listed = HistoryList(events, -1, START + 20)
    expected = [at for at in times if at > start and (until is None or at <= until)]
    assert found.count_between(*bounds) == listed.count_between(*bounds) == len(expected)


def test_a_missing_history_counts_none() -> None:
    store = MemoryStore()
    found: Mapping[WindowKey, History] = store.fetch([("paid", "nobody")], START)
    assert found["paid", "nobody"].count_between(0, None) == 0
