"""What a process knows of halts: it follows the store, keeps what it knows while the store fails, and forks."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from pathlib import Path

import pytest

from policyengine import Engine
from policyengine.halts.control import FAILURES_BEFORE_ALARM, MAX_CLOSE_SECONDS, POLL_SECONDS, HaltControl
from policyengine.halts.document import HaltDocument, HaltLift, decode_document, encode_document
from policyengine.halts.errors import HaltError, HaltsFullError, UnknownHaltError
from policyengine.runtime.halts import UNREAD_MESSAGE, Halt
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from tests.halts.halting import BEGIN, HOUR, POLICY, Clock, SharedStore, create, outcome, question
from tests.processes import wait_until

NOW = int(BEGIN.timestamp())


def other(store: SharedStore) -> Engine:
    """An engine of another process that shares the halts."""
    engine = create(store=store)
    engine.halting.is_followed = False  # without a thread: the test refreshes it
    engine.halting.refresh()
    return engine


# ── Costs nothing ─────────────────────────────────────────────────────────────────────────────


def test_without_a_halt_a_decision_only_looks_whether_there_is_one() -> None:
    engine = create()
    assert engine.halting.current is None
    engine.halting.enter = None  # type: ignore[method-assign,assignment]  # calling it would fail
    assert outcome(engine, question()) == "allow"
    assert not engine.failures


def test_a_memory_store_needs_no_thread() -> None:
    engine = create()
    outcome(engine, question())
    assert not engine.halting.is_followed
    assert engine.halting._thread is None


def test_a_thread_reads_the_halts_at_least_every_second() -> None:
    assert POLL_SECONDS < 1
    store = SharedStore()
    engine = create(store=store)
    assert outcome(engine, question()) == "allow"
    before = store.kept.loads
    wait_until(lambda: store.kept.loads >= before + 2)
    other(store).halt(reason="stop", end=HOUR, agent="bot")
    wait_until(lambda: outcome(engine, question()) == "deny halted")


def test_the_thread_ends_with_its_engine() -> None:
    engine = create(store=SharedStore())
    outcome(engine, question())
    thread, reference = engine.halting._thread, weakref.ref(engine.halting)
    assert thread is not None
    del engine
    gc.collect()
    assert reference() is None or thread.is_alive()
    thread.join(MAX_CLOSE_SECONDS)
    assert not thread.is_alive()


# ── Between processes ─────────────────────────────────────────────────────────────────────────


def test_a_halt_and_its_lifting_reach_another_process() -> None:
    store = SharedStore()
    mine, theirs = other(store), other(store)
    halt = mine.halt(reason="stop", end=HOUR, agent="bot")
    assert outcome(mine, question()) == "deny halted"  # before the next read
    assert outcome(theirs, question()) == "allow"
    theirs.halting.refresh()
    assert outcome(theirs, question()) == "deny halted"
    theirs.lift(halt.id, reason="mended", by="dev")
    mine.halting.refresh()
    assert outcome(mine, question()) == "allow"
    assert [one.to_dict() for one in mine.halting.liftings] == [
        {"id": halt.id, "reason": "mended", "at": "2026-03-02T10:00:00Z", "by": "dev"}
    ]


def test_a_halt_is_lifted_once() -> None:
    engine = create()
    halt = engine.halt(reason="stop", end=HOUR, agent="bot")
    engine.lift(halt.id, reason="mended", by="dev")
    with pytest.raises(UnknownHaltError, match=f"`{halt.id}` was already lifted at 2026-03-02T10:00:00Z by dev"):
        engine.lift(halt.id, reason="again")
    with pytest.raises(UnknownHaltError, match="there is no halt `x`"):
        engine.lift("x", reason="again")
    with pytest.raises(HaltError, match="lifting a halt needs a reason"):
        engine.lift(halt.id, reason="")


def test_two_processes_that_halt_at_the_same_time_lose_no_halt() -> None:
    store = SharedStore()
    mine, theirs = other(store), other(store)
    save, halted = store.kept.save, list[str]()

    def interrupted(number: int, document: bytes, after: int | None) -> bool:
        store.kept.save = save  # type: ignore[method-assign]
        halted.append(theirs.halt(reason="theirs", end=HOUR, user="bob").id)
        return save(number, document, after)

    store.kept.save = interrupted  # type: ignore[method-assign]
    halted.append(mine.halt(reason="mine", end=HOUR, agent="bot").id)
    assert {one.id for one in mine.halts} == set(halted)
    assert len(halted) == 2


# ── A store that cannot be read ───────────────────────────────────────────────────────────────


def test_while_the_store_cannot_be_read_the_known_halts_stay_and_an_alarm_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = SharedStore()
    engine = other(store)
    engine.halt(reason="stop", end=HOUR, agent="bot")
    store.kept.broken = True
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(FAILURES_BEFORE_ALARM + 3):
            engine.halting.refresh()
    assert outcome(engine, question()) == "deny halted"
    assert outcome(engine, question("/health", agent=None, user=None)) == "allow"
    assert [one.message for one in caplog.records] == [
        "the halts in the store cannot be read, and the halts that were read last stay in effect: gone"
    ]
    assert engine.halting.status.unreadable == ("the store",)
    store.kept.broken = False
    with caplog.at_level(logging.WARNING):
        engine.halting.refresh()
    assert caplog.records[-1].message == "the halts in the store can be read again"
    assert engine.halting.status.unreadable == ()


def test_before_the_halts_were_read_once_everything_is_halted() -> None:
    store = SharedStore()
    store.kept.broken = True
    engine = create(store=store)
    decision = engine.decide(question("/health", agent=None, user=None))
    assert (str(decision.gate), decision.reasons[0].message) == ("halted", UNREAD_MESSAGE)
    store.kept.broken = False
    wait_until(lambda: outcome(engine, question()) == "allow")


def test_a_halt_that_the_store_does_not_accept_is_not_acknowledged() -> None:
    store = SharedStore()
    engine = other(store)
    store.kept.broken = True
    with pytest.raises(StoreError):
        engine.halt(reason="stop", end=HOUR, agent="bot")
    assert engine.halts == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b'{"number": 9000000000000000, "halts": 7}',
        b'{"number": 9000000000000000, "halts": [{"id": "x"}]}',
        b'{"number": 7, "halts": [], "lifted": []}',  # an older document under a newer number
        b'{"number": 9000000000000000, "halts": [{"id": "x", "reason": "r", "since": 0, "until": 1, "all": true}]}',
        b'{"number": 9000000000000000, "halts": [{"id": "x", "reason": "r", "since": 0, "until": 1}]}',
        b'{"number": 9000000000000000, "halts": [{"id": "x", "reason": "r", "since": 0, "until": 1, "place": "?"}]}',
        b'{"number": 9000000000000000, "halts": [], "more": 1}',
    ],
)  # fmt: skip
def test_a_damaged_document_lifts_no_halt_and_is_replaced_by_the_next_halt(raw: bytes) -> None:
    store = SharedStore()
    engine = other(store)
    engine.halt(reason="stop", end=HOUR, agent="bot")
    store.kept.number, store.kept.document = 9_000_000_000_000_000, raw
    for _ in range(FAILURES_BEFORE_ALARM):
        engine.halting.refresh()
    assert outcome(engine, question()) == "deny halted"
    assert engine.halting.status.unreadable == ("the store",)
    fresh = create(store=store)
    assert outcome(fresh, question("/health", agent=None, user=None)) == "deny halted"
    with pytest.raises(HaltError, match=r"the halts in the store are damaged|has number"):
        fresh.halt(reason="more", end=HOUR, user="bob")  # it does not know what it would replace
    engine.halt(reason="more", end=HOUR, user="bob")
    assert [one.reason for one in other(store).halts] == ["stop", "more"]


@pytest.mark.parametrize("left", ["nothing", "an older document"])
def test_halts_that_the_store_has_lost_are_saved_again(left: str, caplog: pytest.LogCaptureFixture) -> None:
    store = SharedStore()
    engine = other(store)
    before = store.kept.number, store.kept.document
    engine.halt(reason="one", end=HOUR, agent="bot")
    before = (0, b"") if left == "nothing" else (store.kept.number, store.kept.document)
    engine.halt(reason="two", end=HOUR, user="alice")
    store.kept.number, store.kept.document = before
    with caplog.at_level(logging.ERROR):
        engine.halting.refresh()
    assert "the store had lost the latest halts" in caplog.text
    assert outcome(engine, question()) == "deny halted"
    assert [one.reason for one in other(store).halts] == ["one", "two"]


def test_a_defect_while_reading_lifts_no_halt(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SharedStore()
    engine = other(store)
    engine.halt(reason="stop", end=HOUR, agent="bot")

    def broken(known: int) -> tuple[int, bytes]:
        raise ZeroDivisionError

    monkeypatch.setattr(store.kept, "load", broken)
    engine.halting.refresh()
    engine.halting.refresh()
    assert outcome(engine, question()) == "deny halted"
    assert engine.halting.status.unreadable == ("the store",)


# ── Forked processes ──────────────────────────────────────────────────────────────────────────


def in_child(engine: Engine) -> str:
    """Return the first outcome in a forked process."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, outcome(engine, question()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        return file.read().decode()


