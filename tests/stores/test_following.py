"""What a process has read of a long history, and what came since, is what somebody reads who begins now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.runtime.history import History, OutcomeReport
from policyengine.stores.redis import history_cache
from tests.stores.charges import SECOND, START
from tests.stores.servers import Server
from tests.stores.test_histories import LINE, happens, past, record

if TYPE_CHECKING:
    from policyengine.stores.redis.store import RedisStore

Opened = Callable[[], "RedisStore"]


@pytest.fixture
def opened(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Stores on one server, each as of a process of its own, that follow all lines."""
    import redis

    from policyengine.stores.redis.store import RedisStore

    monkeypatch.setattr(history_cache, "MIN_CACHED_EVENTS", 1)
    with redis.Redis(port=redis_server.port, protocol=2) as client:

        def store() -> RedisStore:
            made = RedisStore(client, virtual=True)
            made.begin(["paid"], START)
            return made

        client.flushall()
        yield store


def read(history: History) -> Any:
    starts = (START - 1, START, history.now - 5 * SECOND)
    read_by = list(history.among(0, "a")), [history.count_between(start, None) for start in starts]
    return list(history.events), history.complete_after, history.version, history.now, *read_by


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(0, 1), st.sampled_from("ab"), st.sampled_from([0, 1, 5, 40])),
        st.tuples(st.just("report"), st.integers(0, 1), st.integers(1, 60), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("forget"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(steps=STEPS)
def test_an_incremental_history_read_equals_a_full_read(opened: Opened, steps: list[Any]) -> None:
    stores, now, names = [opened(), opened()], START, count()
    opened()._client.flushall()
    for one in stores:
        one.begin(["paid"], START)
    for task, who, what, passed in steps:
        now += passed * SECOND
        match task:
            case "record":
                happens(
                    stores[who],
                    record("paid", "alice", what, within=60 * SECOND, awaits=True),
                    name=f"{next(names)}",
                    at=now,
                )
            case "report":
                stores[who].report(f"{next(names) - what}", OutcomeReport(200 + what, {}), now)
            case "read":
                assert read(past(stores[who])) == read(past(opened()))
            case _:
                opened()._client.delete(*(opened()._client.keys("*line*") or ["none"]))
    assert read(past(stores[0])) == read(past(stores[1])) == read(past(opened()))


def test_an_incremental_history_read_transfers_only_new_events(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = opened(), []
    for number in range(200):
        happens(store, record("paid", "alice", "x", awaits=True), name=str(number), at=START + number)
    keeps = store._following.read
    monkeypatch.setattr(
        store._following, "read", lambda name, answer, now: told.append(answer) or keeps(name, answer, now)
    )  # type: ignore[func-returns-value]
    past(store)
    past(store)
    happens(store, record("paid", "alice", "y"), name="one more", at=START + 300)
    store.report("7", OutcomeReport(200, {}), START + 300)
    assert [one.decision for one in past(store).events][-1] == "one more"
    assert past(store).events[7].status == 200
    assert [(len(one[3]), len(one[4])) for one in told] == [(200, 0), (0, 0), (1, 2), (0, 0)]


def test_an_earlier_history_view_does_not_change(opened: Opened) -> None:
    store = opened()
    for number in range(10):
        happens(store, record("paid", "alice", "a", within=60 * SECOND), name=str(number), at=START + number)
    before = past(store)
    for number in range(10, 100):
        happens(store, record("paid", "alice", "a", within=60 * SECOND), name=str(number), at=START + number * SECOND)
        past(store)
    assert [one.decision for one in before.events] == [str(number) for number in range(10)]
    assert [one.decision for one in before.among(0, "a")] == [str(number) for number in range(10)]
    assert (before.count_between(START, None), before.count_between(START - 1, START + 3)) == (9, 4)


def test_concurrent_threads_read_a_consistent_history(opened: Opened) -> None:
    store, found = opened(), list[bool]()

    def work(name: int) -> None:
        for number in range(40):
            happens(store, record("paid", "alice", "a"), name=f"{name} {number}")
            events = list(past(store).events)
            found.append(f"{name} {number}" in [one.decision for one in events])
            found.append([one.serial for one in events] == sorted({one.serial for one in events}))

    threads = [Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 240
    assert len(past(store).events) == 120


def test_the_history_cache_is_bounded(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_cache, "MAX_CACHED_EVENTS", 50)
    store = opened()
    for key in "abcdefgh":
        for number in range(10):
            happens(store, record("paid", key), name=f"{key}{number}")
        assert len(past(store, ("paid", key)).events) == 10
    assert store._following._many == sum(len(one.line.events) for one in store._following._lines.values()) <= 50
    assert LINE not in store.fetch([("paid", "a")], START)
