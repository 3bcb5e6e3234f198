"""Structures of payloads in rows, models and decisions: what is new, what is free-form, and what stays bounded."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_log
from policyengine.behavior.events import ALLOWED, DENIED, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import ProfileSettings, apply_decision, read_behavior
from policyengine.behavior.fold_log import fold_log
from policyengine.behavior.known_shapes import FREE_FORM, MAX_OWN_SHAPES, MAX_TAUGHT, class_shapes, is_new_shape
from policyengine.behavior.log_events import LogEventReader
from policyengine.behavior.model import ClassModel
from policyengine.behavior.row import MAX_SHAPES, MAX_SHORT, ROW_BYTES, BehaviorRow, pack_row
from policyengine.behavior.shape import NO_SHAPE, endpoint_part, structure_tag
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.state import BehaviorState
from policyengine.runtime.request import Request
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.callers import DAY, GROUP, ISSUER, START
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, facts_of_last, packed, question, requests_of
from tests.depth import examples, scaled

SETTINGS = ProfileSettings()
TAG = Tagger(b"a key of the tests").tag
POST, PUT = "POST /report", "PUT /report"
AT = TAG(POST)


def shape(body, endpoint=POST):
    return structure_tag(TAG, endpoint, {"body": body})


def variant(number: int, endpoint: str = POST) -> int:
    """Return the tag of one of many structures."""
    return shape({f"f{number}": 1}, endpoint)


def class_of(shapes: Iterable[int] = (), free_form: Iterable[int] = (), endpoints: Iterable[int] = (AT,)):
    known = frozenset(shapes)
    return ClassModel(
        ISSUER, GROUP, 1_000, 10, frozenset(endpoints), shapes=known | set(map(endpoint_part, known)),
        free_form=frozenset(free_form),
    )  # fmt: skip


def ready_row(shapes: Iterable[int] = ()) -> BehaviorRow:
    row = BehaviorRow(START)
    row.runs, row.days, row.seen = 100, (1 << SETTINGS.learn_days) - 1, {AT: START // DAY}
    row.shapes = dict.fromkeys(shapes, START // DAY)
    return row


def send(row, tag, model=None, *, outcome=ALLOWED, settings=SETTINGS):
    """Let a row learn from a request with a payload of this structure; return its facts."""
    tags = RequestTags(AT, 1, tag)
    found = read_behavior(row, model or class_of(), tags, START, settings)
    apply_decision(row, found, tags, START, outcome, False, settings)
    return found


# ── What is new ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("own", "shared", "tag", "expected"),
    [
        ([1], [], 2, True),
        ([1], [], 1, False),
        ([1], [2], 2, False),
        ([], [1], 2, True),
        ([], [], 2, False),
    ],
    ids=[
        "neither sends it", "the caller sends it", "the class sends it", "only others have sent payloads there",
        "no structures are known there",
    ],
)  # fmt: skip
def test_a_structure_is_new_if_neither_the_caller_nor_its_class_sends_it(own, shared, tag, expected):
    found = send(ready_row(map(variant, own)), variant(tag), class_of(map(variant, shared)))
    assert (found.is_new, found.has_new_shape) == (expected, expected)
    assert found.novelty == (31 if expected else 0)


@pytest.mark.parametrize(
    "body",
    [{"to": "a", "admin": True}, {"to": 7}, {"to": ("a",)}, {"to": {"$ne": None}}, {}],
    ids=["a new field", "another type", "a list", "an object", "a missing field"],
)
def test_an_odd_payload_is_an_alarm(body):
    row = ready_row([shape({"to": "a"})])
    trust = row.trust
    assert not send(row, shape({"to": "../../etc/passwd"})).is_new  # values are not looked at
    assert send(row, shape(body)).is_new
    assert row.trust == 3 * trust // 10
    assert not send(row, shape(body)).is_new  # the caller now sends it


def test_an_unread_payload_is_never_new_and_teaches_nothing():
    row = ready_row([variant(1)])
    assert not send(row, NO_SHAPE, class_of([variant(2)])).is_new
    assert row.shapes.keys() == {variant(1)}


def test_structures_of_another_endpoint_say_nothing():
    row = ready_row([variant(1, PUT)])
    assert not send(row, variant(1)).is_new
    assert not send(ready_row(), variant(2), class_of([variant(1, PUT)])).is_new


def test_a_request_to_a_new_endpoint_has_no_new_shape():
    tags = RequestTags(TAG(PUT), 1, variant(1, PUT))
    found = read_behavior(ready_row([variant(2, PUT)]), class_of(), tags, START, SETTINGS)
    assert (found.is_new, found.has_new_shape) == (True, False)


def test_a_planned_change_raises_no_alarm_and_is_learned():
    row = ready_row([variant(1)])
    assert not send(row, variant(2), settings=SETTINGS.release()).is_new
    assert variant(2) in row.shapes


def test_a_denied_request_makes_a_structure_no_habit():
    row = ready_row([variant(1)])
    assert send(row, variant(2), outcome=DENIED).is_new
    assert send(row, variant(2), outcome=DENIED).is_new


def test_callers_that_are_not_ready_raise_no_alarm_by_structure():
    row = BehaviorRow(START)
    row.shapes = {variant(1): START // DAY}
    found = send(row, variant(2))
    assert (found.ready, found.novelty, row.novelty) == (False, 0, 0)


# ── Free-form payloads ────────────────────────────────────────────────────────────────────────


def test_a_caller_of_free_form_payloads_does_not_alarm_for_ever():
    row, random = ready_row([variant(0)]), Random(3)
    alarms = [send(row, variant(random.randrange(10**9))).is_new for _ in range(1_000)]
    assert sum(alarms) == MAX_OWN_SHAPES - 1
    assert not any(alarms[MAX_OWN_SHAPES:])


def test_free_form_payloads_leave_the_structures_of_other_endpoints():
    others = [variant(number, PUT) for number in range(MAX_SHAPES - MAX_OWN_SHAPES)]
    row = ready_row(others[1:])
    for number in range(1_000):
        send(row, variant(number))
    assert row.shapes.keys() >= set(others[1:])
    assert len(row.shapes) == MAX_SHAPES - 1
    assert is_new_shape(row, class_of(), others[0])


def test_a_full_row_says_nothing_because_it_has_forgotten_structures():
    endpoints = [f"POST /{number}" for number in range(MAX_SHAPES)]
    row = ready_row(variant(1, endpoint) for endpoint in endpoints)
    assert not is_new_shape(row, class_of([variant(1)]), variant(2, endpoints[0]))


def test_an_endpoint_that_is_free_form_in_the_class_is_never_new_by_structure():
    model = class_of([variant(1)], free_form=[endpoint_part(AT)])
    assert not send(ready_row([variant(1)]), variant(2), model).is_new


@pytest.mark.parametrize(
    ("parts", "shared", "is_free"),
    [
        ([range(4), range(4)], 4, False),
        ([range(4), range(3, 9)], 1, False),
        ([range(FREE_FORM - 1), range(FREE_FORM - 1)], FREE_FORM - 1, False),
        ([range(FREE_FORM), range(FREE_FORM)], 0, True),
        ([range(24)], 0, False),
        ([range(24), range(60, 60 + MAX_TAUGHT - 1)], 0, False),
        ([range(24), range(60, 60 + MAX_TAUGHT)], 0, True),
        ([range(number, number + 1) for number in range(FREE_FORM)], 0, True),
    ],
    ids=[
        "two send the same", "two share one", "many that all send", "too many that all send", "one floods",
        "one floods and one has a few", "two send many each", "each sends its own",
    ],
)  # fmt: skip
def test_an_endpoint_is_free_form_if_its_class_has_too_many_structures(parts, shared, is_free):
    shapes, free_form = class_shapes([set(map(variant, part)) for part in parts])
    assert len(shapes) == shared + bool(shared)
    assert free_form == (frozenset({endpoint_part(AT)}) if is_free else frozenset())


def test_one_flooding_principal_does_not_make_an_endpoint_free_form():
    usual = {variant(-1), variant(-2)}
    shapes, free_form = class_shapes([usual, usual, usual | set(map(variant, range(24)))])
    assert shapes == usual | {endpoint_part(AT)}
    assert not free_form


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────


@scaled
def test_many_random_structures_are_bounded():
    row, random = ready_row(), Random(24)
    endpoints = [f"POST /{number}" for number in range(40)]
    row.seen |= {TAG(endpoint): START // DAY for endpoint in endpoints}
    row.run_tag, row.run_last, row.run_length = 1, START, MAX_SHORT - 1_000  # a run that reaches its maximum
    for _ in range(examples(5_000, 100_000)):
        tags = RequestTags(AT, 1, random.randrange(1, 2**32))
        apply_decision(
            row, read_behavior(row, class_of(), tags, START, SETTINGS), tags, START, ALLOWED, False, SETTINGS
        )
    assert len(row.shapes) == MAX_SHAPES
    assert row.run_length == MAX_SHORT
    assert len(pack_row(row)) <= ROW_BYTES


# ── Engines ───────────────────────────────────────────────────────────────────────────────────

REPORT = {"title": "sales", "rows": ({"name": "a", "sum": 3},)}


def report(agent=0, body=None, task="t"):
    return {**question(agent, "/report", "POST", task), **({} if body is None else {"body": body})}


def work_with_reports(engine, clock, days=range(6)):
    """Let agents work; each run ends with a report."""
    for number, asked in requests_of(clock, days):
        engine.decide(asked if number < 4 else {**asked, **report(body=REPORT), "agent": asked["agent"]})


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def logged(tmp_path, clock):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None, redact=["body.pin"])
    engine = Engine.from_text(POLICY, clock=clock, log=log)
    work_with_reports(engine, clock)
    clock.now = BEGIN + timedelta(days=6, hours=9)
    yield engine
    log.close()


def novelty_of(engine, asked):
    engine.decide(asked)
    return float(facts_of_last(engine).facts["novelty"])


def test_the_decision_sees_the_new_structure_that_it_decides(logged):
    assert novelty_of(logged, report(body={"title": "' OR 1=1", "rows": ({"name": "b", "sum": 9},) * 3})) == 0
    assert novelty_of(logged, report(body={**REPORT, "admin": True})) == pytest.approx(0.031, abs=0.001)
    assert logged.behavior.counts["novelty"] == 1


def test_the_class_smooths_the_structures_of_its_callers(logged, clock):
    logged.decide(report(0, {"title": "a"}))
    logged.decide(report(1, {"title": "b"}))
    assert novelty_of(logged, report(2, {"title": "c"})) > 0
    clock.now += timedelta(days=1)
    before = novelty_of(logged, report(3, REPORT))
    assert novelty_of(logged, report(3, {"title": "d"})) <= before


def test_an_unread_body_is_not_new(logged):
    assert novelty_of(logged, report()) == 0
    assert novelty_of(logged, {**report(), "pending": ["body.*"]}) == 0
    assert facts_of_last(logged) is not None


def test_nothing_is_computed_unless_a_rule_reads_novelty(clock, tmp_path):
    text = POLICY.replace(" or behavior.novelty > 0.3", "")
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(text, clock=clock, log=log)
    engine.decide(report(body=REPORT))
    assert not engine.decider.behavior.reads_payloads
    assert facts_of_last(engine).shape == NO_SHAPE
    assert not engine.behavior.state.rows[Caller("idp", "report-0")].row.shapes
    log.close()


def test_folding_the_log_gives_the_same_rows_and_models(logged):
    for number in range(60):
        logged.decide(report(number % 4, {"title": "a", f"f{number % 20}": number}))
    again, folded = BehaviorState(logged.behavior.state.tagger), []
    fold_log(logged.log.path, again, logged.decider.behavior.settings_of, folded.append)
    assert packed(again) == packed(logged.behavior.state)
    assert again.model.payload == logged.behavior.state.model.payload
    assert all(one.is_same for one in folded)
    assert any(one.facts.has_new_shape for one in folded)
    assert again.model.class_of(("idp", "profile reporting")).shapes


def test_no_part_of_a_payload_is_kept(logged):
    logged.decide(report(body={"unusual name": "unusual value"}))
    rows = b"".join(packed(logged.behavior.state).values()) + logged.behavior.state.model.payload
    assert b"unusual" not in rows
    assert b"title" not in rows


def test_a_log_gives_structures_except_of_redacted_payloads(logged):
    path = logged.log.path
    logged.decide(report(1, {"title": "a", "pin": "1234"}))
    reader = logged.decider.behavior
    events = [LogEventReader(reader).read(entry) for entry in read_log(path)]
    live = [one.behavior.shape for one in read_log(path)]
    assert [one.event.shape for one in events] == live
    assert live[-1] != NO_SHAPE
    plain = [LogEventReader(reader).read(replace(entry, behavior=None)) for entry in read_log(path)]
    assert [one.event.shape for one in plain] == [*live[:-1], NO_SHAPE]


def test_processes_that_share_a_store_know_the_structures_of_each_other(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(SharedTracker, "start", lambda self: None)
    first, second = (Engine.from_text(POLICY, clock=clock, store=SqliteStore(tmp_path / "store.db")) for _ in range(2))
    work_with_reports(first, clock, days=range(6))
    clock.now = BEGIN + timedelta(days=6, hours=9)
    first.behavior.keep()
    second.behavior.keep()
    for body, expected in ((REPORT, False), ({**REPORT, "admin": True}, True)):
        reading = read_caller(second, report(body=body), clock)
        assert (reading.facts.ready, reading.facts.has_new_shape) == (True, expected)
    second.decide(report(body={**REPORT, "admin": True}))
    reading = read_caller(first, report(task="later"), clock)
    assert reading.facts.ready
    first.decide(report(body=REPORT))  # the commit brings the event of the other process
    reading = read_caller(first, report(task="later"), clock)
    assert len(reading.row.shapes) == 2


def read_caller(engine, question, clock):
    request = Request.from_mapping(question)
    reading, _ = engine.decider.behavior.read(request.endpoint, request.facts, int(clock.now.timestamp()) * 10**9)
    return reading


def test_an_event_of_a_log_without_structures_folds_as_before():
    state = BehaviorState(Tagger(b"k"))
    event = BehaviorEvent(START, Caller("i", "a"), GROUP, POST, 1, ALLOWED)
    assert not state.fold(event, lambda _: SETTINGS).has_new_shape
    assert not state.rows[Caller("i", "a")].row.shapes
