"""Attacks on the seams of approvals: processes whose clocks differ, answers while the world changes, and damaged rows,
on every store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.approvals.eligibility import ApproverRefusal
from policyengine.approvals.model import ApprovalChangeError
from policyengine.audit import DecisionLog
from policyengine.engine.approval_desk import ApproverRefusedError
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from tests.stores.conftest import Fresh
from tests.stores.test_approval_desk import (
    BOB,
    CAROL,
    DORA,
    NOW,
    RULE,
    Desk,
    fill_disk,
    list_all,
    look,
    state_of,
    states_on_record,
    ticket_of,
    wait_for_the_timer,
)

WAIT = timedelta(days=1)
AHEAD = timedelta(seconds=2)  # less than the difference of clocks at which a store is no longer used


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    found = DecisionLog(tmp_path / "log.jsonl", seal=None)
    yield found
    found.close()


def states_of(log: DecisionLog, id: str) -> list[str]:
    return [state for of, state in states_on_record(log.path) if of == id]


# ── Clocks that differ ────────────────────────────────────────────────────────────────────────


def two_desks(fresh: Fresh, log: DecisionLog) -> tuple[Desk, Desk, str]:
    """Two processes that share a store, and an approval that has expired by the clock of the second one only."""
    behind = Desk(fresh(), log=log)
    ahead = Desk(behind.store, log=log)
    id = behind.opened()
    ahead.approvals.record_expiries()
    behind.now += WAIT - AHEAD / 2
    ahead.now += WAIT + AHEAD / 2
    return behind, ahead, id


@pytest.mark.parametrize("notice", [look, list_all, wait_for_the_timer])
def test_an_expiry_on_record_is_final_for_a_process_whose_clock_is_behind(
    fresh: Fresh, log: DecisionLog, notice: Callable[[Desk, str], None]
) -> None:
    behind, ahead, id = two_desks(fresh, log)
    notice(ahead, id)
    assert state_of(behind.approvals.find(id)) == "expired"
    assert behind.approvals.list() == []
    for answer in (behind.approvals.approve, behind.approvals.deny):
        with pytest.raises(ApprovalChangeError):
            answer(id, CAROL)
    assert behind.ask().outcome == "confirm"
    assert states_of(log, id) == ["pending", "expired"]


def test_a_process_whose_clock_is_behind_opens_another_approval_after_an_expiry(fresh: Fresh, log: DecisionLog) -> None:
    behind, ahead, id = two_desks(fresh, log)
    wait_for_the_timer(ahead, id)
    other = behind.opened()
    assert other != id
    behind.approvals.approve(other, CAROL)
    assert behind.ask().allowed


def test_of_an_answer_and_an_expiry_at_the_same_moment_one_counts(fresh: Fresh, log: DecisionLog) -> None:
    behind = Desk(fresh(), log=log)
    ahead = Desk(behind.store, log=log)
    amounts = range(600, 616)
    ids = [behind.opened(amount) for amount in amounts]
    behind.now += WAIT - AHEAD / 2
    ahead.now += WAIT + AHEAD / 2

    def approve() -> None:
        for id in ids:
            with suppress(ApprovalChangeError):
                behind.approvals.approve(id, CAROL)

    def expire() -> None:
        for id in reversed(ids):
            ahead.approvals.find(id)

    with ThreadPoolExecutor(2) as threads:
        [task.result() for task in (threads.submit(approve), threads.submit(expire))]
    ends = {id: states_of(log, id)[1:] for id in ids}
    assert all(found in (["approved"], ["expired"]) for found in ends.values()), ends
    passed = [behind.ask(amount).allowed for amount in amounts]
    assert passed == [ends[id] == ["approved"] for id in ids]


# ── The approver ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_revoked_user_answers_nothing_through_any_channel(fresh: Fresh, verb: str) -> None:
    desk = Desk(fresh())
    id, seconds = desk.opened(), int(NOW.timestamp())
    desk.store.marks.revoke(["user:acme/carol"], seconds + 60, seconds, by_operator=True)
    with pytest.raises(ApproverRefusedError) as error:
        getattr(desk.approvals, verb)(id, CAROL, channel="mcp")
    assert error.value.refusal is ApproverRefusal.REVOKED
    assert (desk.approvals.list(CAROL), state_of(desk.approvals.find(id))) == ([], "pending")
    assert [one.approval.id for one in desk.approvals.list(DORA)] == [id]


def test_nobody_answers_while_it_is_unknown_who_was_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore())
    id = desk.opened()

    def fail(*_: object) -> None:
        raise StoreError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store.marks, "revoked", fail)
        with pytest.raises(StoreError):
            desk.approvals.approve(id, CAROL)
    assert state_of(desk.approvals.find(id)) == "pending"


class Interrupted:
    """The approvals of a store; `then` runs after an approval was saved, before its line is written."""

    def __init__(self, real: Any, then: Callable[[], object]) -> None:
        self._real, self._then = real, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def save(self, *given: Any) -> bool:
        saved: bool = self._real.save(*given)
        then, self._then = self._then, lambda: None
        then()
        return saved


def interrupt(desk: Desk, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    of: Any = type(desk.store)
    owner = of if hasattr(of, "approvals") else desk.store  # some stores have a property
    monkeypatch.setattr(owner, "approvals", Interrupted(desk.store.approvals, then))


def test_an_approver_who_is_halted_between_click_and_record_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore())
    id = desk.opened()
    interrupt(desk, monkeypatch, lambda: desk.engine.halt(user="carol", reason="stolen", end=timedelta(hours=1)))
    desk.approvals.approve(id, CAROL)
    assert desk.opened() != id


# ── Damage ────────────────────────────────────────────────────────────────────────────────────


def damage(desk: Desk, id: str, value: bytes = b"\x93garbage") -> None:
    """Replace the content of an approval in the store."""
    now = int(desk.now.timestamp() * 1e6)
    row = desk.store.approvals.find(id, now)
    assert row is not None
    assert desk.store.approvals.save(row._replace(value=value), row, now)


@pytest.mark.parametrize("value", [b"", b"\x93garbage", b"\xc1", b"\x80"])
def test_a_damaged_approval_hides_no_other_one(fresh: Fresh, value: bytes) -> None:
    desk = Desk(fresh())
    damaged, sound = desk.opened(901), desk.opened(902)
    damage(desk, damaged, value)
    assert [one.approval.id for one in desk.approvals.list()] == [sound]
    assert [one.approval.id for one in desk.approvals.list(CAROL)] == [sound]
    desk.approvals.approve(sound, CAROL)
    assert (desk.ask(902).allowed, desk.ask(901).outcome) == (True, "deny")


def test_a_damaged_approval_is_not_answered(fresh: Fresh) -> None:
    desk = Desk(fresh())
    id = desk.opened()
    damage(desk, id)
    for work in (desk.approvals.find, desk.approvals.withdraw, lambda id: desk.approvals.approve(id, CAROL)):
        with pytest.raises(StoreError) as error:
            work(id)
        assert error.value.reason == "the approval in the store is damaged"


def test_a_damaged_approval_stops_no_expiry(fresh: Fresh, log: DecisionLog) -> None:
    desk = Desk(fresh(), log=log)
    damaged, sound = desk.opened(901), desk.opened(902)
    damage(desk, damaged)
    desk.later(days=1)
    desk.approvals.record_expiries()
    assert states_of(log, sound) == ["pending", "expired"]


def test_nobody_who_may_not_answer_learns_more_of_a_damaged_approval(fresh: Fresh) -> None:
    desk = Desk(fresh())
    id = desk.opened()
    damage(desk, id)
    assert desk.approvals.list(BOB) == []


# ── Between saving an answer and writing its line ─────────────────────────────────────────────


class Killed(BaseException):
    """What ends a process at this moment."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(("verb", "state"), [("approve", "approved"), ("deny", "denied")])
