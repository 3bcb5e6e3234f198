"""What operators ask of learned behavior: planned changes, and callers to forget."""

import logging
import shutil
from datetime import timedelta

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.behavior.events import Caller, RequestTags
from policyengine.behavior.folder import BehaviorFolder, BehaviorFolderError
from policyengine.behavior.operator_files import (
    ForgetRequest,
    load_releases,
    request_paths,
    request_to_forget,
    save_releases,
)
from policyengine.behavior.releases import MAX_RELEASE, ClassRelease
from policyengine.behavior.tracker import BehaviorTracker
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, facts_of_last, packed, question, work

PROFILE = "profile reporting"
DAY = 86_400_000
NOW = int((BEGIN + timedelta(days=10)).timestamp() * 1_000)


@pytest.fixture(scope="module")
def learned_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned") / "folder"
    clock = FakeClock()
    engine = Engine.from_text(POLICY, clock=clock, behavior=folder)
    work(engine, clock)
    engine.behavior.close()
    return folder


@pytest.fixture
def folder(learned_folder, tmp_path):
    """A copy of a folder that has ten days of behavior."""
    return BehaviorFolder(shutil.copytree(learned_folder, tmp_path / "folder"))


@pytest.fixture
def tracker(folder):
    tracker = BehaviorTracker.open(folder.path)
    yield tracker
    tracker.close()


@pytest.fixture
def engine(tracker, tmp_path):
    clock = FakeClock()
    clock.now = BEGIN + timedelta(days=10, hours=9)
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(POLICY, clock=clock, log=log, behavior=tracker)
    engine.test_clock = clock
    yield engine
    log.close()


# ── Planned changes ───────────────────────────────────────────────────────────────────────────


def plan(tracker, until, group=PROFILE):
    save_releases(tracker.folder, (ClassRelease(group, NOW, until),))
    tracker.keep()


def flood(engine, path="/data/x", count=60):
    limits = []
    for _ in range(count):
        engine.test_clock.now += timedelta(milliseconds=50)
        limits.append(engine.decide(question(path=path, task="flood")).rates[0].limit)
    return limits


def test_a_planned_change_raises_no_alarm(engine, tracker):
    plan(tracker, NOW + DAY)
    assert set(flood(engine) + flood(engine, "/secret/1")) == {180}
    assert tracker.counts == {"burst": 0, "novelty": 0, "deviation": 0}
    found = facts_of_last(engine)
    assert found.released
    assert (found.facts["burst"], found.facts["novelty"]) == (False, 0)
    assert found.facts["trust"] > 0.6


def test_without_a_planned_change_the_same_raises_alarms(engine, tracker):
    flood(engine)
    flood(engine, "/secret/1")
    assert tracker.counts["burst"] > 0
    assert tracker.counts["novelty"] > 0
    assert not facts_of_last(engine).released


def test_what_was_learned_in_a_planned_change_is_usual_later(engine, tracker):
    plan(tracker, NOW + DAY)
    flood(engine)
    flood(engine, "/secret/1", 3)
    engine.test_clock.now = BEGIN + timedelta(days=11, hours=9)
    flood(engine)
    engine.decide(question(path="/secret/2"))
    assert not facts_of_last(engine).released
    assert tracker.counts == {"burst": 0, "novelty": 0, "deviation": 0}


def test_a_planned_change_ends_at_its_time(engine, tracker):
    plan(tracker, int(engine.test_clock.now.timestamp() * 1_000) + 1_000)
    engine.decide(question())
    assert facts_of_last(engine).released
    engine.test_clock.now += timedelta(seconds=2)
    engine.decide(question())
    assert not facts_of_last(engine).released


def test_a_planned_change_of_another_class_changes_nothing(engine, tracker):
    plan(tracker, NOW + DAY, "profile other")
    engine.decide(question())
    assert not facts_of_last(engine).released


