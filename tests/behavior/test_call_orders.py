"""Declared orders of calls: which requests follow them, what a denied request changes, and where a run ends."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.audit.replay import replay_decision
from policyengine.behavior.events import ALLOWED, DENIED, HELD, Caller, RequestTags
from policyengine.behavior.fold import ProfileSettings, apply_decision, read_behavior
from policyengine.behavior.fold_log import fold_log
from policyengine.behavior.model import NO_CLASS
from policyengine.behavior.plain_event_reader import PlainEventReader
from policyengine.behavior.plain_events import PlainEvent
from policyengine.behavior.row import BehaviorRow, pack_row, unpack_row
from policyengine.behavior.state import BehaviorState
from policyengine.kernel.sequence_automaton import LEFT, SequenceAutomaton
from policyengine.runtime.decision import Outcome
from tests.audit.log_lines import problems
from tests.behavior.callers import UnreadableBehavior
from tests.behavior.reporting_agents import FakeClock, packed

HEAD = """language 1
package orders
issuer idp { url "https://idp.example"  scopes none }
agent "report-*" {
  issued by idp
  acts alone
  may POST /auth, GET /data/**, POST /report, TOOL files/*
}
"""
PROFILE = """profile "reporting" for agent "report-*" {
  expect POST /auth -> (GET /data/** | TOOL files/read) repeated -> POST /report
  run by task.id within 5m
}
"""
DENY = 'guard "order" { deny when not behavior.sequence }\n'
WARN = 'guard "order" { warn when not behavior.sequence }\n'
AUTH, DATA, REPORT, READ = "POST /auth", "GET /data/7", "POST /report", "TOOL files/read"
CALLER = Caller("idp", "report-1")


def question(call: str, task: str | None = "t", agent: str = "report-1") -> dict[str, Any]:
    word, _, rest = call.partition(" ")
    server, _, name = rest.partition("/")
    endpoint = (
        {"tool": {"server": server, "name": name}} if word == "TOOL" else {"request": {"method": word, "path": rest}}
    )
    run = {} if task is None else {"task": {"id": task}}
    return {**endpoint, "agent": {"id": agent, "issuer": "idp"}, **run}


class OrderedCaller:
    """The requests of one caller to one engine."""

    def __init__(self, text: str, clock: FakeClock, **options: Any) -> None:
        self.clock, self.engine = clock, Engine.from_text(text, clock=clock, **options)

    def asks(self, *calls: str, task: str | None = "t", pause: timedelta = timedelta(seconds=1)) -> list[bool]:
        """Return whether each call is allowed."""
        return [self.ask(call, task, pause).allowed for call in calls]

    def ask(self, call: str, task: str | None = "t", pause: timedelta = timedelta(seconds=1)) -> Any:
        self.clock.now += pause
        return self.engine.decide(question(call, task))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caller(clock: FakeClock) -> OrderedCaller:
    return OrderedCaller(HEAD + PROFILE + DENY, clock)


# ── Which requests follow the order ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("calls", "allowed"),
    [
        ([AUTH, DATA, DATA, READ, REPORT], [True] * 5),
        ([DATA], [False]),
        ([AUTH, REPORT], [True, False]),
        ([AUTH, "TOOL files/write"], [True, False]),
        ([AUTH, DATA, AUTH], [True, True, False]),
        ([AUTH, READ, REPORT, DATA], [True, True, True, False]),
    ],
)
def test_a_request_follows_the_order_or_not(caller: OrderedCaller, calls: list[str], allowed: list[bool]) -> None:
    assert caller.asks(*calls) == allowed


def test_the_order_holds_before_anything_else_is_known_about_the_caller(caller: OrderedCaller) -> None:
    (found,) = caller.engine.explain(question(DATA)).decision.reasons
    assert found.rule == "order"
    assert not caller.ask(DATA).allowed


def test_a_denied_request_does_not_count(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH, REPORT, DATA, REPORT) == [True, False, True, True]


@pytest.mark.parametrize("rule", ["deny when request.size > 5", "confirm by user when request.size > 5"])
def test_a_request_that_another_rule_holds_up_does_not_count(clock: FakeClock, rule: str) -> None:
    caller = OrderedCaller(HEAD + PROFILE + DENY + f'guard "size" on POST /auth {{ {rule} }}\n', clock)
    large = question(AUTH)
    large["request"]["size"] = 9
    assert not caller.engine.decide(large).allowed
    assert caller.asks(DATA, AUTH, DATA) == [False, False, False]  # the size of these is unknown
    small = question(AUTH)
    small["request"]["size"] = 1
    assert caller.engine.decide(small).allowed
    assert caller.asks(DATA) == [True]


def test_a_throttled_request_does_not_count(clock: FakeClock) -> None:
    caller = OrderedCaller(HEAD + PROFILE + DENY + 'rate "r" per agent.id on POST /auth { 1/1h }\n', clock)
    assert caller.asks(AUTH) == [True]
    throttled = caller.ask(AUTH, task="u")
    assert throttled.outcome is Outcome.THROTTLE
    assert caller.asks(DATA, task="u") == [False]  # the run `u` has not begun


def test_a_run_that_has_left_the_order_stays_outside_until_it_ends(clock: FakeClock) -> None:
    caller = OrderedCaller(HEAD + PROFILE + WARN, clock)

    def warned(*calls: str, task: str = "t") -> list[bool]:
        return [any(one.kind == "warn" for one in caller.ask(call, task).obligations) for call in calls]

    assert warned(AUTH, REPORT, AUTH, DATA) == [False, True, True, True]
    assert warned(AUTH, DATA, task="u") == [False, False]


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────


def test_another_key_begins_another_run(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH, DATA) == [True, True]
    assert caller.asks(DATA, task="u") == [False]
    assert caller.asks(AUTH, DATA, task="u") == [True, True]
    assert caller.asks(DATA, task="t") == [False]  # only the latest run is known


def test_a_pause_ends_a_run(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH, DATA) == [True, True]
    assert caller.asks(DATA, pause=timedelta(minutes=5)) == [True]
    assert caller.asks(DATA, pause=timedelta(minutes=5, milliseconds=1)) == [False]
    assert caller.asks(AUTH) == [True]


def test_a_denied_request_does_not_prolong_a_run(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH) == [True]
    assert caller.asks(REPORT, pause=timedelta(minutes=4)) == [False]
    assert caller.asks(DATA, pause=timedelta(minutes=2)) == [False]


def test_requests_without_a_key_are_one_run(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH, DATA, task=None) == [True, True]
    assert caller.asks(DATA, task="t") == [False]


def test_callers_do_not_share_a_run(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH) == [True]
    assert not caller.engine.decide(question(DATA, agent="report-2")).allowed
    assert caller.asks(DATA) == [True]


def test_a_new_version_of_a_caller_begins_anew(clock: FakeClock) -> None:
    text = HEAD + PROFILE.replace("run by", "version by attestation.model_hash\n  run by") + DENY
    engine = Engine.from_text(text, clock=clock)

    def allows(call: str, version: str) -> bool:
        return engine.decide({**question(call), "attestation": {"model_hash": version}}).allowed

    assert [allows(AUTH, "a"), allows(DATA, "a"), allows(DATA, "b"), allows(DATA, "a")] == [True, True, False, True]


# ── Other callers, other policies ─────────────────────────────────────────────────────────────


def test_an_agent_without_an_order_follows_it(clock: FakeClock) -> None:
    caller = OrderedCaller(HEAD + PROFILE.replace("report-*", "report-2") + DENY, clock)
    assert caller.asks(REPORT, DATA) == [True, True]


def test_a_user_without_an_agent_follows_it(clock: FakeClock) -> None:
    engine = Engine.from_text(HEAD + PROFILE + DENY + "anyone { may GET /data/** }\n", clock=clock)
    assert engine.decide({"request": {"method": "GET", "path": "/data/7"}}).allowed


def test_a_changed_order_begins_anew(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH, DATA) == [True, True]
    text = (HEAD + PROFILE + DENY).replace("TOOL files/read", "TOOL files/*")
    caller.engine = caller.engine.successor(Engine.from_text(text).kernel)
    assert caller.asks(DATA, AUTH, DATA) == [False, True, True]


def test_a_policy_with_the_same_order_continues_a_run(caller: OrderedCaller) -> None:
    assert caller.asks(AUTH, DATA) == [True, True]
    text = HEAD + 'profile "other" for agent "x" { learn 14d }\n' + PROFILE + DENY
    caller.engine = caller.engine.successor(Engine.from_text(text).kernel)
    assert caller.asks(DATA) == [True]


def test_a_planned_change_does_not_lift_the_order(caller: OrderedCaller) -> None:
    state = caller.engine.behavior.state
    state.releases = {"profile reporting": int(caller.clock.now.timestamp() * 1_000) + 60_000}
    assert caller.asks(DATA, AUTH, DATA) == [False, True, True]


def test_an_unreadable_row_makes_the_order_unknown(caller: OrderedCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    decider = caller.engine.decider
    monkeypatch.setattr(decider, "behavior", UnreadableBehavior(decider.behavior))
    decision = caller.ask(AUTH)
    assert not decision.allowed
    assert [one.fact for one in decision.unknown] == ["behavior.sequence"]


def test_an_evaluation_includes_the_request_and_changes_nothing(caller: OrderedCaller) -> None:
    for _ in range(3):
        assert caller.engine.evaluate(question(AUTH)).allowed
        assert not caller.engine.evaluate(question(DATA)).allowed
    assert caller.asks(AUTH) == [True]
    assert caller.engine.evaluate(question(DATA)).allowed


# ── Explanations ──────────────────────────────────────────────────────────────────────────────


def note_of(engine: Engine, call: str, agent: str = "report-1") -> str:
    (line,) = (
        line for line in engine.explain(question(call, agent=agent)).render().splitlines()
        if "behavior.sequence =" in line
    )  # fmt: skip
    return line.strip()


def test_an_explanation_states_where_a_run_leaves_the_order(caller: OrderedCaller) -> None:
    engine, false = caller.engine, "✓ behavior.sequence = false — "
    assert note_of(engine, DATA) == f"{false}at the start, the order expects POST /auth, not GET /data/7"
    assert note_of(engine, AUTH) == "✓ behavior.sequence = true"
    caller.asks(AUTH)
    expected = "the order expects GET /data/** or TOOL files/read, not POST /report"
    assert note_of(engine, REPORT) == f"{false}after POST /auth, {expected}"
    caller.asks(READ, DATA)
    expected = "the order expects GET /data/** or TOOL files/read or POST /report, not POST /auth"
    assert note_of(engine, AUTH) == f"{false}after GET /data/** or TOOL files/read, {expected}"
    caller.asks(REPORT)
    assert note_of(engine, READ) == f"{false}after POST /report, the order expects no further call, not TOOL files/read"


def test_an_explanation_states_that_an_earlier_call_left_the_order(clock: FakeClock) -> None:
    caller = OrderedCaller(HEAD + PROFILE + WARN, clock)
    caller.asks(AUTH, REPORT)
    line = note_of(caller.engine, DATA)
    assert line == "✓ behavior.sequence = false — an earlier call of the run left the order"


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def random_calls(count: int) -> list[str]:
    chosen = random.Random(7)
    return [chosen.choice([AUTH, DATA, DATA, REPORT, READ, "GET /elsewhere"]) for _ in range(count)]


@pytest.fixture
def logged(tmp_path: Path, clock: FakeClock) -> Iterator[OrderedCaller]:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    caller = OrderedCaller(HEAD + PROFILE + WARN, clock, log=log)
    for number, call in enumerate(random_calls(300)):
        caller.ask(call, task=f"{number // 6}")
    yield caller
    log.close()


def test_folding_the_log_gives_the_same_rows_and_the_same_facts(logged: OrderedCaller) -> None:
    tracker, folded = logged.engine.behavior, list[Any]()
    again = BehaviorState(tracker.state.tagger)
    fold_log(logged.engine.log.path, again, logged.engine.decider.behavior.settings_of, folded.append)
    assert packed(again) == packed(tracker.state)
    assert len(folded) == 300
    assert all(one.is_same for one in folded)
    assert {one.logged.facts["sequence"] for one in folded} == {True, False}
    assert {one.logged.letter for one in folded} == {0, 1, 2, 4, 8}


def test_every_decision_is_replayed_from_its_record(logged: OrderedCaller) -> None:
    records = list(read_records(logged.engine.log.path))
    assert len(records) == 300
    assert all(replay_decision(record, logged.engine.kernel).same for record in records)
    assert [problem for line in logged.engine.log.path.read_text().splitlines() for problem in problems(line)] == []


def test_a_line_without_an_order_does_not_contain_the_fact(tmp_path: Path, clock: FakeClock) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    caller = OrderedCaller(HEAD + 'guard "burst" { deny when behavior.burst }\n', clock, log=log)
    caller.ask(AUTH)
    log.close()
    assert '"sequence"' not in log.path.read_text()
    (record,) = read_records(log.path)
    assert record.behavior.facts["sequence"] is True


# ── The fold ──────────────────────────────────────────────────────────────────────────────────


CHAIN = SequenceAutomaton(
    7, ({1: 1}, {1: 1, 2: 2}, {}), frozenset({2}), ("a", "b"), ((), (0,), (1,)), ((0,), (0, 1), ())
)
ORDERED = ProfileSettings(automaton=CHAIN)


def apply(
    row: BehaviorRow, letters: Sequence[int], outcome: int = ALLOWED, settings: ProfileSettings = ORDERED
) -> list[bool]:
    """Apply decisions about requests with these letters, and return whether each follows the order."""
    found = []
    for letter in letters:
        tags = RequestTags(5, 9, 0, letter)
        reading = read_behavior(row, NO_CLASS, tags, 1_000, settings)
        apply_decision(row, reading, tags, 1_000, outcome, False, settings)
        found.append(reading.sequence)
    return found


def test_a_row_holds_the_state_and_the_digest_of_the_automaton() -> None:
    row = BehaviorRow(1_000)
    assert apply(row, [1, 1, 2]) == [True, True, True]
    assert (row.step_state, row.step_machine) == (2, 7)
    assert apply(row, [1, 1]) == [False, False]
    assert (row.step_state, row.step_machine) == (LEFT, 7)
    assert pack_row(unpack_row(pack_row(row))) == pack_row(row)


@pytest.mark.parametrize("outcome", [DENIED, HELD])
def test_a_request_that_is_not_allowed_does_not_change_the_state(outcome: int) -> None:
    row = BehaviorRow(1_000)
    apply(row, [1])
    assert apply(row, [2, 1, 0], outcome) == [True, True, False]
    assert (row.step_state, row.step_machine) == (1, 7)


def test_a_row_of_a_policy_without_an_order_forgets_the_state() -> None:
    row = BehaviorRow(1_000)
    apply(row, [1])
    apply(row, [0], settings=ProfileSettings())
    assert (row.step_state, row.step_machine) == (0, 0)
    assert apply(row, [1]) == [True]


def test_settings_of_a_planned_change_keep_the_automaton() -> None:
    assert ORDERED.release().automaton is CHAIN
    assert ORDERED.release().release(False).automaton is CHAIN


def test_a_plain_event_has_the_letter_of_its_request(caller: OrderedCaller) -> None:
    reader = PlainEventReader(caller.engine.decider.behavior, caller.engine.behavior.state.tagger)

    def letter(endpoint: str, agent: str = "report-1") -> int:
        return reader.read(PlainEvent(0, agent, "idp", "", "", endpoint, 0, "")).letter

    assert [letter(call) for call in (AUTH, DATA, "GET /data/**", READ, REPORT, "GET /x", "no request")] == [
        1, 2, 2, 4, 8, 0, 0,
    ]  # fmt: skip
    assert letter(AUTH, "other") == 0
