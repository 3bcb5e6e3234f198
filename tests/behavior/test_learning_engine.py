"""Engines that learn: facts before decisions, learning after them, and the log that repeats both."""

import json
from datetime import timedelta
from threading import Thread

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.audit.replay import replay_decision
from policyengine.behavior.events import Caller, RequestTags, Tagger
from policyengine.behavior.fold_log import fold_log
from policyengine.behavior.reportable import ReportableDecisions
from policyengine.behavior.row import pack_row, unpack_row
from policyengine.behavior.state import BehaviorState, CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from tests.audit.log_lines import problems
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, facts_of_last, packed, question, work


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(scope="module")
def ten_days():
    """The behavior that an engine learned in ten days: the packed rows with their classes, the model, and the tags."""
    clock = FakeClock()
    engine = Engine.from_text(POLICY, clock=clock)
    work(engine, clock)
    state = engine.behavior.state
    rows = {caller: (found.group, pack_row(found.row)) for caller, found in state.rows.items()}
    return rows, state.model, state.tagger


@pytest.fixture
def learned(tmp_path, clock, ten_days):
    rows, model, tagger = ten_days
    state = BehaviorState(tagger, model=model)
    state.rows = {caller: CallerRow(group, unpack_row(raw)) for caller, (group, raw) in rows.items()}
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(POLICY, clock=clock, log=log, behavior=BehaviorTracker(state))
    clock.now = BEGIN + timedelta(days=10, hours=9)
    yield engine
    log.close()


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def test_a_trusted_caller_is_raised(learned):
    assert learned.decide(question(task="new")).rates[0].limit == 180
    assert facts_of_last(learned).facts["ready"] is True


def test_a_fresh_caller_of_a_learned_class_is_not_ready(learned):
    learned.decide(question(agent=9))
    found = facts_of_last(learned)
    assert (found.facts["ready"], str(found.facts["trust"])) == (False, "0.500")
    assert found.group == "profile reporting"


def test_an_endpoint_that_neither_the_caller_nor_its_class_used_takes_trust_once_an_hour(learned, clock):
    before = None
    for second in range(3):
        clock.now += timedelta(seconds=second)
        learned.decide(question(path=f"/secret/{second}", task="new"))
        found = facts_of_last(learned).facts
        if before is not None:
            assert found["trust"] < before  # of the first request, which read the row before its alarm
        before = before or found["trust"]
    assert float(found["trust"]) == pytest.approx(float(before) * 0.3, abs=0.002)


def test_a_burst_clamps_in_the_request_that_makes_it(learned, clock):
    limits = []
    for _ in range(80):
        clock.now += timedelta(milliseconds=50)
        limits.append(learned.decide(question(task="burst")).rates[0].limit)
    assert limits[0] == 180
    assert 2 in limits
    assert learned.behavior.counts["burst"] > 0


def test_reported_failures_raise_the_error_rate(learned, clock):
    ids = []
    for _ in range(20):
        clock.now += timedelta(seconds=5)
        ids.append(learned.decide(question(task="failing")).id)
    for each in ids:
        learned.report(each, status=500)
        learned.report(each, status=500)  # a second report of the same decision is not counted
    clock.now += timedelta(seconds=5)
    denied = learned.decide(question(path="/report", method="POST", task="failing"))
    assert denied.outcome == "deny"
    assert 0.3 < facts_of_last(learned).facts["error_rate"] < 0.7


def test_an_unidentified_caller_teaches_nothing(learned):
    rows = packed(learned.behavior.state)
    asked = question()
    asked["agent"]["issuer"] = "unknown"
    assert learned.decide(asked).gate == "identity"
    assert facts_of_last(learned) is None
    assert packed(learned.behavior.state) == rows


def test_questions_about_a_decision_teach_nothing(learned):
    rows = packed(learned.behavior.state)
    for _ in range(5):
        learned.evaluate(question(path="/secret/1"))
        learned.explain(question(path="/secret/1"))
    learned.evaluate({**question(), "options": {"at": "2027-01-01T00:00:00Z"}})
    assert packed(learned.behavior.state) == rows