def test_a_forked_process_reads_the_halts_before_its_first_decision() -> None:
    store = SharedStore()
    engine = create(store=store)
    assert outcome(engine, question()) == "allow"
    store.kept.broken = False
    engine.halting.close()
    other(store).halt(reason="stop", end=HOUR, agent="bot")
    assert outcome(engine, question()) == "allow"  # it no longer follows the store
    assert in_child(engine) == "deny halted"


def test_a_forked_process_that_cannot_read_the_halts_halts_everything() -> None:
    store = SharedStore()
    engine = create(store=store)
    assert outcome(engine, question()) == "allow"
    store.kept.broken = True
    assert in_child(engine) == "deny halted"
    assert outcome(engine, question()) == "allow"  # this process knows that nothing was halted


def test_a_worker_that_cannot_read_the_halts_knows_what_the_others_knew() -> None:
    store = SharedStore()
    engine = create(store=store)
    engine.halting.share()
    assert outcome(engine, question()) == "allow"
    store.kept.broken = True
    assert in_child(engine) == "allow"
    store.kept.broken = False
    engine.halt(reason="stop", end=HOUR, agent="bot")
    store.kept.broken = True
    assert in_child(engine) == "deny halted"


def test_workers_with_a_store_in_memory_share_their_halts() -> None:
    engine = create(store=MemoryStore())
    engine.halt(reason="before", end=HOUR, user="bob")
    engine.halting.share()
    assert [one.reason for one in engine.halts] == ["before"]
    if (child := os.fork()) == 0:
        try:
            engine.halt(reason="by a worker", end=HOUR, agent="bot")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    engine.halting.refresh()
    assert {one.reason for one in engine.halts} == {"before", "by a worker"}
    assert outcome(engine, question()) == "deny halted"


