"""What a server logs about its models: margins that an attack made high, and days that jump."""

from datetime import timedelta

import pytest

from policyengine import Engine
from policyengine.behavior.events import Caller
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.learn import learn_model
from policyengine.behavior.model import BehaviorModel, ClassModel, ModelContent
from policyengine.behavior.model_watch import MAX_USUAL_MARGIN, ModelWatch, find_jump, highest_level
from policyengine.behavior.state import DAY
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question, work

UNLIMITED = POLICY.replace("60/1m burst 100", "6000/1m burst 5000").replace("at most 180/1m", "at most 18000/1m")
CLASS = ("idp", "profile reporting")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def engine(clock):
    return Engine.from_text(UNLIMITED, clock=clock)


def attack(engine, clock, day):
    clock.now = BEGIN + timedelta(days=day, hours=16)
    for _ in range(100):
        clock.now += timedelta(milliseconds=100)
        engine.decide(question(agent=3, task="attack"))


def events(caplog):
    return [record.event for record in caplog.records]


def test_usual_margins_are_not_logged(engine, clock, caplog):
    work(engine, clock)
    assert engine.behavior.state.model.class_of(CLASS).has_margins
    assert caplog.records == []


def test_an_attack_that_made_the_margins_high_is_logged_once_with_its_caller_and_day(engine, clock, caplog):
    work(engine, clock, range(8))
    attack(engine, clock, 7)
    work(engine, clock, range(8, 11))
    [record] = caplog.records
    assert record.event == "behavior_high_margin"
    text = record.getMessage()
    assert text.startswith(
        "the margins of `profile reporting` of idp are × 44.05, × 43.22: smaller bursts are not found"
    )
    assert "The highest level is that of report-3 of idp on 2026-01-12" in text
    assert "`behavior learn --until`" in text


def test_a_thread_that_learns_the_model_logs_the_same(engine, clock, caplog):
    engine.behavior.learner.most_inline = 3  # of four callers
    engine.behavior._saver.start = lambda: None
    work(engine, clock, range(8))
    attack(engine, clock, 7)
    for day in range(8, 10):
        work(engine, clock, [day])
        engine.behavior.keep()
    assert events(caplog) == ["behavior_high_margin"]
    assert "report-3 of idp on 2026-01-12" in caplog.text


def test_a_class_is_logged_again_after_its_margins_were_usual(caplog):
    watch = ModelWatch()

    def look(margin):
        found = ClassModel("idp", "work", margin_slow=margin, margin_fast=1_200)
        model = BehaviorModel(ModelContent("", 3, 1, 0, "", (found,)))
        watch.look(model, model, list, lambda group: ProfileSettings(group))

    for margin in (MAX_USUAL_MARGIN, MAX_USUAL_MARGIN + 1, MAX_USUAL_MARGIN + 9, 2_000, MAX_USUAL_MARGIN + 1):
        look(margin)
    assert events(caplog) == ["behavior_high_margin"] * 2


def test_the_highest_level_is_one_that_the_model_learned(engine, clock):
    work(engine, clock, range(8))
    attack(engine, clock, 7)
    work(engine, clock, range(8, 10))
    state, settings_of = engine.behavior.state, engine.decider.behavior.settings_of
    found = state.model.class_of(CLASS)
    level = highest_level(state.model, found, state.taught_rows(), settings_of(found.name))
    assert level.caller == Caller("idp", "report-3")
    later = learn_model(state.taught_rows(), settings_of, state.model.content.made + 15 * DAY, 99, "")
    assert highest_level(later, found, state.taught_rows(), settings_of(found.name)) is None
    assert highest_level(state.model, ClassModel("idp", "other"), state.taught_rows(), settings_of("other")) is None


def test_a_request_dated_40_days_ahead_is_logged(engine, clock, caplog):
    work(engine, clock, range(8))
    clock.now = BEGIN + timedelta(days=7 + 40)
    engine.decide(question())
    [record] = caplog.records
    assert record.event == "behavior_day_jump"
    text = record.getMessage()
    assert text.startswith("no decision is dated between 2026-01-12 and 2026-02-21, which is longer than the 14 days")
    assert "If a clock was wrong, correct it, and learn from the log into a new folder" in text


@pytest.mark.parametrize(("days", "jumps"), [(14, False), (15, True), (-40, False)])
def test_a_jump_is_longer_than_the_days_that_a_class_learns(engine, clock, days, jumps):
    work(engine, clock, range(8))
    state, settings_of = engine.behavior.state, engine.decider.behavior.settings_of
    before = state.model
    state.learn(before.content.made + days * DAY, settings_of)
    assert (find_jump(before, state.model, settings_of) is not None) is jumps


def test_the_first_model_is_no_jump(engine, clock, caplog):
    engine.decide(question())
    assert engine.behavior.state.model.content.serial == 1
    assert caplog.records == []