def test_explain_shows_the_facts_that_were_read(learned):
    assert "behavior.trust" in str(learned.explain(question(task="new")).render())


def test_nothing_is_learned_if_no_rule_reads_it(clock):
    text = "\n".join(line for line in POLICY.splitlines() if "behavior." not in line)
    engine = Engine.from_text(text, clock=clock)
    engine.decide(question())
    assert engine.behavior is None


def test_a_reload_keeps_what_was_learned(learned):
    later = learned.successor(learned.kernel)
    assert later.behavior is learned.behavior
    assert later.decide(question(task="new")).rates[0].limit == 180


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def test_folding_the_log_again_gives_every_row_and_every_fact_again(clock, tmp_path):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    learned = Engine.from_text(POLICY, clock=clock, log=log)
    work(learned, clock)
    for number in range(30):
        clock.now += timedelta(seconds=number % 7)
        given = learned.decide(question(agent=number % 6, path="/secret/1" if number % 5 == 0 else "/data/y"))
        if number % 3 == 0:
            learned.report(given.id, status=503)
    tracker = learned.behavior
    again, folded = BehaviorState(tracker.state.tagger), []
    fold_log(learned.log.path, again, learned.decider.behavior.settings_of, folded.append)
    assert packed(again) == packed(tracker.state)
    assert again.model.payload == tracker.state.model.payload
    log.close()
    assert len(folded) == 1_230
    assert all(one.is_same and one.read_latest_row for one in folded)


def test_folding_repeats_planned_changes_and_forgotten_callers(clock, tmp_path):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    learned = Engine.from_text(POLICY, clock=clock, log=log)
    work(learned, clock)
    tracker = learned.behavior
    for number in range(60):
        clock.now += timedelta(seconds=number % 3)
        at = int(clock.now.timestamp() * 1_000)
        tracker.state.releases = {"profile reporting": at + 1_000} if number // 10 % 2 else {}
        learned.decide(question(agent=number % 4, path="/secret/1" if number % 3 == 0 else "/data/y"))
        if number == 30:
            tracker.forget(Caller("idp", "report-1"))
    again, folded = BehaviorState(tracker.state.tagger), []
    fold_log(learned.log.path, again, learned.decider.behavior.settings_of, folded.append)
    log.close()
    assert {one.logged.released for one in folded} == {True, False}
    assert packed(again) == packed(tracker.state)
    assert all(one.is_same for one in folded)


def test_folding_forgets_the_same_decisions_before_their_failures_are_reported(clock, tmp_path):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    learned = Engine.from_text(POLICY, clock=clock, log=log)
    learned.behavior.learner.reportable = ReportableDecisions(4)
    made = [learned.decide(question(agent=number)).id for number in range(7)]
    for decision in made:
        assert learned.report(decision, status=500)
    log.close()
    state = learned.behavior.state
    again = BehaviorState(state.tagger)
    fold_log(log.path, again, learned.decider.behavior.settings_of, most_reportable=4)
    assert packed(again) == packed(state)
    assert [found.row.errors > 0 for found in state.rows.values()] == [False] * 4 + [True] * 3


def test_folding_a_forgotten_caller_displaces_no_other_instance_of_its_agent(clock, tmp_path):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    tracker = BehaviorTracker(BehaviorState(Tagger(b"key"), most_instances=2))
    learned = Engine.from_text(POLICY, clock=clock, log=log, behavior=tracker)
    for instance in ("b", "a", "a"):
        asked = question()
        asked["agent"]["instance"] = instance
        learned.decide(asked)
        if len(tracker.state.rows) == 2:
            tracker.forget(Caller("idp", "report-0", "a"))
    learned.decide(asked)
    log.close()
    again = BehaviorState(Tagger(b"key"), most_instances=2)
    fold_log(log.path, again, learned.decider.behavior.settings_of)
    assert len(again.rows) == 2
    assert packed(again) == packed(tracker.state)