# ── Floods ────────────────────────────────────────────────────────────────────────────────────


def test_a_flood_of_halts_leaves_room_to_halt_everything() -> None:
    engine = create(store=SharedStore())
    for number in range(256):
        engine.halt(reason="flood", end=HOUR, agent=f"agent {number}")
    with pytest.raises(HaltsFullError, match="there are already 256 such halts"):
        engine.halt(reason="flood", end=HOUR, agent="bot")
    for _ in range(16):
        engine.halt(reason="stop", end=HOUR, everything=True)
    with pytest.raises(HaltsFullError, match="there are already 16 such halts"):
        engine.halt(reason="stop", end=HOUR, everything=True)
    assert len(engine.halts) == 272


def test_halts_with_long_names_leave_room_to_halt_everything() -> None:
    engine = create()
    long = {"agent": "\U0001f600" * 1_000, "user": "\U0001f600" * 1_000, "task": "\U0001f600" * 1_000}
    for _ in range(81):
        engine.halt(reason="flood", end=HOUR, **long)  # type: ignore[arg-type]
    with pytest.raises(HaltsFullError, match="the halts are too long"):
        engine.halt(reason="flood", end=HOUR, **long)  # type: ignore[arg-type]
    engine.halt(reason="\U0001f600" * 500, end=HOUR, everything=True)


