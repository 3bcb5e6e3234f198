"""Approvals that expire while nobody asks: recorded by a timer, once over processes, also after all servers were
down."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from policyengine.approvals.model import KEPT_MICROSECONDS
from policyengine.audit import DecisionLog
from policyengine.engine.approval_desk import ApprovalNotFoundError
from policyengine.reload import ReloadableEngine
from policyengine.reload.expiry_timer import ExpiryTimer, expiry_timer
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from tests.processes import wait_until
from tests.stores.conftest import Fresh
from tests.stores.test_approval_desk import CAROL, PAIR, RULE, Desk, fill_disk, state_of, states_on_record


class Downtime:
    """Servers that share a store and a log, one after the other."""

    def __init__(self, fresh: Fresh, path: Path) -> None:
        self.path, self.log = path, DecisionLog(path, seal=None)
        self.first = Desk(fresh(), log=self.log)

    def restart(self, **later: float) -> Desk:
        """Return a server that starts so much later, and knows only the store."""
        desk = Desk(self.first.store, log=self.log)
        desk.now = self.first.now + timedelta(**later)
        return desk

    def expired(self) -> list[str]:
        return [id for id, state in states_on_record(self.path) if state == "expired"]


@pytest.fixture
def downtime(fresh: Fresh, tmp_path: Path) -> Any:
    found = Downtime(fresh, tmp_path / "expired.jsonl")
    yield found
    found.log.close()


@pytest.mark.parametrize("days", [1, 7.9])
def test_a_server_records_what_expired_while_no_server_ran(downtime: Downtime, days: float) -> None:
    ids = {downtime.first.opened(amount) for amount in (900, 901)}
    answered = downtime.first.opened(902)
    downtime.first.approvals.approve(answered, CAROL)
    later = downtime.restart(days=days)
    later.approvals.record_expiries()
    assert set(downtime.expired()) == ids
    for _ in range(2):
        downtime.restart(days=days).approvals.record_expiries()
    assert len(downtime.expired()) == 2


def test_a_server_that_first_opens_an_approval_records_what_expired_before(downtime: Downtime) -> None:
    id = downtime.first.opened()
    downtime.restart(days=2).opened(901)
    assert downtime.expired() == [id]


def test_processes_that_start_together_record_an_expiry_of_the_downtime_once(downtime: Downtime) -> None:
    ids = {downtime.first.opened(amount) for amount in (900, 901, 902)}
    desks = [downtime.restart(days=2) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda desk: desk.approvals.record_expiries(), desks * 2))
    assert sorted(downtime.expired()) == sorted(ids)


def test_an_expiry_that_is_recorded_late_can_be_asked_about_for_an_hour(downtime: Downtime) -> None:
    id = downtime.first.opened()
    later = downtime.restart(days=3)
    later.approvals.record_expiries()
    assert state_of(later.approvals.find(id)) == "expired"
    later.later(seconds=KEPT_MICROSECONDS / 1_000_000)
    with pytest.raises(ApprovalNotFoundError):
        later.approvals.find(id)


def test_an_expiry_of_the_downtime_that_cannot_be_recorded_is_recorded_later(
    downtime: Downtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = downtime.first.opened()
    later = downtime.restart(days=3)
    with monkeypatch.context() as full:
        fill_disk(full)
        later.approvals.record_expiries()
    assert downtime.expired() == []
    later.approvals.record_expiries()
    assert downtime.expired() == [id]


def test_more_approvals_than_one_page_are_recorded(monkeypatch: pytest.MonkeyPatch, downtime: Downtime) -> None:
    for module in ("stores.approvals", "stores.sql.approvals", "stores.redis.approvals", "engine.approval_expiry"):
        monkeypatch.setattr(f"policyengine.{module}.MAX_LISTED_ROWS", 2)
    ids = {downtime.first.opened(900 + number) for number in range(5)}
    downtime.restart(days=2).approvals.record_expiries()
    assert set(downtime.expired()) == ids


def test_the_timer_asks_the_store_nothing_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore(), PAIR)
    desk.opened()
    desk.approvals.record_expiries()
    desk.approvals.find(desk.approvals.list()[0].approval.id)
    with monkeypatch.context() as watched:
        for name in ("rows", "ended", "find", "save"):
            watched.setattr(desk.store.approvals, name, refuse)
        for _ in range(200):
            desk.later(seconds=1)
            desk.approvals.record_expiries()


def refuse(*_: object) -> None:
    raise AssertionError("the store was asked")


# ── The thread ────────────────────────────────────────────────────────────────────────────────


def test_a_process_records_expiries_with_its_current_policies(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    desk = Desk(MemoryStore(), log=log)
    held = ReloadableEngine(desk.engine)
    id = desk.opened()
    desk.later(days=1)
    with expiry_timer(held):
        wait_until(lambda: states_on_record(tmp_path / "expired.jsonl")[-1] == (id, "expired"))
    log.close()


def test_a_sweep_that_fails_is_logged_and_does_not_end_the_timer(caplog: pytest.LogCaptureFixture) -> None:
    calls, often = [], Event()

    def sweep() -> None:
        calls.append(None)
        if len(calls) == 3:
            often.set()
        raise ZeroDivisionError

    timer = ExpiryTimer(sweep, period=0.0)
    timer.start()
    assert often.wait(60)
    timer.stop(60)
    assert [getattr(one, "event", None) for one in caplog.records] == ["approval_expiry_fails"]


def test_a_timer_that_stops_does_not_wait_for_a_store_that_hangs_and_begins_no_sweep() -> None:
    calls, begun, may_go = [], Event(), Event()

    def sweep() -> None:
        calls.append(None)
        begun.set()
        may_go.wait(60)

    timer = ExpiryTimer(sweep, period=0.0)
    timer.start()
    assert begun.wait(60)
    [thread] = timer._threads._threads
    timer.stop(0)
    may_go.set()
    thread.join(60)
    assert len(calls) == 1


def test_the_pauses_of_processes_differ() -> None:
    drawn, often = list[tuple[float, float]](), Event()

    def draw(least: float, most: float) -> float:
        drawn.append((least, most))
        often.set()
        return 0.0

    timer = ExpiryTimer(lambda: None, draw=draw)
    timer.start()
    assert often.wait(60)
    timer.stop(60)
    assert drawn[0] == (0.75, 1.25)


def test_a_store_that_does_not_answer_at_the_start_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore(), RULE)
    id = desk.opened()
    later = Desk(desk.store)
    later.now = desk.now + timedelta(days=2)

    def fail(*_: object) -> None:
        raise StoreError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store.approvals, "ended", fail)
        later.approvals.record_expiries()
        assert not later.approvals.find(id).approval.expiry_recorded  # noted by this call
    later.approvals.record_expiries()
    assert later.approvals.find(id).approval.expiry_recorded


def test_a_line_about_a_failure_names_the_event(caplog: pytest.LogCaptureFixture) -> None:
    ExpiryTimer(lambda: None)._report(RuntimeError("no more threads"))
    assert [(one.levelno, getattr(one, "event", None)) for one in caplog.records] == [
        (logging.ERROR, "approval_expiry_fails")
    ]