def test_the_days_of_a_planned_change_teach_no_margins(engine, tracker):
    plan(tracker, NOW + DAY)
    flood(engine)
    engine.test_clock.now = BEGIN + timedelta(days=11, hours=9)
    engine.decide(question())
    row = tracker.state.rows[Caller("idp", "report-0")].row
    place = 2 * ((NOW // DAY) % 28)
    assert list(row.ratios[place : place + 2]) == [0, 0]
    assert row.peaks[place] > 50 * 16


def test_releases_are_kept_in_the_folder(folder):
    given = (ClassRelease("b", 1, 2), ClassRelease("a", 1, 1 + MAX_RELEASE))
    save_releases(folder, given)
    assert load_releases(folder) == (given[1], given[0])
    assert BehaviorTracker.open(folder.path).state.releases == {"a": 1 + MAX_RELEASE, "b": 2}


@pytest.mark.parametrize("damage", [lambda raw: raw.replace(b"100", b"900"), lambda raw: raw[:-9], lambda raw: b""])
def test_releases_that_were_not_written_with_the_key_are_ignored(folder, damage, caplog):
    save_releases(folder, (ClassRelease("a", 0, 100),))
    path = folder.path / "releases"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BehaviorFolderError, match="changed, or is damaged"):
        load_releases(folder)
    tracker = BehaviorTracker.open(folder.path)
    tracker.keep()
    tracker.keep()
    assert tracker.state.releases == {}
    assert len([one for one in caplog.records if "planned changes are ignored" in one.getMessage()]) == 1
    tracker.close()


def test_a_release_of_more_than_fourteen_days_is_refused(folder):
    save_releases(folder, (ClassRelease("a", 0, MAX_RELEASE + 1),))
    with pytest.raises(BehaviorFolderError, match="more than 14 days"):
        load_releases(folder)


# ── Callers to forget ─────────────────────────────────────────────────────────────────────────


def test_a_running_process_forgets_within_its_next_minute(folder, tracker, engine):
    engine.decide(question())
    tracker.keep()
    assert folder.lock() == -1
    request_to_forget(folder, ForgetRequest("idp", "report-0"))
    tracker.keep()
    assert Caller("idp", "report-0") not in tracker.state.rows
    assert Caller("idp", "report-1") in tracker.state.rows
    assert Caller("idp", "report-0") not in folder.load_rows(tracker.state.model.content.serial)
    engine.decide(question())
    assert facts_of_last(engine).facts["ready"] is False


def test_a_caller_is_forgotten_once(folder, tracker, engine):
    request_to_forget(folder, ForgetRequest("idp", "report-0"))
    tracker.keep()
    engine.decide(question())
    tracker.keep()
    assert tracker.state.rows[Caller("idp", "report-0")].row.serial == 1


def test_a_process_that_starts_later_forgets_before_its_first_decision(folder):
    request_to_forget(folder, ForgetRequest("idp", "report-0"))
    assert Caller("idp", "report-0") not in BehaviorTracker.open(folder.path).state.rows


def test_all_versions_of_a_caller_are_forgotten(tracker, folder):
    known = tracker.state.rows[Caller("idp", "report-0")]
    for caller in (Caller("idp", "report-0", "", "v1"), Caller("idp", "report-0", "i2"), Caller("x", "report-0")):
        tracker.state.rows[caller] = known
    request_to_forget(folder, ForgetRequest("idp", "report-0"))
    tracker.keep()
    assert [caller for caller in tracker.state.rows if caller.agent == "report-0"] == [
        Caller("idp", "report-0", "i2"),
        Caller("x", "report-0"),
    ]


def test_forgetting_everything_forgets_the_classes_too(folder, tracker):
    serial = tracker.state.model.content.serial
    assert tracker.state.model.content.classes
    request_to_forget(folder, ForgetRequest(everything=True))
    tracker.keep()
    assert tracker.state.rows == {}
    tracker.close()
    again = BehaviorTracker.open(folder.path)
    assert (again.state.rows, again.state.model.content.classes) == ({}, ())
    assert again.state.model.content.serial == serial + 1


def test_a_request_is_removed_when_it_was_followed_so_that_it_does_not_forget_again(folder, tracker):
    request_to_forget(folder, ForgetRequest("idp", "report-0"))
    tracker.keep()
    assert list(request_paths(folder)) == []
    assert Caller("idp", "report-0") not in BehaviorTracker.open(folder.path, locks=False).state.rows


def test_a_request_that_was_not_written_with_the_key_is_ignored(folder, tracker, caplog):
    (folder.path / "requests").mkdir()
    (folder.path / "requests" / "1.request").write_bytes(b'{"everything":true}\n' + b"0" * 64 + b"\n")
    with caplog.at_level(logging.ERROR):
        tracker.keep()
        tracker.keep()
    assert len(tracker.state.rows) == 4
    assert (
        len(
            [
                one
                for one in caplog.records
                if "is ignored: it was not written with the key of the folder" in one.getMessage()
            ]
        )
        == 1
    )


def test_a_decision_that_read_its_row_before_the_caller_was_forgotten_does_not_restore_it(tracker, engine):
    reader = engine.decider.behavior
    at = int(engine.test_clock.now.timestamp() * 1_000)
    caller = Caller("idp", "report-0")
    settings_of, tags = reader.settings_of, RequestTags(tracker.tag("GET /data/**"), 1)
    reading = tracker.read(caller, PROFILE, tags, at, settings_of(PROFILE), settings_of)
    tracker.state.forget(lambda known: known == caller)
    tracker.learn(reading, 0, False, reader.settings_of)
    assert tracker.state.rows[caller].row.serial == 1


def test_forgetting_leaves_the_other_rows_as_they_are(folder, tracker):
    rows = packed(tracker.state)
    request_to_forget(folder, ForgetRequest("idp", "report-2"))
    tracker.keep()
    del rows[Caller("idp", "report-2")]
    assert packed(tracker.state) == rows