def test_a_flood_of_liftings_keeps_the_latest() -> None:
    document = HaltDocument(0)
    for number in range(1_000):
        halt = Halt(f"h{number}", "r", NOW, NOW + 60, agent="x")
        document = document.adding(halt, NOW).lifting(HaltLift(halt.id, "r", NOW), NOW)
    assert len(document.lifted) == 64
    assert document.lifted[-1].id == "h999"


def test_ended_halts_make_room_after_a_day() -> None:
    document = HaltDocument(0)
    for number in range(256):
        document = document.adding(Halt(f"h{number}", "r", NOW, NOW + 60, agent="x"), NOW)
    with pytest.raises(HaltsFullError):
        document.adding(Halt("new", "r", NOW, NOW + 60, agent="x"), NOW + 3_600)
    later = document.adding(Halt("new", "r", NOW, NOW + 60, agent="x"), NOW + 90_000)
    assert [one.id for one in later.halts] == ["new"]


def test_the_number_of_the_document_rises_although_the_clock_is_set_back() -> None:
    first = HaltDocument(0).adding(Halt("a", "r", NOW, NOW + 60, agent="x"), NOW)
    second = first.adding(Halt("b", "r", NOW, NOW + 60, agent="x"), NOW - 10_000)
    assert first.number == NOW * 1_000
    assert second.number == first.number + 1
    assert decode_document(second.number, encode_document(second)) == second


def test_a_failing_clock_ends_no_halt() -> None:
    def failing() -> int:
        raise OSError("no clock")

    store = SharedStore()
    other(store).halt(reason="stop", end=HOUR, agent="bot")
    control = HaltControl(store.halts, clock=failing)
    assert [one.reason for one in control.status.halts] == ["stop"]


def test_policies_that_are_replaced_read_the_same_halts(tmp_path: Path) -> None:
    from policyengine.reload import ReloadableEngine

    engine = create(store=SharedStore())
    held = ReloadableEngine(engine)
    successor = engine.successor(Engine.from_text(POLICY + "anyone { may GET /more }", clock=Clock()).kernel)
    held.replace(successor)
    held.current.halt(reason="stop", end=HOUR, place="/more")
    assert outcome(held.current, question("/more", agent=None, user=None)) == "deny halted"


def test_a_read_that_does_not_end_is_reported() -> None:
    engine = create(store=SharedStore())
    assert outcome(engine, question()) == "allow"
    assert engine.halting.status.unreadable == ()
    engine.halting.close()
    engine.halting._stored.read_at -= 6
    assert engine.halting.status.unreadable == ("the store",)


def test_a_clock_that_is_ahead_removes_no_halt_while_there_is_room() -> None:
    store, ahead = SharedStore(), Clock()
    mine = other(store)
    mine.halt(reason="mine", end=HOUR, agent="bot")
    ahead.now = BEGIN + 100 * HOUR
    theirs = create(ahead, store=store)
    theirs.halt(reason="theirs", end=HOUR, user="bob")
    mine.halting.refresh()
    assert outcome(mine, question()) == "deny halted"
