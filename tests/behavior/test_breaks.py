"""Attacks on the seams of learned behavior that once worked."""

from datetime import timedelta

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.event_records import OutcomeRecord
from policyengine.audit.reader import read_log, read_records
from policyengine.audit.replay import replay_decision
from policyengine.behavior.events import (
    ALLOWED,
    MAX_NAME_CHARACTERS,
    MAX_TIME,
    BehaviorEvent,
    Caller,
    Tagger,
    name_caller,
)
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.folder import BehaviorFolder, BehaviorFolderError
from policyengine.behavior.log_events import LogEventReader
from policyengine.behavior.operator_files import ForgetRequest, request_to_forget
from policyengine.behavior.plain_events import PlainEventError, line_events
from policyengine.behavior.state import DAY, MAX_INSTANCES, BehaviorState
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.runtime.history import OutcomeReport
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.callers import GROUP, SETTINGS, START, caller
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question, work
from tests.behavior.test_call_orders import DENY, HEAD, PROFILE
from tests.behavior.test_call_orders import question as calling

OPEN = POLICY + "anyone { may GET /open }\n"


@pytest.fixture
def clock():
    return FakeClock()


def ask(engine, path="/data/x", **agent):
    asked = question(path=path)
    asked["agent"] |= agent
    return engine.decide(asked)


@pytest.mark.parametrize("name", ["x" * 20_000, "report-\ud800", "n" * 65_000])
def test_long_and_unwritable_names_do_not_make_the_rows_unreadable(tmp_path, clock, name):
    engine = Engine.from_text(POLICY, clock=clock, behavior=tmp_path / "learned")
    assert ask(engine, instance=name).allowed
    engine.behavior.close()
    [known] = BehaviorTracker.open(tmp_path / "learned").state.rows
    assert len(known.instance) <= MAX_NAME_CHARACTERS
    assert known == name_caller(*known)


def test_long_names_with_one_beginning_are_different_callers():
    assert name_caller("i", "a", "x" * 300) != name_caller("i", "a", "x" * 301)


def test_a_user_does_not_change_the_row_of_an_agent_with_its_name(clock):
    engine = Engine.from_text(OPEN, clock=clock)
    assert ask(engine).allowed
    asked = {"request": {"method": "GET", "path": "/open"}, "user": {"id": "report-0"}, "credential": {"issuer": "idp"}}
    engine.decide(asked)
    assert [found.row.serial for found in engine.behavior.state.rows.values()] == [1]


@pytest.mark.parametrize("issuer", [None, "unknown"])
def test_callers_of_no_declared_issuer_teach_nothing(clock, issuer):
    engine = Engine.from_text(OPEN, clock=clock)
    asked = {"request": {"method": "GET", "path": "/open"}, "agent": {"id": "report-0", "issuer": issuer}}
    if issuer is None:
        del asked["agent"]["issuer"]
    engine.decide(asked)
    assert engine.behavior.state.rows == {}


def test_one_agent_has_a_bounded_number_of_callers():
    state = BehaviorState(Tagger(b"key"))
    other = caller(1)
    state.fold(BehaviorEvent(START, other, GROUP, "GET /", 1, ALLOWED), lambda _: SETTINGS)
    for number in range(MAX_INSTANCES + 50):
        one = caller(0, instance=str(number))
        state.fold(BehaviorEvent(START + number, one, GROUP, "GET /", 1, ALLOWED), lambda _: SETTINGS)
    assert len(state.rows) == MAX_INSTANCES + 1
    assert other in state.rows
    assert caller(0, instance="49") not in state.rows


def test_a_caller_in_whose_place_another_of_its_agent_comes_is_counted():
    state = BehaviorState(Tagger(b"key"), most=3, most_instances=2)
    first, others = caller(0, instance="first"), [caller(1), caller(2)]
    for number, one in enumerate([first, *others, *(caller(0, instance=str(n)) for n in range(4))]):
        state.fold(BehaviorEvent(START + number, one, GROUP, "GET /", 1, ALLOWED), lambda _: SETTINGS)
    assert [one.instance for one in state.rows if one.agent == first.agent] == ["2", "3"]


def test_new_names_displace_no_ready_caller_after_a_restart():
    ready = ProfileSettings(ready_runs=1, ready_days=1)
    state = BehaviorState(Tagger(b"key"), most=5)
    for day in range(8):
        for run in range(4):
            for each in range(3):
                event = BehaviorEvent(START + day * DAY + run, caller(each), GROUP, "GET /", run, ALLOWED)
                state.fold(event, lambda _: ready)
    state.rows = dict(reversed(state.rows.items()))  # as they are loaded
    for each in range(100, 120):
        state.fold(BehaviorEvent(START + 8 * DAY, caller(each), GROUP, "GET /", 1, ALLOWED), lambda _: ready)
    assert {caller(0), caller(1), caller(2)} <= state.rows.keys()


def test_a_clock_that_was_years_ahead_once_does_not_stop_learning(clock):
    tracker = BehaviorTracker()
    clock.now = BEGIN + timedelta(days=3_650)
    ask(Engine.from_text(POLICY, clock=clock, behavior=tracker), id="report-9")
    engine = Engine.from_text(POLICY, clock=clock, behavior=tracker)
    serial = engine.behavior.state.model.content.serial
    work(engine, clock)
    assert engine.behavior.state.model.content.serial > serial
    assert engine.behavior.state.model.content.classes


