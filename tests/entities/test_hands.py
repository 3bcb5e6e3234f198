"""Threads that wait for a database: nobody waits longer than was said, and who is stuck is replaced."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from policyengine.entities.worker_pool import MAX_STUCK_THREADS, WorkerPool, WorkerTimeoutError

PATIENCE = 30.0


class Connection:
    """Counts itself; `broken` raises when it is used."""

    made: list[Connection]

    def __init__(self) -> None:
        self.broken = self.closed = False
        self.made.append(self)

    def close(self) -> None:
        self.closed = True

    def use(self) -> int:
        if self.broken or self.closed:
            raise ConnectionError("it is gone")
        return len(self.made)


@pytest.fixture
def connections():
    Connection.made = []
    return Connection.made


def test_the_worker_pool_reuses_a_connection(connections):
    hands = WorkerPool(Connection, 1)
    assert [hands.ask(Connection.use, PATIENCE) for _ in range(5)] == [1] * 5


def test_a_dead_connection_is_replaced_and_the_call_repeated(connections):
    hands = WorkerPool(Connection, 1)
    assert hands.ask(Connection.use, PATIENCE) == 1
    connections[0].broken = True
    assert hands.ask(Connection.use, PATIENCE) == 2
    assert connections[0].closed


def test_a_call_that_fails_on_a_new_connection_raises_its_error(connections):
    hands = WorkerPool(Connection, 1)
    with pytest.raises(ZeroDivisionError):
        hands.ask(lambda connection: 1 / 0, PATIENCE)
    assert len(connections) == 1
    assert hands.ask(Connection.use, PATIENCE) == 2


def test_a_stuck_worker_is_replaced_and_ends_when_it_returns(connections):
    hands, go, stuck = WorkerPool(Connection, 1), Event(), list[threading.Thread]()

    def wait(connection: Connection) -> bool:
        stuck.append(threading.current_thread())
        return go.wait(PATIENCE)

    with pytest.raises(WorkerTimeoutError, match="no answer within 10 ms"):
        hands.ask(wait, 0.01)
    assert hands.ask(Connection.use, PATIENCE) == 2
    go.set()
    stuck[0].join(PATIENCE)
    assert not stuck[0].is_alive()
    assert connections[0].closed
    assert hands.ask(Connection.use, PATIENCE) == 2


def test_the_number_of_stuck_threads_is_bounded(connections):
    hands, go = WorkerPool(Connection, 1), Event()
    for _ in range(MAX_STUCK_THREADS + 5):
        with pytest.raises(WorkerTimeoutError):
            hands.ask(lambda connection: go.wait(PATIENCE), 0.001)
    assert len(connections) <= MAX_STUCK_THREADS + 1
    go.set()
    assert hands.ask(Connection.use, PATIENCE)


def test_the_worker_pool_runs_calls_concurrently(connections):
    hands, barrier = WorkerPool(Connection, 3), threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(hands.ask, lambda connection: barrier.wait(PATIENCE), PATIENCE) for _ in range(3)]
        assert sorted(one.result(PATIENCE) for one in asked) == [0, 1, 2]
    assert len(connections) == 3
