"""Approvals that an engine opens, people answer and decisions spend, on every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from errno import ENOSPC
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from policyengine import ApprovalSettings
from policyengine.approvals.eligibility import ApproverRefusal, ProvedPerson
from policyengine.approvals.model import ApprovalChangeError, read_row
from policyengine.audit import DecisionLog, OnFailure, read_log, read_records
from policyengine.audit.replay import replay_decision
from policyengine.engine import Engine
from policyengine.engine.approval_desk import (
    ApprovalDesk,
    ApprovalNotFoundError,
    ApproverRefusedError,
    TrackedApproval,
)
from policyengine.engine.observe_mode import Observe
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import ApprovalTicket, Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.idempotency import IdempotencyKey, KeyInProgressError, KeyReuseError
from policyengine.stores.approvals import ApprovalRow
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.typesystem import EntityRef
from tests.entities.test_looking import Clock, looked_up
from tests.stores.conftest import Fresh

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
HEAD = """
language 1
package shop
entity user { roles: set<string> } in team
entity team {}
facts on POST /refund { body.amount: number   body.to: string? }
issuer acme { url "https://login.acme.example"   scopes none }
users unrestricted
agent "bot" { issued by acme   acts for any user   may POST /refund }
agent "other" { issued by acme   acts for any user   may POST /refund }
"""
RULE = 'guard "large" on POST /refund { confirm by role finance within 15m when body.amount > 500 }'
PEOPLE = EntityStore(
    [
        EntityData(EntityRef("user", name), {"roles": roles}, parents=(EntityRef("team", team),))
        for name, roles, team in (
            ("carol", ["finance"], "money"), ("dora", ["finance"], "money"), ("alice", ["finance"], "money"),
            ("bob", [], "sales"), ("bot", ["finance"], "money"),
        )
    ]
)  # fmt: skip
CAROL, DORA, BOB = (ProvedPerson(name, "acme") for name in ("carol", "dora", "bob"))
ASKS = {"request_approval": True}


class Desk:
    """An engine with the clock of the test, an agent that asks it, and people who answer."""

    def __init__(self, store: Store, rule: str = RULE, log: DecisionLog | None = None, **settings: Any) -> None:
        self.now, self.store, self.log, self.settings = NOW, store, log, settings
        self.engine = self.engine_of(rule)

    def engine_of(self, rule: str) -> Engine:
        return Engine.from_text(
            HEAD + rule, clock=lambda: self.now, store=self.store, directory=PEOPLE, log=self.log,
            approvals=ApprovalSettings(**self.settings),
        )  # fmt: skip

    @property
    def approvals(self) -> ApprovalDesk:
        found = self.engine.approvals
        assert found is not None
        return found

    def question(self, amount: object = 900, *, agent: str = "bot", **more: Any) -> dict[str, Any]:
        asked = {"request": {"method": "POST", "path": "/refund"}, "agent": {"id": agent, "issuer": "acme"}}
        body = {"amount": amount, "to": "x"}
        return {**asked, "user": {"id": "alice"}, "credential": {}, "body": body, "options": ASKS, **more}

    def ask(self, amount: object = 900, **more: Any) -> Decision:
        return self.engine.decide(self.question(amount, **more))

    def opened(self, amount: object = 900, **more: Any) -> str:
        ticket = ticket_of(self.ask(amount, **more))
        assert ticket.id is not None, ticket
        return ticket.id

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)


def ticket_of(decision: Decision) -> ApprovalTicket:
    assert decision.outcome == "confirm"
    [found] = [one.approval for one in decision.remedies if one.kind == "approval"]
    assert found is not None
    return found


def state_of(status: TrackedApproval) -> str:
    return status.state.value


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


# ── Opening ───────────────────────────────────────────────────────────────────────────────────


def test_a_confirm_opens_an_approval_if_the_caller_asks_for_one(desk: Desk) -> None:
    ticket = ticket_of(desk.ask())
    assert (ticket.state, ticket.status, ticket.refused) == ("pending", f"/approvals/{ticket.id}", None)
    assert (ticket.expires, ticket.poll) == ("2027-01-05T12:00:00Z", 5)
    [waiting] = desk.approvals.list()
    assert (waiting.approval.id, waiting.approval.rule, state_of(waiting)) == (ticket.id, "large", "pending")


def test_a_confirm_opens_nothing_if_the_caller_does_not_ask(desk: Desk) -> None:
    decision = desk.ask(options={})
    assert [one.approval for one in decision.remedies] == [None]
    assert desk.approvals.list() == []


def test_evaluate_opens_nothing(desk: Desk) -> None:
    decision = desk.engine.evaluate(desk.question())
    assert [one.approval for one in decision.remedies] == [None]
    assert [one.approval for one in desk.ask(options={"consume": False, **ASKS}).remedies] == [None]
    assert desk.approvals.list() == []


def test_the_same_request_has_one_open_approval(desk: Desk) -> None:
    assert desk.opened() == desk.opened()
    assert len(desk.approvals.list()) == 1


def test_a_different_request_has_another_approval(desk: Desk) -> None:
    assert (
        len({desk.opened(900), desk.opened(901), desk.opened(900, agent="other"), desk.opened(user={"id": "bob"})}) == 4
    )


def test_an_approval_shows_what_is_asked_and_by_whom(desk: Desk) -> None:
    approval = desk.approvals.find(desk.opened()).approval
    assert (approval.endpoint, approval.by, approval.count) == ("POST /refund", "role finance", 1)
    assert approval.question["body"] == {"amount": 900, "to": "x"}
    assert (approval.requester.agent, approval.requester.user, approval.requester.chain) == (
        "bot",
        "alice",
        ("alice", "bot"),
    )


def test_an_approval_contains_no_secret(desk: Desk) -> None:
    secret = "hunter2-hunter2"
    headers = {"authorization": f"Bearer {secret}", "cookie": secret}
    asked = {"method": "POST", "path": "/refund", "headers": headers, "query": {"token": secret, "page": "1"}}
    body = {"amount": 900, "to": "x", "password": secret}
    approval = desk.approvals.find(desk.opened(request=asked, body=body)).approval
    assert secret not in repr(approval)
    assert approval.question["request"]["query"]["page"] == "1"
    assert set(approval.question) == {"request", "body"}


def test_a_request_too_large_to_be_shown_opens_no_approval(desk: Desk) -> None:
    ticket = ticket_of(desk.ask(body={"amount": 900, "to": ["x" * 1_000] * 70}))
    assert (ticket.id, ticket.refused) == (None, "the request is too large to be shown to a person")
    assert desk.approvals.list() == []


@pytest.mark.parametrize("text", ["x" * 70_000, "\ud800"])
def test_a_request_with_a_text_that_cannot_be_shown_opens_no_approval(desk: Desk, text: str) -> None:
    ticket = ticket_of(desk.ask(body={"amount": 900, "to": text}))
    assert ticket.id is None
    assert str(ticket.refused).startswith("a part of the request cannot be shown to a person: ")


def test_two_rules_open_two_approvals(store: Store) -> None:
    desk = Desk(store, RULE + 'guard "boss" on POST /refund { confirm by team "money" within 15m }')
    decision = desk.ask()
    ids = [one.approval.id for one in decision.remedies if one.approval is not None]
    assert len(set(ids)) == 2
    for id in ids:
        assert desk.ask().outcome == "confirm"
        desk.approvals.approve(str(id), CAROL)
    assert desk.ask().allowed


def test_a_throttled_request_opens_nothing(store: Store) -> None:
    desk = Desk(store, RULE + 'rate "asking" per agent.id on POST /refund { 2/1h }')
    assert [str(desk.ask(900 + number).outcome) for number in range(3)] == ["confirm", "confirm", "throttle"]
    assert len(desk.approvals.list()) == 2


def test_a_requester_has_a_bounded_number_of_approvals(store: Store) -> None:
    desk = Desk(store, most_per_requester=2)
    first = desk.opened(901)
    desk.opened(902)
    ticket = ticket_of(desk.ask(903))
    assert (ticket.id, ticket.refused) == (None, "too many approvals of this requester are open")
    assert desk.opened(901) == first
    assert desk.opened(903, agent="other")
    desk.approvals.approve(first, CAROL)
    assert desk.opened(903)


@pytest.mark.parametrize("answer", ["deny", "withdraw"])
def test_denied_and_withdrawn_approvals_count_until_they_would_have_ended(store: Store, answer: str) -> None:
    desk = Desk(store, most_per_requester=1)
    id = desk.opened(901)
    if answer == "deny":
        desk.approvals.deny(id, CAROL)
    else:
        desk.approvals.withdraw(id)
    assert ticket_of(desk.ask(902)).refused
    desk.later(days=1)
    assert desk.opened(902)


def test_the_same_people_have_a_bounded_number_of_approvals_to_answer(store: Store) -> None:
    desk = Desk(store, most_per_approver=2)
    first = desk.opened(901)
    desk.opened(902, agent="other")
    assert ticket_of(desk.ask(903, user={"id": "bob"})).refused == "too many approvals wait for the same people"
    desk.approvals.deny(first, CAROL)
    assert desk.opened(903, user={"id": "bob"})


def test_nobody_is_asked_in_observe_mode(desk: Desk) -> None:
    desk.engine.observe(Observe(NOW + timedelta(hours=1)))
    assert desk.ask().allowed
    assert desk.approvals.list() == []


def test_a_confirm_outside_the_scope_of_observe_mode_opens_an_approval(store: Store) -> None:
    desk = Desk(store, RULE + "\nanyone { may GET /other }")
    desk.engine.observe(Observe(NOW + timedelta(hours=1), endpoints=("GET /other",)))
    desk.approvals.approve(desk.opened(), CAROL)
    assert desk.ask().allowed


def test_engines_without_a_confirm_have_no_approvals(store: Store) -> None:
    desk = Desk(store, "")
    assert desk.engine.approvals is None
    assert desk.ask().allowed


# ── The life of an approval ───────────────────────────────────────────────────────────────────


def test_the_request_passes_once_after_approval(desk: Desk) -> None:
    id = desk.opened()
    assert state_of(desk.approvals.approve(id, CAROL)) == "approved"
    assert desk.ask(options={}).allowed
    assert state_of(desk.approvals.find(id)) == "spent"
    again = ticket_of(desk.ask())
    assert (again.state, again.id != id) == ("pending", True)


def test_evaluate_sees_an_approval_and_does_not_spend_it(desk: Desk) -> None:
    id = desk.opened()
    desk.approvals.approve(id, CAROL)
    for _ in range(2):
        peeked = desk.engine.evaluate(desk.question())
        assert (peeked.allowed, [one.kind for one in peeked.obligations]) == (True, ["consume"])
    assert state_of(desk.approvals.find(id)) == "approved"
    explained = desk.engine.explain(desk.question()).decision
    assert explained.allowed


def test_an_approval_allows_no_changed_argument(desk: Desk) -> None:
    desk.approvals.approve(desk.opened(900), CAROL)
    assert desk.ask(901).outcome == "confirm"
    assert desk.ask(body={"amount": 900, "to": "x", "more": 1}).outcome == "confirm"
    assert desk.ask(900).allowed


@pytest.mark.parametrize("who", [{"agent": "other"}, {"user": {"id": "bob"}}])
def test_an_approval_allows_no_other_caller(desk: Desk, who: dict[str, Any]) -> None:
    desk.approvals.approve(desk.opened(), CAROL)
    assert desk.ask(**who).outcome == "confirm"
    assert desk.ask().allowed


def test_a_denied_request_does_not_pass_and_asks_nobody_again(desk: Desk) -> None:
    id = desk.opened()
    assert state_of(desk.approvals.deny(id, CAROL, "not today")) == "denied"
    ticket = ticket_of(desk.ask())
    assert (ticket.id, ticket.state) == (id, "denied")
    assert desk.approvals.list() == []
    desk.later(days=1)
    assert desk.opened() != id


def test_an_approval_expires_if_nobody_answers(desk: Desk) -> None:
    id = desk.opened()
    desk.later(days=1)
    assert state_of(desk.approvals.find(id)) == "expired"
    with pytest.raises(ApprovalChangeError, match="the approval is expired"):
        desk.approvals.approve(id, CAROL)
    assert desk.opened() != id


def test_an_approval_counts_as_long_as_the_rule_says(desk: Desk) -> None:
    id = desk.opened()
    desk.later(hours=23)
    desk.approvals.approve(id, CAROL)
    desk.later(minutes=15)
    assert desk.engine.evaluate(desk.question()).allowed
    desk.later(seconds=1)
    assert state_of(desk.approvals.find(id)) == "expired"
    assert ticket_of(desk.ask()).id != id


def test_a_withdrawn_approval_cannot_be_answered_and_is_replaced_by_the_next_request(desk: Desk) -> None:
    id = desk.opened()
    assert state_of(desk.approvals.withdraw(id)) == "withdrawn"
    for answer in (desk.approvals.approve, desk.approvals.deny):
        with pytest.raises(ApprovalChangeError):
            answer(id, CAROL)
    assert desk.opened() != id


def test_an_answer_is_final(desk: Desk) -> None:
    denied, approved = desk.opened(901), desk.opened(902)
    desk.approvals.deny(denied, CAROL)
    desk.approvals.approve(approved, CAROL)
    for id in (denied, approved):
        for answer in (desk.approvals.approve, desk.approvals.deny):
            with pytest.raises(ApprovalChangeError):
                answer(id, DORA)
        with pytest.raises(ApprovalChangeError):
            desk.approvals.withdraw(id)
    assert (desk.ask(901).outcome, desk.ask(902).allowed) == ("confirm", True)


def test_an_approval_of_unknown_id_is_not_found(desk: Desk) -> None:
    for answer in (desk.approvals.find, desk.approvals.withdraw):
        with pytest.raises(ApprovalNotFoundError):
            answer("x" * 32)
    with pytest.raises(ApprovalNotFoundError):
        desk.approvals.approve("x" * 32, CAROL)


def test_an_ended_approval_is_known_for_an_hour(desk: Desk) -> None:
    id = desk.opened()
    desk.later(days=1, minutes=59)
    assert state_of(desk.approvals.find(id)) == "expired"
    desk.later(minutes=1)
    with pytest.raises(ApprovalNotFoundError):
        desk.approvals.find(id)


def test_a_reload_that_changes_the_rule_voids_the_approval(desk: Desk) -> None:
    approved, waiting = desk.opened(901), desk.opened(902)
    desk.approvals.approve(approved, CAROL)
    desk.engine = desk.engine_of(RULE.replace("15m", "16m"))
    assert ticket_of(desk.ask(901)).id != approved
    with pytest.raises(ApprovalChangeError, match="the policies have changed"):
        desk.approvals.approve(waiting, CAROL)


def test_approvals_that_a_reload_has_voided_wait_for_nobody_and_take_no_room(store: Store) -> None:
    desk = Desk(store, most_per_requester=1, most_per_approver=1)
    desk.opened()
    desk.engine = desk.engine_of(RULE.replace("15m", "5m"))
    assert desk.approvals.list(CAROL) == []
    again = desk.opened()
    assert [one.approval.id for one in desk.approvals.list(CAROL)] == [again]


def test_a_reload_that_changes_nothing_keeps_the_approval(desk: Desk) -> None:
    id = desk.opened()
    desk.engine = desk.engine.successor(desk.engine_of(f"# a comment\n{RULE}").kernel)
    desk.approvals.approve(id, CAROL)
    assert desk.ask().allowed


def test_approvals_are_valid_in_every_engine_that_shares_the_store(desk: Desk) -> None:
    first, second = desk.engine, desk.engine_of(RULE)
    id = desk.opened()
    desk.engine = second
    assert [one.approval.id for one in desk.approvals.list()] == [id]
    desk.approvals.approve(id, CAROL)
    desk.engine = first
    assert desk.ask().allowed


def test_an_approval_is_spent_by_only_one_of_several_requests(desk: Desk) -> None:
    desk.approvals.approve(desk.opened(), CAROL)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: str(desk.ask().outcome), range(8)))
    assert sorted(outcomes) == ["allow", *["confirm"] * 7]


def test_of_a_denial_and_an_approval_at_the_same_time_one_counts(desk: Desk) -> None:
    id = desk.opened()

    def answer(number: int) -> bool:
        try:
            if number % 2:
                desk.approvals.approve(id, CAROL)
            else:
                desk.approvals.deny(id, DORA)
        except ApprovalChangeError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(answer, range(8))) == 1
    assert desk.ask().allowed == (state_of(desk.approvals.find(id)) in ("approved", "spent"))


def test_an_approval_by_a_process_whose_clock_is_ahead_counts_at_once(desk: Desk) -> None:
    id = desk.opened()
    desk.later(milliseconds=5)
    desk.approvals.approve(id, CAROL)
    desk.later(milliseconds=-5)
    assert desk.engine.evaluate(desk.question()).allowed


def test_an_approver_who_lost_the_role_is_replaced_by_another(desk: Desk) -> None:
    id = desk.opened()
    desk.approvals.approve(id, CAROL)
    desk.engine.decider.replace_entities(EntityStore([EntityData(EntityRef("user", "dora"), {"roles": ["finance"]})]))
    other = desk.opened()
    assert other != id
    desk.approvals.approve(other, DORA)
    assert desk.ask().allowed


def test_the_rows_of_an_approver_are_looked_up_once_for_all_approvals(desk: Desk) -> None:
    ids = {desk.opened(amount) for amount in (600, 700, 800)}
    table, entities = looked_up(PEOPLE, Clock(), "user", ttl=0.0)
    desk.engine.decider.replace_entities(entities)
    assert {one.approval.id for one in desk.approvals.list(CAROL)} == ids
    assert desk.approvals.list(BOB) == []
    assert [name for [name] in table.asked] == ['user "carol"', 'user "bob"']


def test_an_approval_given_between_decision_and_opening_is_not_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = desk.opened()
    real, answered = ApprovalDesk.open, iter([True])

    def slow(self: ApprovalDesk, *given: Any) -> Decision:
        if next(answered, False):
            desk.approvals.approve(id, CAROL)
        return real(self, *given)

    monkeypatch.setattr(ApprovalDesk, "open", slow)
    ticket = ticket_of(desk.ask())
    assert (ticket.id, ticket.state) == (id, "approved")
    assert desk.ask().allowed


def test_a_repeat_with_an_idempotency_key_names_the_same_approval(desk: Desk) -> None:
    key = IdempotencyKey("gateway", "k-1", "digest")
    first, again = (desk.engine.decide_once(desk.question(), key) for _ in range(2))
    assert (first.again, again.again) == (False, True)
    assert ticket_of(first.decision) == ticket_of(again.decision)


KEY = IdempotencyKey("gateway", "k-3", "digest")


def asked_with_key(desk: Desk, **more: Any) -> Decision:
    return desk.engine.decide_once(desk.question(**more), KEY).decision


def test_a_repeat_with_an_idempotency_key_passes_after_the_approval(desk: Desk) -> None:
    """An allow is repeated; what was a confirm is decided again."""
    id = ticket_of(asked_with_key(desk)).id
    desk.approvals.approve(str(id), CAROL)
    answers = [desk.engine.decide_once(desk.question(), KEY) for _ in range(3)]
    assert [one.decision.allowed for one in answers] == [True] * 3
    assert [one.again for one in answers] == [False, True, True]
    assert len({one.decision.id for one in answers}) == 1
    assert desk.ask().outcome == "confirm"


@pytest.mark.parametrize("end", ["withdrawn", "expired", "spent by another request"])
def test_a_repeat_with_an_idempotency_key_opens_another_approval_if_the_first_has_ended(desk: Desk, end: str) -> None:
    desk.settings["wait"] = timedelta(minutes=5)
    desk.engine = desk.engine_of(RULE)
    id = str(ticket_of(asked_with_key(desk)).id)
    if end == "withdrawn":
        desk.approvals.withdraw(id)
    elif end == "expired":
        desk.later(minutes=5)
    else:
        desk.approvals.approve(id, CAROL)
        assert desk.ask().allowed
    ticket = ticket_of(asked_with_key(desk))
    assert (ticket.state, ticket.id != id) == ("pending", True)
    assert ticket_of(asked_with_key(desk)) == ticket


def test_a_repeat_with_an_idempotency_key_stays_a_confirm_while_people_have_not_all_approved(store: Store) -> None:
    desk = Desk(store, RULE + 'guard "boss" on POST /refund { confirm by team "money" within 15m }')
    first = asked_with_key(desk)
    ids = [str(one.approval.id) for one in first.remedies if one.approval is not None]
    desk.approvals.approve(ids[0], CAROL)
    again = asked_with_key(desk)
    assert (again.id, again.outcome) == (first.id, "confirm")
    assert [one.approval.state for one in again.remedies if one.approval is not None] == ["approved", "pending"]
    desk.approvals.approve(ids[1], CAROL)
    assert asked_with_key(desk).allowed


def test_a_repeat_with_an_idempotency_key_stays_a_confirm_after_a_denial(desk: Desk) -> None:
    first = asked_with_key(desk)
    desk.approvals.deny(str(ticket_of(first).id), CAROL)
    again = asked_with_key(desk)
    assert (again.id, ticket_of(again).state) == (first.id, "denied")


def test_a_confirm_that_opened_no_approval_is_repeated_for_its_idempotency_key(desk: Desk) -> None:
    assert asked_with_key(desk, options={}).id == asked_with_key(desk, options={}).id


def test_a_repeat_with_an_idempotency_key_opens_the_approval_that_the_first_try_did_not_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(MemoryStore())
    with monkeypatch.context() as failing:
        broken(desk, failing, "open")
        assert ticket_of(asked_with_key(desk)).id is None
    assert ticket_of(asked_with_key(desk)).state == "pending"


def test_a_confirm_is_repeated_for_its_idempotency_key_if_it_is_unknown_whether_somebody_approved_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(MemoryStore())
    first = asked_with_key(desk)
    desk.approvals.approve(str(ticket_of(first).id), CAROL)
    with monkeypatch.context() as failing:
        broken(desk, failing, "bound")
        assert asked_with_key(desk).id == first.id
    assert asked_with_key(desk).allowed


def test_repeats_of_a_confirm_take_once_from_a_rate(store: Store) -> None:
    desk = Desk(store, RULE + 'rate "asking" per agent.id on POST /refund { 2/1h }', most_per_requester=0)
    assert [ticket_of(asked_with_key(desk)).id for _ in range(4)] == [None] * 4
    assert ticket_of(desk.ask(901)).refused


def test_an_idempotency_key_of_a_confirm_cannot_be_used_for_another_question_after_the_approval(desk: Desk) -> None:
    desk.approvals.approve(str(ticket_of(asked_with_key(desk)).id), CAROL)
    with pytest.raises(KeyReuseError):
        desk.engine.decide_once(desk.question(901), KEY._replace(digest="another"))
    assert asked_with_key(desk).allowed


def test_of_several_repeats_after_the_approval_one_is_decided(desk: Desk) -> None:
    desk.approvals.approve(str(ticket_of(asked_with_key(desk)).id), CAROL)

    def repeat(_: int) -> str:
        try:
            return asked_with_key(desk).id
        except KeyInProgressError:
            return ""

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(repeat, range(8)))
    assert len(ids - {""}) == 1
    assert asked_with_key(desk).id in ids


def test_an_allow_is_repeated_with_its_approval(tmp_path: Path, fresh: Fresh) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    desk = Desk(fresh(), log=log)
    desk.approvals.approve(desk.opened(), CAROL)
    key = IdempotencyKey("gateway", "k-2", "digest")
    assert [desk.engine.decide_once(desk.question(), key).decision.allowed for _ in range(2)] == [True, True]
    log.close()
    [first, again] = [one for one in read_records(tmp_path / "log.jsonl") if one.outcome == "allow"]
    assert first.request["approvals"] == again.request["approvals"]
    assert [replay_decision(one, desk.engine.kernel).same for one in (first, again)] == [True, True]


# ── Issuers of approvers ──────────────────────────────────────────────────────────────────────

FROM = """issuer partner { url "https://login.partner.example" }
guard "large" on POST /refund { confirm by role finance from partner within 15m when body.amount > 500 }"""


def test_only_people_of_the_issuers_after_from_may_answer(fresh: Fresh) -> None:
    desk = Desk(fresh(), FROM, issuers=("acme",))  # the setting is for rules without `from`
    id = desk.opened()
    for answer in (desk.approvals.approve, desk.approvals.deny):
        with pytest.raises(ApproverRefusedError) as error:
            answer(id, CAROL)
        assert error.value.refusal is ApproverRefusal.OTHER_ISSUER
        assert error.value.hint == "use a token of an issuer that the rule names after `from`"
    assert desk.approvals.list(CAROL) == []
    partner = CAROL._replace(issuer="partner")
    assert [one.approval.id for one in desk.approvals.list(partner)] == [id]
    assert state_of(desk.approvals.approve(id, partner)) == "approved"
    assert desk.ask().allowed
    assert desk.ask().outcome == "confirm"


def test_one_person_of_two_issuers_is_one_of_two_people(fresh: Fresh) -> None:
    desk = Desk(fresh(), FROM.replace("role finance from partner", "2 of role finance from partner, acme"))
    id = desk.opened()
    answers = [desk.approvals.approve(id, CAROL._replace(issuer=issuer)) for issuer in ("acme", "partner")]
    assert [state_of(one) for one in answers] == ["pending", "pending"]
    assert state_of(desk.approvals.approve(id, DORA)) == "approved"
    assert desk.ask().allowed


@pytest.mark.parametrize("clause", ["from acme", "from partner, acme", ""])
def test_an_approval_ends_with_a_policy_that_names_other_issuers(fresh: Fresh, clause: str) -> None:
    desk = Desk(fresh(), FROM)
    partner = CAROL._replace(issuer="partner")
    given = desk.opened()
    desk.approvals.approve(given, partner)
    waiting = desk.opened(901)
    desk.engine = desk.engine_of(FROM.replace("from partner", clause))
    assert desk.opened() != given
    with pytest.raises(ApprovalChangeError, match="the policies have changed"):
        desk.approvals.approve(waiting, partner)


def test_an_allow_with_an_issuer_is_repeated_and_replayed(tmp_path: Path, fresh: Fresh) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    desk = Desk(fresh(), FROM, log=log)
    desk.approvals.approve(desk.opened(), CAROL._replace(issuer="partner"))
    key = IdempotencyKey("gateway", "k-2", "digest")
    assert [desk.engine.decide_once(desk.question(), key).decision.allowed for _ in range(2)] == [True, True]
    log.close()
    [first, again] = [one for one in read_records(tmp_path / "log.jsonl") if one.outcome == "allow"]
    assert [one["issuer"] for one in first.request["approvals"]] == ["partner"]
    assert first.request["approvals"] == again.request["approvals"]
    assert [replay_decision(one, desk.engine.kernel).same for one in (first, again)] == [True, True]


# ── Two people, and rules about people ────────────────────────────────────────────────────────

PAIR = 'guard "pair" on POST /refund { confirm by 2 of team "money" within 15m }'


def test_two_people_must_approve_if_the_rule_says_so(store: Store) -> None:
    desk = Desk(store, PAIR)
    id = desk.opened()
    assert state_of(desk.approvals.approve(id, CAROL)) == "pending"
    assert desk.ask().outcome == "confirm"
    assert state_of(desk.approvals.approve(id, DORA)) == "approved"
    assert desk.ask().allowed
    assert desk.ask().outcome == "confirm"


def test_two_sessions_of_one_person_are_one(store: Store) -> None:
    desk = Desk(store, PAIR, issuers=("acme", "partner"))
    id = desk.opened()
    for _ in range(2):
        assert state_of(desk.approvals.approve(id, CAROL)) == "pending"
    assert desk.ask().outcome == "confirm"


def test_one_denial_ends_an_approval_of_two(store: Store) -> None:
    desk = Desk(store, PAIR)
    id = desk.opened()
    desk.approvals.approve(id, CAROL)
    desk.approvals.deny(id, DORA)
    assert ticket_of(desk.ask()).state == "denied"


def test_a_vote_that_has_lapsed_does_not_count(store: Store) -> None:
    desk = Desk(store, PAIR)
    id = desk.opened()
    desk.approvals.approve(id, CAROL)
    desk.later(minutes=16)
    assert state_of(desk.approvals.approve(id, DORA)) == "pending"
    assert state_of(desk.approvals.approve(id, CAROL)) == "approved"
    assert desk.ask().allowed


@pytest.mark.parametrize(
    ("person", "refusal"),
    [
        (BOB, ApproverRefusal.NOT_APPROVER),
        (ProvedPerson("alice", "acme"), ApproverRefusal.REQUESTER),
        (ProvedPerson("bot", "acme"), ApproverRefusal.CHAIN),
        (ProvedPerson("carol", "acme", by_agent=True), ApproverRefusal.AGENT),
        (ProvedPerson("carol", "partner"), ApproverRefusal.ISSUER),
        (ProvedPerson("carol", None), ApproverRefusal.ISSUER),
        (ProvedPerson(None, "acme"), ApproverRefusal.NO_USER),
        (ProvedPerson("nobody", "acme"), ApproverRefusal.NOT_APPROVER),
    ],
)  # fmt: skip
def test_only_people_whom_the_rule_names_may_answer(desk: Desk, person: ProvedPerson, refusal: ApproverRefusal) -> None:
    id = desk.opened()
    for answer in (desk.approvals.approve, desk.approvals.deny):
        with pytest.raises(ApproverRefusedError) as error:
            answer(id, person)
        assert error.value.refusal is refusal
    assert desk.approvals.list(person) == []
    assert [one.approval.id for one in desk.approvals.list(CAROL)] == [id]
    assert desk.ask().outcome == "confirm"


def test_no_number_of_other_approvals_hides_one_that_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("approvals", "sql.approvals", "redis.approvals"):
        monkeypatch.setattr(f"policyengine.stores.{module}.MAX_LISTED_ROWS", 3)
    monkeypatch.setattr("policyengine.engine.approval_desk.MAX_LISTED_ROWS", 3)
    desk = Desk(store)
    ids = [desk.opened(901)]
    for amount in range(902, 906):
        desk.later(seconds=1)
        desk.approvals.approve(desk.opened(amount, agent="other"), CAROL)
        assert desk.ask(amount, agent="other").allowed
        ids.insert(0, desk.opened(amount))
    assert [one.approval.id for one in desk.approvals.list(CAROL)] == ids


@pytest.mark.parametrize(
    ("spelling", "user", "refusal"),
    [
        ("Carol", {"user": {"id": "carol"}}, ApproverRefusal.REQUESTER),
        ("carol", {"user": {"id": "CAROL"}}, ApproverRefusal.REQUESTER),
        ("carol", {"user": {"id": "\uff43arol"}}, ApproverRefusal.REQUESTER),
        ("Bot", {}, ApproverRefusal.CHAIN),
    ],
)
def test_another_spelling_of_a_name_is_the_same_person(
    desk: Desk, spelling: str, user: dict[str, Any], refusal: ApproverRefusal
) -> None:
    id = desk.opened(**user)
    with pytest.raises(ApproverRefusedError) as error:
        desk.approvals.approve(id, ProvedPerson(spelling, "acme"))
    assert error.value.refusal is refusal


def test_two_spellings_of_a_person_are_one_of_two_people(store: Store) -> None:
    desk = Desk(store, 'guard "large" on POST /refund { confirm by 2 of team "money" }')
    rows = [EntityData(EntityRef("user", name), {}, parents=(EntityRef("team", "money"),)) for name in ("dora", "Dora")]
    desk.engine.replace_directory(EntityStore(rows))
    id = desk.opened()
    states = [state_of(desk.approvals.approve(id, ProvedPerson(name, "acme"))) for name in ("dora", "Dora")]
    assert states == ["pending", "pending"]


# ── Halts ─────────────────────────────────────────────────────────────────────────────────────

HOUR = timedelta(hours=1)
COVERING: list[dict[str, Any]] = [
    {"user": "Carol"}, {"user": "c*"}, {"issuer": "https://login.acme.example/"}, {"everything": True},
    {"user": "carol", "place": "POST /refund"}, {"user": "carol", "issuer": "acme"}, {"chain_root": "carol"},
]  # fmt: skip
OTHERS: list[dict[str, Any]] = [
    {"user": "dora"}, {"agent": "other"}, {"user": "carol", "agent": "bot"}, {"tool": "*"}, {"task": "carol"},
    {"place": "GET /refund"}, {"user": "dora", "issuer": "acme"},
]  # fmt: skip


@pytest.mark.parametrize("scope", COVERING, ids=str)
def test_a_halted_person_answers_nothing_until_the_halt_is_lifted(desk: Desk, scope: dict[str, Any]) -> None:
    id = desk.opened()
    halt = desk.engine.halt(reason="stolen token", end=HOUR, **scope)
    for answer in (desk.approvals.approve, desk.approvals.deny):
        with pytest.raises(ApproverRefusedError) as error:
            answer(id, CAROL)
        assert error.value.refusal is ApproverRefusal.HALTED
    assert desk.approvals.list(CAROL) == []
    desk.engine.lift(halt.id, reason="mended")
    assert state_of(desk.approvals.approve(id, CAROL)) == "approved"


@pytest.mark.parametrize("scope", OTHERS, ids=str)
def test_a_halt_of_others_stops_no_answer(desk: Desk, scope: dict[str, Any]) -> None:
    id = desk.opened()
    desk.engine.halt(reason="stolen token", end=HOUR, **scope)
    assert state_of(desk.approvals.approve(id, CAROL)) == "approved"


def test_the_approval_of_a_person_who_was_halted_later_does_not_count(desk: Desk) -> None:
    first = desk.opened()
    desk.approvals.approve(first, CAROL)
    desk.engine.halt(user="carol", reason="stolen token", end=HOUR)
    second = desk.opened()
    assert second != first
    assert desk.opened() == second
    desk.approvals.approve(second, DORA)
    assert desk.ask().allowed


def test_the_approval_of_a_user_who_was_revoked_later_does_not_count(desk: Desk) -> None:
    first, seconds = desk.opened(), int(NOW.timestamp())
    desk.approvals.approve(first, CAROL)
    desk.store.marks.revoke(["user:acme/carol"], seconds + 3_600, seconds, by_operator=True)
    second = desk.opened()
    assert second != first
    desk.approvals.approve(second, DORA)
    assert desk.ask().allowed


# ── Callers ───────────────────────────────────────────────────────────────────────────────────


def claimed(desk: Desk) -> dict[str, Any]:
    """Return a question whose caller claims an approval."""
    [remedy] = desk.ask(options={}).remedies
    grant = {"id": "mine", "by": "carol", "granted_at": desk.now.isoformat(), "binding": remedy.binding}
    return desk.question(approvals=[grant], options={})


def test_approvals_in_a_question_do_not_count(desk: Desk) -> None:
    asked = claimed(desk)
    assert desk.engine.decide(asked).outcome == "confirm"
    assert desk.engine.evaluate(asked).outcome == "confirm"
    assert desk.engine.explain(asked).decision.outcome == "confirm"
    assert [one.outcome for one in desk.engine.decide_many([asked, asked]) if isinstance(one, Decision)] == [
        "confirm"
    ] * 2
    assert desk.engine.decide_once(asked, IdempotencyKey("gateway", "k", "d")).decision.outcome == "confirm"


def test_approvals_in_a_question_count_for_an_engine_that_trusts_its_callers(store: Store) -> None:
    desk = Desk(store, trust_callers=True)
    asked = claimed(desk)
    assert desk.engine.decide(asked).allowed
    assert desk.engine.decide(asked).outcome == "confirm"


def test_a_claimed_approval_has_no_effect_on_a_real_one(store: Store) -> None:
    desk = Desk(store, trust_callers=True)
    asked = claimed(desk)
    desk.approvals.approve(desk.opened(), DORA)
    assert desk.engine.decide(asked).allowed
    assert desk.engine.decide(asked).allowed
    assert desk.engine.decide(asked).outcome == "confirm"


def test_many_questions_see_approvals_as_single_questions_do(desk: Desk) -> None:
    desk.approvals.approve(desk.opened(900), CAROL)
    asked = [desk.question(amount) for amount in (900, 901, 900)]
    answers = [one for one in desk.engine.decide_many(asked) if isinstance(one, Decision)]
    assert [str(one.outcome) for one in answers] == ["allow", "confirm", "confirm"]
    assert ticket_of(answers[1]).id != ticket_of(answers[2]).id


NIGHT = """guard "night" on POST /refund {
  deny when not (time within mon..sun 08:00..18:00 "Europe/Berlin") and not approval.granted
}"""


def test_an_approval_lifts_a_denial_that_demands_it(store: Store) -> None:
    desk = Desk(store, RULE + NIGHT)
    id = desk.opened()
    desk.later(hours=8)
    assert desk.ask().outcome == "deny"
    desk.approvals.approve(id, CAROL)
    assert desk.engine.evaluate(desk.question()).allowed
    assert [one.allowed for one in desk.engine.decide_many([desk.question()]) if isinstance(one, Decision)] == [True]
    assert desk.ask().outcome == "deny"


def test_a_denial_opens_no_approval(store: Store) -> None:
    desk = Desk(store, RULE + 'guard "no" on POST /refund { deny when body.to == "x" }')
    assert desk.ask().outcome == "deny"
    assert desk.approvals.list() == []


# ── The log ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[tuple[Desk, Path]]:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    yield Desk(MemoryStore(), log=log), tmp_path / "log.jsonl"
    log.close()


def test_every_change_is_a_record(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    for change in (desk.approvals.withdraw, lambda id: desk.approvals.deny(id, CAROL, "no"),
                   lambda id: desk.approvals.approve(id, CAROL)):  # fmt: skip
        change(desk.opened(next(AMOUNTS)))
    desk.ask(903)
    events = [one.details for one in read_log(path) if getattr(one, "event", None) == "approval"]
    assert [one["state"] for one in events] == [
        "pending", "withdrawn", "pending", "denied", "pending", "approved",
    ]  # fmt: skip
    assert {one["rule"] for one in events} == {"large"}
    assert (events[3]["by"], events[3]["issuer"], events[3]["reason"]) == ("carol", "acme", "no")
    assert (events[0]["agent"], events[0]["user"], events[0]["endpoint"]) == ("bot", "alice", "POST /refund")


def test_the_record_of_an_answer_says_how_the_person_was_asked(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    desk.approvals.approve(desk.opened(), CAROL, "rent", channel="mcp")
    desk.approvals.approve(desk.opened(901), CAROL)
    events = [one.details for one in read_log(path) if getattr(one, "event", None) == "approval"]
    answers = [(one.get("reason"), one.get("channel")) for one in events if one["state"] == "approved"]
    assert answers == [("rent", "mcp"), (None, None)]


AMOUNTS = count(901)


def states_on_record(path: Path) -> list[tuple[str, str]]:
    """Return the id and the state of each line about an approval."""
    lines = [one.details for one in read_log(path) if getattr(one, "event", None) == "approval"]
    return [(str(one["approval"]), str(one["state"])) for one in lines]


def look(desk: Desk, id: str) -> None:
    desk.approvals.find(id)


def list_all(desk: Desk, id: str) -> None:
    desk.approvals.list()


def ask_for_another(desk: Desk, id: str) -> None:
    desk.ask(next(AMOUNTS))


def answer_late(desk: Desk, id: str) -> None:
    desk.approvals.find(id)
    with pytest.raises(ApprovalChangeError):
        desk.approvals.approve(id, CAROL)


def wait_for_the_timer(desk: Desk, id: str) -> None:
    desk.approvals.record_expiries()


NOTICES = (look, list_all, ask_for_another, answer_late, wait_for_the_timer)


@pytest.mark.parametrize("notice", NOTICES)
def test_an_approval_that_expired_without_an_answer_is_recorded_once(
    fresh: Fresh, tmp_path: Path, notice: Callable[[Desk, str], None]
) -> None:
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    desk = Desk(fresh(), log=log)
    id = desk.opened()
    desk.later(hours=23)
    notice(desk, id) if notice is not answer_late else look(desk, id)
    desk.later(hours=1)
    for _ in range(3):
        notice(desk, id)
    log.close()
    assert [state for of, state in states_on_record(tmp_path / "expired.jsonl") if of == id] == ["pending", "expired"]


def test_processes_that_share_a_store_record_an_expiry_once(fresh: Fresh, tmp_path: Path) -> None:
    """Also a process that started after the approval was opened."""
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    first = Desk(fresh(), log=log)
    id = first.opened()
    second = Desk(first.store, log=log)
    assert [one.approval.id for one in second.approvals.list()] == [id]
    for desk in (first, second):
        desk.later(days=1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda desk: desk.approvals.list(), [second, first] * 4))
    log.close()
    assert states_on_record(tmp_path / "expired.jsonl") == [(id, "pending"), (id, "expired")]


@pytest.mark.parametrize("end", ["approved", "denied", "withdrawn"])
def test_an_approval_that_was_answered_does_not_expire_on_record(fresh: Fresh, tmp_path: Path, end: str) -> None:
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    desk = Desk(fresh(), log=log)
    id = desk.opened()
    {"approved": lambda: desk.approvals.approve(id, CAROL), "denied": lambda: desk.approvals.deny(id, CAROL),
     "withdrawn": lambda: desk.approvals.withdraw(id)}[end]()  # fmt: skip
    desk.later(days=1)
    look(desk, id)
    desk.approvals.list()
    log.close()
    assert states_on_record(tmp_path / "expired.jsonl") == [(id, "pending"), (id, end)]


def test_an_approval_with_one_of_two_votes_expires_on_record(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    desk = Desk(MemoryStore(), PAIR, log=log)
    id = desk.opened()
    desk.approvals.approve(id, CAROL)
    desk.later(days=1)
    desk.approvals.list()
    log.close()
    assert states_on_record(tmp_path / "expired.jsonl")[-1] == (id, "expired")


def test_an_expiry_that_cannot_be_recorded_is_recorded_later(
    logged: tuple[Desk, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, path = logged
    id = desk.opened()
    desk.later(days=1)
    with monkeypatch.context() as full:
        fill_disk(full)
        assert state_of(desk.approvals.find(id)) == "expired"
        assert desk.approvals.list() == []
    assert states_on_record(path) == [(id, "pending")]
    desk.approvals.list()
    assert states_on_record(path) == [(id, "pending"), (id, "expired")]


def test_many_approvals_that_expire_at_once_are_recorded_by_several_calls(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    desk.settings |= {"most_per_requester": 100}
    desk.engine = desk.engine_of(RULE)
    ids = {desk.opened(600 + number) for number in range(45)}
    desk.later(days=1)
    recorded = []
    for _ in range(3):
        desk.approvals.list()
        recorded.append(len([state for _, state in states_on_record(path) if state == "expired"]))
    assert recorded == [20, 40, 45]
    assert {id for id, state in states_on_record(path) if state == "expired"} == ids


def test_a_process_that_started_later_records_the_expiry(fresh: Fresh, tmp_path: Path) -> None:
    """The process that opened the approval is gone."""
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    first = Desk(fresh(), log=log)
    id = first.opened()
    second = Desk(first.store, log=log)
    second.ask(901)
    second.later(days=1)
    second.ask(902)
    log.close()
    assert (id, "expired") in states_on_record(tmp_path / "expired.jsonl")


def test_the_timer_records_what_another_process_opened_after_the_first_reading(fresh: Fresh, tmp_path: Path) -> None:
    """The process that opened the approval is gone."""
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    first = Desk(fresh(), log=log)
    second = Desk(first.store, log=log)
    second.approvals.record_expiries()
    id = first.opened()
    second.later(minutes=5)
    second.approvals.record_expiries()
    second.later(days=1)
    second.approvals.record_expiries()
    log.close()
    assert states_on_record(tmp_path / "expired.jsonl") == [(id, "pending"), (id, "expired")]


def test_the_timer_reads_the_store_again_after_the_clock_was_set_back(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    desk.later(days=365)
    desk.approvals.record_expiries()
    desk.later(days=-365)
    other = Desk(desk.store, log=desk.log)
    id = other.opened()
    desk.approvals.record_expiries()
    desk.later(days=1)
    desk.approvals.record_expiries()
    assert states_on_record(path) == [(id, "pending"), (id, "expired")]


def test_what_expired_just_before_a_reload_is_recorded_after_it(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    id = desk.opened()
    desk.later(days=1)
    for _ in range(2):
        desk.engine = desk.engine.successor(desk.engine_of(f"# a comment\n{RULE}").kernel)
    desk.approvals.record_expiries()
    assert states_on_record(path) == [(id, "pending"), (id, "expired")]


def test_looking_for_expired_approvals_does_not_disturb_the_clock_of_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine.from_text(HEAD + RULE, store=SqliteStore(tmp_path / "state.db"))
    question = Desk(MemoryStore()).question()
    for _ in range(2):
        assert engine.decide(question).outcome == "confirm"
        assert engine.approvals is not None
        engine.approvals.find(engine.approvals.list()[0].approval.id)
        engine.approvals.record_expiries()
    assert [one.getMessage() for one in caplog.records] == []


def test_a_store_that_does_not_answer_hides_no_expiry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "expired.jsonl", seal=None)
    desk = Desk(MemoryStore(), log=log)
    id = desk.opened()
    desk.later(days=1)
    with monkeypatch.context() as failing:
        broken(desk, failing, "rows")
        with pytest.raises(StoreError):
            desk.approvals.list()
    with monkeypatch.context() as failing:
        broken(desk, failing, "save")
        desk.approvals.list()
    desk.approvals.list()
    log.close()
    assert states_on_record(tmp_path / "expired.jsonl") == [(id, "pending"), (id, "expired")]


def test_many_changes_in_a_minute_are_all_recorded(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    for number in range(30):
        desk.approvals.approve(desk.opened(600 + number), CAROL)
    events = [one for one in read_log(path) if getattr(one, "event", None) == "approval"]
    assert len(events) == 60


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr("os.write", fail)


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_an_answer_that_cannot_be_recorded_does_not_count(
    logged: tuple[Desk, Path], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    desk, _ = logged
    id = desk.opened()
    with monkeypatch.context() as full:
        fill_disk(full)
        with pytest.raises(StoreError) as error:
            getattr(desk.approvals, verb)(id, CAROL)
    assert error.value.reason == "the answer cannot be recorded"
    assert state_of(desk.approvals.find(id)) == "pending"
    assert desk.ask().outcome == "confirm"


def test_no_vote_is_added_to_one_that_cannot_be_recorded(
    logged: tuple[Desk, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(MemoryStore(), PAIR, log=logged[0].log)
    id, other, rows = desk.opened(), Desk(desk.store, PAIR), desk.store.approvals
    save, reverted = rows.save, list[str]()

    def save_late(row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        if not read_row(row).votes and not reverted:
            reverted.append(row.id)
            with pytest.raises(StoreError, match="other processes change the same approval"):
                other.approvals.approve(id, DORA)
        return save(row, before, now)

    with monkeypatch.context() as patches:
        fill_disk(patches)
        patches.setattr(rows, "save", save_late)
        patches.setattr("policyengine.engine.approval_desk.RECORDING_PAUSE_SECONDS", 0)
        with pytest.raises(StoreError, match="the decision log cannot be written"):
            desk.approvals.approve(id, CAROL)
    assert reverted == [id]
    assert state_of(other.approvals.approve(id, DORA)) == "pending"
    assert [vote.by for vote in desk.approvals.find(id).approval.votes] == ["dora"]
    assert desk.ask().outcome == "confirm"


def test_an_answer_counts_without_a_record_if_the_log_may_fail(
    logged: tuple[Desk, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, _ = logged
    id = desk.opened()
    assert desk.log is not None
    desk.log.on_failure = OnFailure.CONTINUE
    with monkeypatch.context() as full:
        fill_disk(full)
        assert state_of(desk.approvals.approve(id, CAROL)) == "approved"


def test_a_decision_with_an_approval_replays_the_same_from_the_log(logged: tuple[Desk, Path]) -> None:
    desk, path = logged
    id = desk.opened()
    desk.approvals.approve(id, CAROL)
    assert desk.ask().allowed
    records = list(read_records(path))
    assert [one.outcome for one in records] == ["confirm", "allow"]
    assert records[1].spends == (f"{id}/0",)
    assert all(replay_decision(one, desk.engine.kernel).same for one in records)


# ── Failures ──────────────────────────────────────────────────────────────────────────────────


class Failing:
    """Approvals of a store in which some calls fail."""

    def __init__(self, real: Any, *names: str) -> None:
        self._real, self._names = real, names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise StoreError("no answer")
        return getattr(self._real, name)


def broken(desk: Desk, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(desk.store, "approvals", Failing(desk.store.approvals, *names))


def test_a_confirm_that_cannot_be_opened_stays_a_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore())
    broken(desk, monkeypatch, "open")
    ticket = ticket_of(desk.ask())
    assert (ticket.id, ticket.refused) == (None, "the approval store does not answer")


def test_a_request_is_denied_while_it_is_unknown_whether_somebody_approved_it(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore())
    desk.approvals.approve(desk.opened(), CAROL)
    broken(desk, monkeypatch, "bound")
    decision = desk.ask()
    assert (decision.outcome, decision.gate) == ("deny", "failure")


def test_an_error_while_opening_is_no_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(MemoryStore())
    monkeypatch.setattr(ApprovalDesk, "_prepare", lambda *_: 1 / 0)
    assert ticket_of(desk.ask()).refused == "the approval could not be opened"
    assert desk.engine.failures == 1


def test_a_crash_after_the_vote_and_before_the_decision_loses_neither(tmp_path: Path) -> None:
    desk = Desk(SqliteStore(tmp_path / "state.db"))
    desk.approvals.approve(desk.opened(), CAROL)
    desk = Desk(SqliteStore(tmp_path / "state.db"))
    assert desk.ask().allowed
    desk = Desk(SqliteStore(tmp_path / "state.db"))
    assert desk.ask().outcome == "confirm"


def test_a_ticket_is_part_of_the_encoded_answer() -> None:
    desk = Desk(MemoryStore(), url="https://pdp.example/")
    decision = desk.ask()
    ticket = ticket_of(decision)
    [remedy] = decision.to_dict()["remedies"]
    assert remedy["approval"] == {
        "id": ticket.id, "state": "pending", "status": f"https://pdp.example/approvals/{ticket.id}",
        "expires": "2027-01-05T12:00:00Z", "poll": 5,
    }  # fmt: skip
