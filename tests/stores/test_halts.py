"""Halts in every store: the same answers, and no acknowledged halt is lost when a process or the server is killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import time
from typing import Any

import pytest

from policyengine import Engine
from policyengine.halts.control import HaltControl
from policyengine.halts.store_halts import StoreHalts
from policyengine.runtime.halts import Halt
from policyengine.stores.base import Store, StoreError, StoreFullError
from policyengine.stores.halts import MAX_HALTS_BYTES, HaltStore, WorkerHalts
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import open_store
from tests.halts.halting import HOUR, POLICY, create, outcome, question
from tests.processes import wait_until
from tests.server.processes import started
from tests.stores.servers import Server, open_patiently, running

LATER = int(time()) + 3_600
HALTING = """
import sys
from datetime import timedelta
from policyengine import Engine
from policyengine.stores.url import open_store

engine = Engine.from_text("anyone { may GET /health }", store=open_store(sys.argv[1]))
print("ready", flush=True)
for number in range(200):
    print(engine.halt(reason="r", end=timedelta(hours=1), agent=f"{sys.argv[2]} {number}").id, flush=True)
"""


def a_document_is_replaced_by_a_higher_number_only(kept: HaltStore) -> None:
    assert kept.load(0) == (0, b"")
    assert kept.load(-1) == (0, b"")
    assert kept.save(5, b"five", 0)
    assert not kept.save(5, b"other", None)
    assert not kept.save(4, b"other", None)
    assert not kept.save(6, b"other", 4)
    assert kept.load(-1) == (5, b"five")
    assert kept.load(5) == (5, b"")
    assert kept.save(2**53 - 1, b"\x00\xff last", 5)
    assert kept.load(5) == (2**53 - 1, b"\x00\xff last")


def a_lost_document_is_not_replaced_by_one_that_knew_it(kept: HaltStore) -> None:
    assert not kept.save(6, b"six", 5)
    assert kept.load(-1) == (0, b"")
    assert kept.save(6, b"six", None)


def a_large_document_is_kept(kept: HaltStore) -> None:
    large = b"x" * MAX_HALTS_BYTES
    assert kept.save(1, large, 0)
    assert kept.load(0) == (1, large)


def many_threads_lose_no_halt(kept: HaltStore) -> None:
    def halt(number: int) -> None:
        stored = StoreHalts(kept)
        made = Halt(f"h{number}", "r", 0, LATER, agent="x")
        for _ in range(100):
            try:
                stored.change(lambda document: document.adding(made, LATER - 3_600))
                return
            except StoreError:  # a lock was not free in time
                continue

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(halt, range(40)))
    assert {one.id for one in StoreHalts(kept).read()} == {f"h{number}" for number in range(40)}


CHECKS = (
    a_document_is_replaced_by_a_higher_number_only,
    a_lost_document_is_not_replaced_by_one_that_knew_it,
    a_large_document_is_kept,
    many_threads_lose_no_halt,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_every_store(store: Store, check: Callable[[HaltStore], None]) -> None:
    check(store.halts)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_memory_that_workers_share(check: Callable[[HaltStore], None]) -> None:
    check(WorkerHalts())


def test_a_document_that_is_too_large_for_shared_memory_is_refused() -> None:
    with pytest.raises(StoreFullError):
        WorkerHalts().save(1, b"x" * (MAX_HALTS_BYTES + 1), 0)


def test_a_halt_reaches_an_engine_with_its_own_connection(store: Store) -> None:
    if not store.halts.is_shared:
        pytest.skip("only this process uses a memory store")
    mine, theirs = create(store=store), create(store=store)
    assert outcome(theirs, question()) == "allow"
    halt = mine.halt(reason="stop", end=HOUR, agent="bot")
    wait_until(lambda: outcome(theirs, question()) == "deny halted")
    theirs.lift(halt.id, reason="mended")
    wait_until(lambda: outcome(mine, question()) == "allow")


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────


def acknowledged_until_killed(url: str, names: list[str]) -> set[str]:
    """Return the ids that processes acknowledged before they were killed while they halted more."""
    found = set[str]()
    for name in names:
        with started(HALTING, url, name) as (first, process):
            assert first == "ready"
            for _ in range(10):
                found.add(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            process.wait()
            found.update(line for line in process.stdout.read().split("\n")[:-1] if line)
    return found


def ids_in(url: str) -> set[str]:
    return {one.id for one in HaltControl(open_store(url).halts).status.halts}


def test_sqlite_loses_no_acknowledged_halt_when_processes_are_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db?timeout=20s"
    SqliteStore(tmp_path / "state.db").close()
    acknowledged = acknowledged_until_killed(url, ["a", "b", "c"])
    assert len(acknowledged) >= 30
    assert acknowledged <= ids_in(url)


def test_redis_loses_no_acknowledged_halt_when_processes_are_killed(redis_server: Server) -> None:
    import redis

    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    url = f"{redis_server.url}?timeout=20s"
    acknowledged = acknowledged_until_killed(url, ["a", "b", "c"])
    assert len(acknowledged) >= 30
    assert acknowledged <= ids_in(url)


def test_redis_that_appends_to_a_file_loses_no_acknowledged_halt_when_it_is_killed(tmp_path: Path) -> None:
    with running("redis-server", tmp_path, "--appendonly", "yes") as server:
        url = f"{server.url}?timeout=20s"
        engine = Engine.from_text(POLICY, store=open_store(url))
        halts = [engine.halt(reason="r", end=HOUR, agent=f"agent {number}").id for number in range(50)]
        server.kill()
        server.start()
        assert [one.id for one in HaltControl(open_store(url).halts, clock=lambda: 0).status.halts] == halts


def test_redis_that_keeps_nothing_gets_the_halts_back_from_a_running_process(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as server:
        url = f"{server.url}?timeout=20s"
        engine = Engine.from_text(POLICY, store=open_store(url))
        assert outcome(engine, question()) == "allow"
        halt = engine.halt(reason="stop", end=HOUR, agent="bot")
        server.kill()
        assert outcome(engine, question()) == "deny halted"
        server.start()
        wait_until(lambda: json.dumps([one.id for one in known(url)]) == json.dumps([halt.id]))
        assert outcome(engine, question()) == "deny halted"


def known(url: str) -> tuple[Halt, ...]:
    return HaltControl(open_store(url).halts, clock=lambda: 0).status.halts


def test_a_store_that_stops_answering_keeps_the_known_halts(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as server:
        patient = Engine.from_text(POLICY, store=open_store(f"{server.url}?timeout=20s"))
        patient.halt(reason="stop", end=HOUR, agent="bot")
        engine = Engine.from_text(POLICY, store=open_patiently(server.url))
        wait_until(lambda: engine.halting.status.halts)
        assert outcome(engine, question()) == "deny halted"
        server.pause()
        try:
            wait_until(lambda: engine.halting.status.unreadable == ("the store",))
            assert outcome(engine, question()) == "deny halted"
            assert outcome(engine, question("/health", agent=None, user=None)) == "allow"
            with pytest.raises(StoreError):
                engine.halt(reason="more", end=HOUR, user="alice")
        finally:
            server.resume()
        wait_until(lambda: not engine.halting.status.unreadable)


@pytest.mark.parametrize("damage", ["UPDATE halts SET number = 'x'", "UPDATE halts SET document = 7, number = 2e15"])
def test_a_damaged_row_keeps_the_known_halts(tmp_path: Path, damage: str) -> None:
    found: Any = SqliteStore(tmp_path / "state.db")
    engine = create(store=found)
    engine.halt(reason="stop", end=HOUR, agent="bot")
    with found.step() as asked:
        asked.execute(damage)
    wait_until(lambda: engine.halting.refresh() or engine.halting.status.unreadable == ("the store",))
    assert outcome(engine, question()) == "deny halted"


def test_a_server_with_a_wrong_clock_cannot_halt(redis_server: Server) -> None:
    import redis

    with redis.Redis(port=redis_server.port) as client:
        client.flushall()  # other tests leave halts that cannot be read
    engine = create(store=open_store(f"{redis_server.url}?timeout=20s"))  # its clock is months behind
    with pytest.raises(StoreError, match="the clock of this server is"):
        engine.halt(reason="stop", end=HOUR, agent="bot")