def test_an_answer_of_a_process_that_was_killed_counts_once_it_is_on_record(
    fresh: Fresh, log: DecisionLog, monkeypatch: pytest.MonkeyPatch, verb: str, state: str
) -> None:
    desk = Desk(fresh(), log=log)
    id = desk.opened()
    interrupt(desk, monkeypatch, kill)
    with pytest.raises(Killed):
        getattr(desk.approvals, verb)(id, CAROL, "rent", channel="mcp")
    assert (desk.opened(), state_of(desk.approvals.find(id)), states_of(log, id)) == (id, "pending", ["pending"])
    desk.later(seconds=5)
    assert desk.ask().allowed == (state == "approved")
    assert state_of(desk.approvals.find(id)) == ("spent" if state == "approved" else "denied")
    assert states_of(log, id) == ["pending", state]


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_another_person_answers_after_a_process_that_was_killed(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    pair = RULE.replace("by role finance", "by 2 of role finance")
    desk = Desk(MemoryStore(), pair, log=log)
    id = desk.opened()
    interrupt(desk, monkeypatch, kill)
    with pytest.raises(Killed):
        desk.approvals.approve(id, CAROL)
    desk.later(seconds=6)
    getattr(desk.approvals, verb)(id, DORA)
    last = "approved" if verb == "approve" else "denied"
    assert (state_of(desk.approvals.find(id)), states_of(log, id)) == (last, ["pending", "approved", last])


def test_an_answer_lets_nothing_pass_before_it_is_on_record(log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, outcomes = Desk(MemoryStore(), log=log), list[str]()
    id = desk.opened()
    interrupt(desk, monkeypatch, lambda: outcomes.append(desk.ask().outcome))
    desk.approvals.approve(id, CAROL)
    assert outcomes == ["confirm"]
    assert desk.ask().allowed


def test_a_late_answer_that_cannot_be_recorded_does_not_count(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(MemoryStore(), log=log)
    id = desk.opened()
    interrupt(desk, monkeypatch, kill)
    with pytest.raises(Killed):
        desk.approvals.approve(id, CAROL)
    desk.later(seconds=6)
    with monkeypatch.context() as full:
        fill_disk(full)
        assert state_of(desk.approvals.find(id)) == "pending"
    assert state_of(desk.approvals.find(id)) == "approved"


def test_an_answer_that_is_recorded_takes_no_answer_of_others(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denial that arrives while an approval is put on record comes too late."""
    desk, refused = Desk(MemoryStore(), log=log), list[str]()
    id = desk.opened()

    def deny_at_once() -> None:
        with ThreadPoolExecutor(1) as threads:
            denial = threads.submit(desk.approvals.deny, id, DORA)
            with pytest.raises(StoreError):
                denial.result()
            refused.append(state_of(desk.approvals.find(id)))

    monkeypatch.setattr("policyengine.engine.approval_desk.sleep", lambda seconds: None)
    interrupt(desk, monkeypatch, deny_at_once)
    desk.approvals.approve(id, CAROL)
    assert (refused, states_of(log, id)) == (["pending"], ["pending", "approved"])


# ── Floods ────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_that_acts_for_many_users_leaves_room_for_other_agents(fresh: Fresh) -> None:
    desk = Desk(fresh(), most_per_requester=2, most_per_approver=6)
    tickets = [ticket_of(desk.ask(600 + number, user={"id": f"u{user}"})) for user in range(3) for number in range(2)]
    assert [ticket.refused for ticket in tickets] == [
        *[None] * 3, *["too many approvals of this agent wait for the same people"] * 3,
    ]  # fmt: skip
    assert desk.opened(agent="other")


def test_a_flood_of_changed_requests_is_bounded_also_if_each_is_withdrawn(fresh: Fresh) -> None:
    desk = Desk(fresh(), most_per_requester=3)
    for amount in range(600, 620):
        if (id := ticket_of(desk.ask(amount)).id) is not None:
            desk.approvals.withdraw(id)
    assert (desk.approvals.list(), ticket_of(desk.ask(700)).id) == ([], None)
