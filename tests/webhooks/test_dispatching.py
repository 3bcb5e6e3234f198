"""Events of approvals reach the webhooks that want them, and decisions never wait for that."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from policyengine.approvals.events import ApprovalEventKind
from policyengine.approvals.model import KEPT_UNRECORDED_MICROSECONDS
from policyengine.audit import DecisionLog, OnFailure
from policyengine.reload import ReloadableEngine
from policyengine.reload.expiry_timer import ExpiryTimer
from policyengine.server.telemetry.metrics import render_metrics
from policyengine.server.telemetry.process_metrics import publish_metrics
from policyengine.server.telemetry.shared_counters import ServerCounters
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.webhooks.dispatcher import MAX_QUEUED, WebhookDispatcher
from policyengine.webhooks.spool import SpoolError, SpoolMessage, WebhookSpool
from policyengine.webhooks.target import WebhookLinks, WebhookTarget
from tests.audit.sinks.receivers import Receiver, http_receiver
from tests.processes import wait_until
from tests.stores.test_approval_desk import CAROL, DORA, PAIR, Desk, broken, fill_disk, states_on_record
from tests.webhooks.sending import NOW, OPEN, event, target

LINKS = WebhookLinks("https://console.example")


class Office:
    """A desk whose events go to webhooks; `written` is what the spool has, without any thread."""

    def __init__(
        self, *targets: WebhookTarget, spool: WebhookSpool | None = None, store: Store | None = None, **more: Any
    ) -> None:
        self.spool = spool or WebhookSpool(now=lambda: self.now)
        self.webhooks = Unstarted(
            targets or (WebhookTarget("a", "https://a.example"),), self.spool, LINKS, now=lambda: self.now,
            clock=lambda: self.now,
        )  # fmt: skip
        self.desk = Desk(store or MemoryStore(), listener=self.webhooks, **more)
        OPEN.append(self.spool)

    @property
    def now(self) -> float:
        return self.desk.now.timestamp() if hasattr(self, "desk") else NOW

    def written(self, webhook: str = "a") -> list[str]:
        """Return the kinds of the messages that wait, and remove them."""
        self.tick()
        return [json.loads(one.body)["type"].removeprefix("approval.") for one in leased(self.spool, webhook)]

    def tick(self) -> None:
        """Do what the timer of expiries and the thread of the webhooks do."""
        self.desk.approvals.record_expiries()
        self.webhooks.tick()


def leased(spool: WebhookSpool, webhook: str = "a") -> list[SpoolMessage]:
    """Return the messages that wait, and remove them."""
    found = []
    while (message := spool.lease(webhook, 60)) is not None:
        found.append(message)
        spool.delete(message)
    return found


class Unstarted(WebhookDispatcher):
    """Webhooks whose threads the test replaces."""

    def wake(self) -> None:
        pass


# ── Events ────────────────────────────────────────────────────────────────────────────────────


def test_opening_approving_denying_and_withdrawing_are_told() -> None:
    office = Office()
    desk = office.desk
    first, second, third = desk.opened(900), desk.opened(901), desk.opened(902)
    assert office.written() == ["opened"] * 3
    desk.approvals.approve(first, CAROL)
    desk.approvals.deny(second, CAROL, "no")
    desk.approvals.withdraw(third)
    assert office.written() == ["approved", "denied", "withdrawn"]


def test_the_same_request_is_told_once() -> None:
    office = Office()
    office.desk.opened()
    office.desk.opened()
    assert office.written() == ["opened"]


def test_a_vote_is_told_when_it_is_the_last_one() -> None:
    rule = 'guard "large" on POST /refund { confirm by 2 of team "money" within 15m when body.amount > 500 }'
    office = Office(rule=rule)
    id = office.desk.opened()
    office.desk.approvals.approve(id, CAROL)
    assert office.written() == ["opened"]
    office.desk.approvals.approve(id, DORA)
    assert office.written() == ["approved"]


def test_a_refused_answer_is_not_told() -> None:
    office = Office()
    id = office.desk.opened()
    office.desk.approvals.approve(id, CAROL)
    with pytest.raises(ValueError, match="can no longer be answered"):
        office.desk.approvals.deny(id, DORA)
    assert office.written() == ["opened", "approved"]


def test_an_answer_that_cannot_be_recorded_is_not_told(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log", seal=None, on_failure=OnFailure.DENY)
    office = Office(log=log)
    id = office.desk.opened()
    assert office.written() == ["opened"]
    log.close()
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    with pytest.raises(StoreError):
        office.desk.approvals.approve(id, CAROL)
    assert office.written() == []


def test_a_webhook_gets_the_events_and_approvers_that_it_names() -> None:
    office = Office(
        WebhookTarget("a", "https://a.example", approvers=("role finance",)),
        WebhookTarget("b", "https://a.example", approvers=("role legal",)),
        WebhookTarget("c", "https://a.example", events=(ApprovalEventKind.DENIED,)),
    )
    office.desk.approvals.deny(office.desk.opened(), CAROL)
    assert [office.written(name) for name in "abc"] == [["opened", "denied"], [], ["denied"]]


# ── The end of an approval ────────────────────────────────────────────────────────────────────


def test_an_approval_that_nobody_answers_is_told_when_it_expires() -> None:
    office = Office()
    office.desk.opened()
    assert office.written() == ["opened"]
    office.desk.later(hours=23, minutes=59)
    assert office.written() == []
    office.desk.later(minutes=1)
    assert office.written() == ["expired"]
    office.desk.later(minutes=10)
    assert office.written() == []


@pytest.mark.parametrize("answer", ["approve", "deny", "withdraw"])
def test_an_approval_that_was_answered_does_not_expire(answer: str) -> None:
    office = Office()
    id = office.desk.opened()
    people = () if answer == "withdraw" else (CAROL,)
    getattr(office.desk.approvals, answer)(id, *people)
    office.written()
    office.desk.later(days=1)
    assert office.written() == []


def test_an_approval_with_one_of_two_votes_is_told_when_it_expires() -> None:
    office = Office(rule=PAIR)
    office.desk.approvals.approve(office.desk.opened(), CAROL)
    office.written()
    office.desk.later(days=1)
    assert office.written() == ["expired"]


def test_what_is_told_when_an_approval_expires_is_on_record(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log", seal=None)
    office = Office(log=log)
    id = office.desk.opened()
    office.desk.later(days=1, seconds=1)
    office.tick()
    log.close()
    assert states_on_record(tmp_path / "log") == [(id, "pending"), (id, "expired")]
    [opened, expired] = [json.loads(one.body) for one in leased(office.spool)]
    assert (opened["data"]["state"], expired["data"]["state"]) == ("pending", "expired")
    assert expired["timestamp"] == expired["data"]["expires"] == opened["data"]["expires"]


@pytest.mark.parametrize("fails", ["rows", "find", "save"])
def test_the_end_is_told_after_the_store_works_again(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    office.desk.opened()
    if fails != "rows":  # which is called first, and then from time to time
        assert office.written() == ["opened"]
    office.desk.later(days=1)
    with monkeypatch.context() as failing:
        broken(office.desk, failing, fails)
        office.written()
        assert office.written() == []
    assert office.written() == ["expired"]
    assert office.written() == []


def test_an_end_that_cannot_be_recorded_is_told_once_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = DecisionLog(tmp_path / "log", seal=None, on_failure=OnFailure.DENY)
    office = Office(log=log)
    id = office.desk.opened()
    assert office.written() == ["opened"]
    office.desk.later(days=1)
    with monkeypatch.context() as full:
        fill_disk(full)
        assert [office.written() for _ in range(3)] == [[]] * 3
    assert [office.written() for _ in range(3)] == [["expired"], [], []]
    log.close()
    assert states_on_record(tmp_path / "log") == [(id, "pending"), (id, "expired")]


def test_the_end_is_not_told_if_the_approval_was_deleted() -> None:
    office = Office()
    office.desk.opened()
    office.written()
    office.desk.later(days=1, seconds=KEPT_UNRECORDED_MICROSECONDS / 1_000_000)
    assert office.written() == []
    assert office.spool.states() == {}


def test_processes_with_one_store_and_their_own_spools_tell_an_end_once(tmp_path: Path) -> None:
    store = tmp_path / "state.db"
    offices = [Office(store=SqliteStore(store)) for _ in range(3)]
    ids = [office.desk.opened(amount) for office, amount in zip(offices, (900, 901, 902), strict=True)]
    assert [office.written() for office in offices] == [["opened"]] * 3
    for office in offices:
        office.desk.later(days=1)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda office: office.tick(), offices * 3))
    told = [json.loads(one.body) for office in offices for one in leased(office.spool)]
    assert sorted((one["type"], one["data"]["id"]) for one in told) == sorted(("approval.expired", id) for id in ids)


def test_the_process_that_records_an_end_tells_it(tmp_path: Path) -> None:
    store = tmp_path / "state.db"
    first, second = Office(store=SqliteStore(store)), Office(store=SqliteStore(store))
    first.desk.opened()
    assert (first.written(), second.written()) == (["opened"], [])
    for office in (first, second):
        office.desk.later(days=1)
    assert (second.written(), first.written()) == (["expired"], [])


def test_an_approval_expires_by_the_clock_of_the_store_not_of_the_webhooks() -> None:
    office = Office()
    ahead = Unstarted(office.webhooks.targets, office.spool, LINKS, now=lambda: office.now + 86_400)
    office.desk.opened()
    ahead.tick()
    assert office.written() == ["opened"]


def test_a_webhook_for_ends_only_gets_them() -> None:
    office = Office(WebhookTarget("a", "https://a.example", events=(ApprovalEventKind.EXPIRED,)))
    office.desk.opened()
    assert office.written() == []
    office.desk.later(days=1)
    assert office.written() == ["expired"]


# ── Decisions do not wait ─────────────────────────────────────────────────────────────────────


def test_a_decision_does_not_wait_for_a_spool_that_hangs() -> None:
    begun, may_go = Event(), Event()

    class HangingSpool(WebhookSpool):
        def add(self, messages: list[SpoolMessage]) -> dict[str, int]:
            begun.set()
            may_go.wait(60)
            return super().add(messages)

    spool = HangingSpool()
    webhooks = WebhookDispatcher([target(None, url="http://127.0.0.1:1/")], spool, LINKS)
    desk = Desk(MemoryStore(), listener=webhooks)
    try:
        first = desk.opened(900)
        assert begun.wait(60)
        desk.approvals.approve(first, CAROL)
        assert all(desk.opened(901 + number) for number in range(10))
    finally:
        may_go.set()
        webhooks.stop(60)
        spool.close()


def test_events_beyond_the_queue_are_dropped_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    office = Office()
    for number in range(MAX_QUEUED + 5):
        office.webhooks.notify(event(id=f"{number}"))
    assert office.webhooks.counts()["webhook_dropped", "a"] == 5
    assert [getattr(one, "event", None) for one in caplog.records] == ["webhook_dropped"]
    assert len(office.written()) == MAX_QUEUED


def test_a_full_spool_drops_its_oldest_messages_counts_and_logs_them(caplog: pytest.LogCaptureFixture) -> None:
    office = Office(spool=WebhookSpool(most=4, now=lambda: NOW))
    for number in range(4):
        office.webhooks.notify(event("denied", id=f"{number}"))
    office.webhooks.notify(event("denied", id="last"))
    office.webhooks.tick()
    assert office.webhooks.counts()["webhook_dropped", "a"] == 1
    assert [getattr(one, "event", None) for one in caplog.records] == ["webhook_dropped"]
    assert office.webhooks.gauges() == {("webhook_waiting", "a"): 4}


def test_events_wait_in_the_queue_while_the_spool_fails(caplog: pytest.LogCaptureFixture) -> None:
    class FailingSpool(WebhookSpool):
        fails = True

        def add(self, messages: list[SpoolMessage]) -> dict[str, int]:
            if self.fails:
                raise SpoolError("the disk is full")
            return super().add(messages)

    spool = FailingSpool(now=lambda: NOW)
    office = Office(spool=spool)
    office.webhooks.notify(event())
    assert office.written() == []
    assert [getattr(one, "event", None) for one in caplog.records] == ["webhook_spool_fails"]
    spool.fails = False
    assert office.written() == ["opened"]


def test_a_spool_that_is_damaged_while_in_use_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool"
    office = Office(spool=WebhookSpool(path, now=lambda: NOW))
    office.spool.close()
    path.write_bytes(b"damaged" * 1_000)
    office.webhooks.notify(event())
    office.webhooks.tick()
    assert [getattr(one, "event", None) for one in caplog.records] == ["webhook_spool_damaged"]
    assert office.written() == ["opened"]
    assert path.with_name("spool.damaged").read_bytes().startswith(b"damaged")


def test_an_event_that_cannot_be_written_does_not_stop_those_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    office = Office()
    broken: Any = object()
    office.webhooks.notify(event(question=broken, requester=broken))
    office.webhooks.notify(event())
    assert office.written() == ["opened"]


# ── Threads and processes ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


def test_an_approval_is_told_to_a_real_receiver(receiver: Receiver, tmp_path: Path) -> None:
    spool = WebhookSpool(tmp_path / "spool")
    webhooks = WebhookDispatcher([target(receiver)], spool, LINKS)
    desk = Desk(MemoryStore(), listener=webhooks)
    try:
        desk.approvals.approve(desk.opened(), CAROL)
        wait_until(lambda: len(receiver.requests) == 2)
        assert {json.loads(one.body)["type"] for one in receiver.requests} == {"approval.opened", "approval.approved"}
    finally:
        webhooks.stop(60)
        spool.close()


def test_what_the_timer_records_as_expired_is_told(receiver: Receiver, tmp_path: Path) -> None:
    spool = WebhookSpool(tmp_path / "spool")
    webhooks = WebhookDispatcher([target(receiver)], spool, LINKS)
    desk = Desk(MemoryStore(), listener=webhooks)
    desk.opened()
    desk.later(days=1)
    timer = ExpiryTimer(desk.approvals.record_expiries)
    timer.start()
    try:
        wait_until(lambda: len(receiver.requests) == 2)
        assert {json.loads(one.body)["type"] for one in receiver.requests} == {"approval.opened", "approval.expired"}
    finally:
        timer.stop(60)
        webhooks.stop(60)
        spool.close()


def test_a_slow_receiver_does_not_delay_another_one(receiver: Receiver) -> None:
    with http_receiver() as slow:
        slow.may_answer.clear()
        spool = WebhookSpool()
        webhooks = WebhookDispatcher([target(slow, name="slow"), target(receiver)], spool, LINKS)
        try:
            for number in range(5):
                webhooks.notify(event(id=f"{number}"))
            wait_until(lambda: len(receiver.requests) == 5)
            assert slow.requests == []
        finally:
            slow.may_answer.set()
            webhooks.stop(60)
            spool.close()


def test_what_was_not_sent_is_sent_by_the_next_process(receiver: Receiver, tmp_path: Path) -> None:
    path, receiver.statuses = tmp_path / "spool", [503]
    first = WebhookDispatcher([target(receiver)], spool := WebhookSpool(path), LINKS)
    first.notify(event())
    wait_until(lambda: first.counts()["webhook_failures", "finance"] == 1)
    first.stop(60)
    spool.close()
    later = WebhookSpool(path, now=lambda: NOW * 2)  # by then, the pause is over
    second = WebhookDispatcher([target(receiver)], later, LINKS)
    second.wake()
    try:
        wait_until(lambda: len(receiver.requests) == 1)
    finally:
        second.stop(60)
        later.close()


def test_a_forked_process_sends_its_own_events(receiver: Receiver, tmp_path: Path) -> None:
    spool = WebhookSpool(tmp_path / "spool")
    webhooks = WebhookDispatcher([target(receiver)], spool, LINKS)
    webhooks.notify(event(id="parent"))
    wait_until(lambda: len(receiver.requests) == 1)
    child = os.fork()
    if child == 0:
        try:
            assert webhooks.counts()["webhook_sent", "finance"] == 0
            webhooks.notify(event(id="child"))
            webhooks.stop(60)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    try:
        webhooks.notify(event(id="parent again"))
        wait_until(lambda: len(receiver.requests) == 3)
    finally:
        webhooks.stop(60)
        spool.close()


def test_an_unreachable_receiver_is_counted_in_the_metrics_and_does_not_affect_decisions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    office = Office(target(None, name="a", url="http://127.0.0.1:1/"))
    office.desk.opened()
    office.webhooks.tick()
    [sender] = office.webhooks.senders
    sender.step()
    tally = ServerCounters()
    publish_metrics(tally, ReloadableEngine(office.desk.engine))
    text = render_metrics(tally, "")[0].decode()
    assert 'policyengine_webhook_failures_total{webhook="a"} 1.0' in text
    assert 'policyengine_webhook_waiting{webhook="a"} 1.0' in text
    total = tally.total()
    assert [total.get((f"webhook_{word}", "a")) for word in ("sent", "failures", "dropped")] == [None, [1], None]
    assert total["webhook_waiting", "a"][0] == 1
    assert office.desk.ask(400).allowed