def test_every_decision_is_replayed_from_its_record(learned, clock):
    for number in range(60):
        clock.now += timedelta(milliseconds=100)
        learned.decide(question(path="/secret/1" if number % 5 == 0 else "/data/y"))
    for record in list(read_records(learned.log.path))[-60:]:
        assert replay_decision(record, learned.kernel).same


def test_two_threads_lose_no_event(learned):
    def ask():
        for _ in range(100):
            learned.decide(question(task="threads"))

    before = learned.behavior.state.rows[Caller("idp", "report-0")].row.serial
    threads = [Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert learned.behavior.state.rows[Caller("idp", "report-0")].row.serial == before + 400
    numbers = [one.behavior.event for one in read_records(learned.log.path) if one.behavior.run]
    assert len(numbers) == len(set(numbers))


def test_a_request_of_the_next_hour_that_is_read_first_does_not_move_an_earlier_decision(tmp_path, ten_days):
    """Two threads: one has read its facts before the hour ends, and learns after the other has read in the next."""
    rows, model, tagger = ten_days
    caller = Caller("idp", "report-0")
    settings_of = Engine.from_text(POLICY).decider.behavior.settings_of
    group = "profile reporting"
    hour = int((BEGIN + timedelta(days=10, hours=10)).timestamp() * 1_000)
    packed_rows = []
    for reads_first in (False, True):
        state = BehaviorState(tagger, model=model)
        state.rows = {one: CallerRow(group, unpack_row(raw)) for one, (group, raw) in rows.items()}
        tracker = BehaviorTracker(state)
        tags = RequestTags(tracker.tag("GET /data/**"), 1)
        earlier = tracker.read(caller, group, tags, hour - 1_000, settings_of(group), settings_of)
        if reads_first:
            tracker.read(caller, group, tags, hour + 1_000, settings_of(group), settings_of)
        tracker.learn(earlier, 0, False, settings_of)
        later = tracker.read(caller, group, tags, hour + 1_000, settings_of(group), settings_of)
        tracker.learn(later, 0, False, settings_of)
        packed_rows.append(pack_row(state.rows[caller].row))
    assert packed_rows[0] == packed_rows[1]


# ── The folder ────────────────────────────────────────────────────────────────────────────────


def test_a_later_process_continues_with_the_rows_and_the_model(tmp_path, clock):
    folder = tmp_path / "learned"
    engine = Engine.from_text(POLICY, clock=clock, behavior=folder)
    work(engine, clock)
    rows, model = packed(engine.behavior.state), engine.behavior.state.model.payload
    engine.behavior.close()
    tracker = BehaviorTracker.open(folder)
    assert packed(tracker.state) == rows
    assert tracker.state.model.payload == model
    clock.now = BEGIN + timedelta(days=10, hours=9)
    later = Engine.from_text(POLICY, clock=clock, behavior=tracker)
    assert later.decide(question(task="new")).rates[0].limit == 180


def test_forgetting_a_caller_makes_it_new(learned):
    assert learned.behavior.forget(Caller("idp", "report-0"))
    learned.decide(question(task="new"))
    assert facts_of_last(learned).facts["ready"] is False
    assert not learned.behavior.forget(Caller("idp", "unknown"))


def test_log_lines_have_what_was_read(learned):
    learned.decide(question(task="new"))
    member = json.loads(learned.log.path.read_bytes().splitlines()[-1])["behavior"]
    assert member["class"] == "profile reporting"
    assert member["model"].startswith("sha256:")
    assert member["event"] == member["read"] + 1
    assert isinstance(member["run"], int)


def test_log_lines_are_valid_by_the_schema(learned, clock):
    tracker = learned.behavior
    for releases in ({}, {"profile reporting": 2**50}):
        tracker.state.releases = releases
        for _ in range(60):
            clock.now += timedelta(milliseconds=50)
            learned.decide(question(path="/secret/1", task="burst"))
    lines = learned.log.path.read_bytes().splitlines()
    members = {name for line in lines for name in json.loads(line)["behavior"]}
    assert {"clamped", "released", "run"} <= members
    assert [found for line in lines for found in problems(line)] == []
