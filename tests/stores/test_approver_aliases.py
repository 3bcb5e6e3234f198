"""People with two names at their issuer: the claim that names users, and `sub`. A revocation and a halt may use either,
before and after an answer, on every store."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import msgpack

from policyengine.approvals.eligibility import ApproverRefusal, ProvedPerson, find_aliases
from policyengine.engine.approval_desk import ApproverRefusedError
from policyengine.stores.memory.store import MemoryStore
from tests.stores.conftest import Fresh
from tests.stores.test_approval_desk import CAROL, DORA, NOW, PAIR, Desk, state_of, ticket_of

SECONDS = int(NOW.timestamp())
NAMED = CAROL._replace(aliases=("u-17",))  # her tokens have `sub` u-17, and name her in another claim


def revoke(desk: Desk, user: str) -> None:
    desk.store.marks.revoke([f"user:acme/{user}"], SECONDS + 3_600, SECONDS, by_operator=True)


def test_an_approval_does_not_count_if_its_approver_was_revoked_by_another_name(fresh: Fresh) -> None:
    desk = Desk(fresh())
    given = desk.opened()
    desk.approvals.approve(given, NAMED)
    revoke(desk, "u-17")
    ticket = ticket_of(desk.ask())
    assert (ticket.state, ticket.id != given) == ("pending", True)


def test_one_of_two_votes_does_not_count_if_its_voter_was_revoked_by_another_name(fresh: Fresh) -> None:
    desk = Desk(fresh(), PAIR)
    given = desk.opened()
    for person in (NAMED, DORA):
        desk.approvals.approve(given, person)
    revoke(desk, "u-17")
    assert desk.opened() != given


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_person_who_was_revoked_by_another_name_answers_nothing(fresh: Fresh, verb: str) -> None:
    desk = Desk(fresh())
    id = desk.opened()
    revoke(desk, "u-17")
    with pytest.raises(ApproverRefusedError) as error:
        getattr(desk.approvals, verb)(id, NAMED)
    assert error.value.refusal is ApproverRefusal.REVOKED
    assert desk.approvals.list(NAMED) == []
    assert [one.approval.id for one in desk.approvals.list(CAROL)] == [id]  # another user of this name


@pytest.mark.parametrize("user", ["u-17", "U-17", "u-*"])
def test_a_halt_by_another_name_stops_answers_and_voids_those_given(user: str) -> None:
    desk = Desk(MemoryStore())
    given, waiting = desk.opened(), desk.opened(901)
    desk.approvals.approve(given, NAMED)
    halt = desk.engine.halt(user=user, reason="the account was taken over", end=timedelta(hours=1), by="ops")
    with pytest.raises(ApproverRefusedError) as error:
        desk.approvals.approve(waiting, NAMED)
    assert error.value.refusal is ApproverRefusal.HALTED
    desk.engine.lift(halt.id, reason="over")
    desk.engine.halt(chain_root=user, reason="the account was taken over", end=timedelta(hours=1), by="ops")
    assert desk.opened() != given


def test_a_revoked_user_of_another_issuer_with_the_same_name_voids_nothing() -> None:
    desk = Desk(MemoryStore())
    desk.approvals.approve(desk.opened(), NAMED)
    desk.store.marks.revoke(["user:partner/u-17", "agent:acme/u-17"], SECONDS + 3_600, SECONDS, by_operator=True)
    assert desk.ask().allowed


def test_two_names_of_one_user_are_one_of_two_people(fresh: Fresh) -> None:
    """Somebody who may change the claim that names users, such as an address, does not become two people."""
    desk = Desk(fresh(), PAIR)
    id = desk.opened()
    for person in (NAMED, DORA._replace(aliases=("u-17",))):
        assert state_of(desk.approvals.approve(id, person)) == "pending"
    [vote] = desk.approvals.find(id).approval.votes
    assert (vote.by, vote.aliases) == ("dora", ("u-17",))
    assert desk.ask().outcome == "confirm"


def test_an_answer_that_an_earlier_version_has_stored_still_counts_and_can_be_followed_by_another(fresh: Fresh) -> None:
    desk = Desk(fresh(), PAIR)
    id, now = desk.opened(), int(NOW.timestamp() * 1_000_000)
    desk.approvals.approve(id, CAROL)
    row = desk.store.approvals.find(id, now)
    assert row is not None
    members = msgpack.decode(row.value)
    for vote in members["votes"]:
        del vote["aliases"]
    assert desk.store.approvals.save(row._replace(value=msgpack.encode(members)), row, now)
    assert state_of(desk.approvals.approve(id, DORA)) == "approved"
    assert desk.ask().allowed


def test_aliases_are_the_users_of_the_issuer_among_the_names_of_a_credential() -> None:
    names = {"user:acme/carol", "user:acme/u-17", "user:partner/u-18", "agent:acme/u-17", "jti:acme/1", "token:ab"}
    assert find_aliases("carol", "acme", names) == ("u-17",)
    assert find_aliases("carol", None, names) == ()
    assert ProvedPerson("carol", "acme").aliases == ()