def test_times_beyond_those_of_rows_can_be_saved(tmp_path, clock):
    engine = Engine.from_text(POLICY, clock=clock, behavior=tmp_path / "learned")
    clock.now = BEGIN + timedelta(days=365 * 400)
    ask(engine)
    assert next(iter(engine.behavior.state.rows.values())).row.level_at == MAX_TIME
    engine.behavior.close()
    assert len(BehaviorTracker.open(tmp_path / "learned").state.rows) == 1


def test_a_server_that_gets_the_folder_later_continues_with_what_was_saved(tmp_path, clock):
    old = Engine.from_text(POLICY, clock=clock, behavior=tmp_path / "learned")
    ask(old)
    new = Engine.from_text(POLICY, clock=clock, behavior=tmp_path / "learned")
    for _ in range(50):
        ask(old)
    ask(new, id="report-1")
    old.behavior.close()
    new.behavior.close()
    rows = BehaviorTracker.open(tmp_path / "learned").state.rows
    assert rows[Caller("idp", "report-0")].row.serial == 51


def test_a_server_that_gets_the_folder_later_does_not_bring_forgotten_callers_back(tmp_path, clock):
    old = Engine.from_text(POLICY, clock=clock, behavior=tmp_path / "learned")
    ask(old)
    old.behavior.keep()
    new = Engine.from_text(POLICY, clock=clock, behavior=tmp_path / "learned")
    assert new.behavior.state.rows
    request_to_forget(old.behavior.folder, ForgetRequest(everything=True))
    old.behavior.close()
    new.behavior.keep()
    assert new.behavior.state.rows == {}
    new.behavior.close()


def test_a_repeated_idempotency_key_is_one_event_of_a_log(tmp_path, clock):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(POLICY, clock=clock, log=log)
    for _ in range(4):
        engine.decide_once(question(), IdempotencyKey("gateway", "key", "digest"))
    log.close()
    reader = LogEventReader(engine.decider.behavior)
    events = [one for entry in read_log(log.path) if (one := reader.read(entry)) is not None]
    assert len(events) == engine.behavior.state.rows[Caller("idp", "report-0")].row.serial == 1


def test_the_events_of_a_line_are_counted_before_they_are_made():
    loops = ",".join(['{"every":"1s","times":10000}'] * 4)  # 10^16 events
    line = b'{"at":1767603600000,"agent":"a","endpoint":"GET /","repeat":[%b]}' % loops.encode()
    with pytest.raises(ValueError, match="more than"):
        next(line_events(line, 10_000))


@pytest.mark.parametrize("member", [b'"isuer":"x"', b'"outcome":"refused"', b'"status":5000', b'"at":1772438400'])
def test_a_mistake_in_a_line_of_a_trace_is_an_error(tmp_path, member):
    from policyengine.behavior.plain_events import read_plain_events

    line = b'{"at":1767603600000,"agent":"a","endpoint":"GET /",%b}' % member
    (tmp_path / "t.jsonl").write_bytes(line.replace(b'"at":1767603600000,', b"") if b"at" in member[:4] else line)
    with pytest.raises(PlainEventError, match="line 1"):
        read_plain_events(tmp_path / "t.jsonl")


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "policy.policy").write_text("")
    with pytest.raises(BehaviorFolderError, match="other files"):
        BehaviorFolder(tmp_path)
    with pytest.raises(BehaviorFolderError, match="is a file"):
        BehaviorFolder(tmp_path / "policy.policy")
    assert list(tmp_path.iterdir()) == [tmp_path / "policy.policy"]


def test_a_folder_of_models_that_others_can_write_is_refused(tmp_path):
    BehaviorFolder(tmp_path / "learned")
    (tmp_path / "learned" / "models").chmod(0o777)
    with pytest.raises(BehaviorFolderError, match="others can change the learned behavior"):
        BehaviorFolder(tmp_path / "learned")


# ── What a log contains ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_question_that_is_only_tried_is_replayed_from_what_it_read(tmp_path, clock, kind):
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "store.db")
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(HEAD + PROFILE + DENY, clock=clock, store=store, log=log)
    data = calling("GET /data/sales")
    assert not engine.evaluate(data).allowed
    assert not engine.decide(data | {"options": {"consume": False}}).allowed
    engine.behavior.close()
    log.close()
    tried = list(read_records(log.path))
    assert [one.call for one in tried] == ["evaluate", "evaluate"]
    assert [one.behavior.event for one in tried] == [0, 0]
    assert all(replay_decision(one, engine.kernel).same for one in tried)


def test_a_failure_that_is_reported_to_another_server_is_recorded(tmp_path, clock):
    servers = []
    for name in ("one", "other"):
        log = DecisionLog(tmp_path / f"{name}.jsonl", seal=None)
        store = SqliteStore(tmp_path / "store.db")
        servers.append(Engine.from_text(POLICY, clock=clock, store=store, log=log))
    first, second = servers
    made = first.decide(question())
    assert second.report_outcome(made.id, OutcomeReport(503, {})) == "first"
    assert second.report_outcome(made.id, OutcomeReport(503, {})) is None
    for engine in servers:
        engine.behavior.close()
        engine.log.close()
    [outcome] = [one for one in read_log(tmp_path / "other.jsonl") if isinstance(one, OutcomeRecord)]
    assert (outcome.decision, outcome.status) == (made.id, 503)
