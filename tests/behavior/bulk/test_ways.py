"""All ways of learning give the same rows, in the same order, the same model and the same numbers."""

from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.behavior.bulk import event_queue, event_table, line_filter
from policyengine.behavior.bulk.bulk_error import BulkError
from policyengine.behavior.bulk.duckdb_learner import learn_with_duckdb
from policyengine.behavior.bulk.line_filter import LearnedPeriod
from policyengine.behavior.events import Tagger
from policyengine.behavior.learn_logs import learn_lines
from policyengine.behavior.lockstep import pools
from policyengine.behavior.lockstep.detection import LockstepError
from policyengine.behavior.log_events import FailureReport
from policyengine.behavior.state import BehaviorState
from policyengine.clock import epoch_microseconds
from tests.behavior.bulk.logs import (
    GROUPED,
    KEY,
    START,
    content,
    decision,
    group_sizes,
    learn,
    make_lines,
    make_moving_lines,
    outcome,
    write_lines,
)
from tests.depth import examples, scaled


def fold_one_by_one(lines, filter, state, settings_of):
    """Fold each line when it is read, as an engine does."""
    for position, line in enumerate(lines):
        found = filter.read(position, line)
        if isinstance(found, FailureReport):
            state.fold_failure(found.caller)
        elif found is not None:
            state.fold(found, settings_of)
    if filter.tally.learned:
        state.learn(max(state.model.content.made, filter.tally.latest), settings_of)


def both(logs, **options):
    """Learn logs in a thread and with DuckDB, check that the result is the same as line by line, and return it."""
    found, tally, messages = learn(logs, fold_one_by_one, **options)
    for way in (learn_lines, learn_with_duckdb):
        again = learn(logs, way, **options)
        assert content(again[0]) == content(found)
        assert again[1:] == (tally, messages)
        assert again[0].learned_day == found.learned_day
    return found, tally


@pytest.mark.parametrize("most", [3, 5, 100])
def test_callers_make_room_as_if_lines_are_folded_one_by_one(tmp_path, monkeypatch, most):
    monkeypatch.setattr(event_queue, "MAX_QUEUED", 40)
    path = write_lines(tmp_path / "log.jsonl", make_lines(9))
    found, again = (
        learn([path], way, BehaviorState(Tagger(KEY), most=most))[0] for way in (fold_one_by_one, learn_lines)
    )
    assert content(again) == content(found)
    assert list(again._new) == list(found._new)
    assert again._instances == found._instances
    assert len(found.rows) == min(most, 7)


def test_a_log_gives_the_same_with_duckdb(tmp_path):
    path = write_lines(tmp_path / "log.jsonl", make_lines(1))
    found, tally = both([path])
    assert tally.learned == tally.decisions > 250
    assert len(found.rows) == 7  # three instances, two versions, two others
    assert found.model.content.classes[0].is_ready is False
    assert found.model.content.serial == 7  # six days, and the end


@scaled
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=examples(6, 100), deadline=None)
def test_a_log_cut_anywhere_gives_the_same_model(tmp_path_factory, seed, data):
    folder, lines = tmp_path_factory.mktemp("cut"), make_lines(seed, agents=3, days=4, runs=2)
    lines = [(at, line) for at, found in groupby(lines, key=itemgetter(0)) for _, line in [next(found)]]
    whole, tally, _ = learn([write_lines(folder / "whole.jsonl", lines)], learn_lines)
    part_of = [data.draw(st.integers(0, 2)) for _ in range(9)]
    parts = [[], [], []]
    for number, line in enumerate(lines):
        parts[part_of[number % 9]].append(line)
    logs = [write_lines(folder / f"{number}.jsonl", part) for number, part in enumerate(parts)]
    found, counted = both(data.draw(st.permutations(logs)))
    assert content(found) == content(whole)
    assert counted == tally


def test_what_a_folder_knows_is_continued(tmp_path):
    lines = make_lines(3)
    first = write_lines(tmp_path / "first.jsonl", lines[: len(lines) // 2])
    rest = write_lines(tmp_path / "rest.jsonl", lines[len(lines) // 3 :])
    states = [learn([first], learn_lines)[0] for _ in range(2)]
    found, tally, _ = learn([rest], learn_lines, states[0])
    again, counted, _ = learn([rest], learn_with_duckdb, states[1])
    assert content(again) == content(found)
    assert counted == tally
    assert tally.known > 20


def test_lines_out_of_order_give_the_same(tmp_path):
    lines, random = make_lines(5), Random(5)
    for _ in range(30):
        place = random.randrange(len(lines))
        lines.insert(random.randrange(len(lines)), lines.pop(place))
    lines.insert(100, (START, decision(START - timedelta(days=9), "agent-9", 9_999, "GET /old")))
    lines.insert(200, (START, decision(START + timedelta(days=30_000), "agent-2", 9_998, "GET /new")))
    _, tally = both([write_lines(tmp_path / "log.jsonl", lines)])
    assert tally.late > 0
    assert tally.future == 1


def at_milliseconds(**since_start):
    return epoch_microseconds(START + timedelta(**since_start)) // 1_000


def test_a_period_gives_the_same_as_a_log_of_the_period(tmp_path):
    lines = make_lines(6)
    log = write_lines(tmp_path / "log.jsonl", lines)
    begin, end = START + timedelta(days=1), START + timedelta(days=4)
    inside = write_lines(tmp_path / "inside.jsonl", [line for line in lines if begin <= line[0] < end])
    period = LearnedPeriod(at_milliseconds(days=1), at_milliseconds(days=4))
    found, tally = both([log], period=period)
    expected, counted = both([inside])
    assert content(found) == content(expected)
    assert tally.learned == counted.learned > 50
    assert tally.outside == tally.decisions - counted.decisions > 50


def test_reports_outside_a_period_and_about_decisions_outside_it_are_left_out(tmp_path):
    lines = [(START, decision(START, "agent-0", number, "GET /a")) for number in range(2)] + [
        (START + timedelta(hours=1), decision(START + timedelta(hours=1), "agent-0", 2, "GET /a"))
    ]
    later = [
        (START + timedelta(hours=2), outcome(START + timedelta(hours=2), f"id-{number}", 500)) for number in (0, 2)
    ]
    log = write_lines(tmp_path / "log.jsonl", lines + later)
    errors = []
    for period in (
        LearnedPeriod(),
        LearnedPeriod(since=at_milliseconds(minutes=30)),
        LearnedPeriod(until=at_milliseconds(hours=2)),
    ):
        found, _ = both([log], period=period)
        [known] = found.rows.values()
        errors.append(known.row.errors)
    assert errors[0] > errors[1] > errors[2] == 0


def test_a_report_counts_once_and_only_near_its_decision(tmp_path, monkeypatch):
    monkeypatch.setattr(line_filter, "MAX_DISTANCE", 3)
    lines = [(START, decision(START, "agent-0", 1, "GET /a"))]
    lines += [(START, outcome(START, "id-1", 500)), (START, outcome(START, "id-1", 500))]
    once, _ = both([write_lines(tmp_path / "once.jsonl", lines)])
    others = [(START, decision(START, "agent-1", number, "GET /a")) for number in range(2, 5)]
    far, _ = both([write_lines(tmp_path / "far.jsonl", [lines[0], *others, lines[1]])])
    near, _ = both([write_lines(tmp_path / "near.jsonl", [lines[0], *others[1:], lines[1]])])
    errors = [next(iter(found.rows.values())).row.errors for found in (once, near)]
    assert errors == [1_000_000 // 32] * 2
    assert {kept.row.errors for kept in far.rows.values()} == {0}


def test_a_repeated_decision_counts_once(tmp_path):
    lines = [(START, decision(START, "agent-0", 1, "GET /a"))] * 3
    _, tally = both([write_lines(tmp_path / "log.jsonl", lines)])
    assert (tally.decisions, tally.learned) == (1, 1)


def test_an_agent_with_too_many_instances_gives_the_same(tmp_path, monkeypatch):
    lines = make_lines(8, agents=2)
    path = write_lines(tmp_path / "log.jsonl", lines)
    ways = fold_one_by_one, learn_lines, learn_with_duckdb
    found = [learn([path], way, BehaviorState(Tagger(KEY), most_instances=2))[0] for way in ways]
    assert content(found[0]) == content(found[1]) == content(found[2])
    assert len(found[0].rows) == 4


def test_more_callers_than_a_state_keeps_are_an_error_of_duckdb(tmp_path, monkeypatch):
    monkeypatch.setattr(event_table, "MAX_CALLERS", 5)
    path = write_lines(tmp_path / "log.jsonl", make_lines(1))
    with pytest.raises(BulkError, match="the logs have more than 5 callers"):
        learn([path], learn_with_duckdb)


def test_small_batches_give_the_same(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", make_lines(2))
    monkeypatch.setattr(event_table, "BATCH", 7)
    monkeypatch.setattr(event_table, "READ", 20)
    both([path])


def test_an_empty_log_changes_nothing(tmp_path):
    (tmp_path / "log.jsonl").touch()
    found, tally = both([tmp_path / "log.jsonl"])
    assert (found.model.content.serial, len(found.rows), tally.decisions) == (0, 0, 0)


# ── Groups ───────────────────────────────────────────────────────────────────────────────────────


def grouped(group):
    return GROUPED


def test_a_log_with_groups_gives_the_same(tmp_path):
    found, _ = both([write_lines(tmp_path / "log.jsonl", make_moving_lines(1))], settings_of=grouped)
    assert group_sizes(found) == [4]
    assert list(found.requests.days) == [first_day() + day for day in range(1, 5)]
    assert found.model.content.serial == 5 + 5 + 1  # five days with a model and a search, and the end


def first_day():
    return int(START.timestamp()) // 86_400


@scaled
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=examples(2, 30), deadline=None)
def test_logs_of_several_servers_with_groups_give_the_same(tmp_path_factory, seed, data):
    folder, lines = tmp_path_factory.mktemp("cut"), make_moving_lines(seed, days=3)
    lines = [(at, line) for at, found in groupby(lines, key=itemgetter(0)) for _, line in [next(found)]]
    whole, _, _ = learn([write_lines(folder / "whole.jsonl", lines)], learn_lines, settings_of=grouped)
    part_of = [data.draw(st.integers(0, 2)) for _ in range(9)]
    parts = [[line for number, line in enumerate(lines) if part_of[number % 9] == part] for part in range(3)]
    logs = [write_lines(folder / f"{number}.jsonl", part) for number, part in enumerate(parts)]
    found, _ = both(data.draw(st.permutations(logs)), settings_of=grouped)
    assert content(found) == content(whole)


@scaled
@given(seed=st.integers(0, 2**32))
@settings(max_examples=examples(2, 30), deadline=None)
def test_late_and_damaged_lines_with_groups_give_the_same(tmp_path_factory, seed):
    lines, random = make_moving_lines(seed, days=3), Random(seed)
    for _ in range(30):
        lines.insert(random.randrange(len(lines)), lines.pop(random.randrange(len(lines))))
        lines.insert(random.randrange(len(lines)), (START, random.choice(('{"v":2,"time":"2027-', "no json", ""))))
    for number in range(5):
        at = START + timedelta(days=random.randrange(-9, 9))
        late = decision(at, f"late-{number}", f"l{number}", "GET /old")
        lines.insert(random.randrange(len(lines)), (at, late))
    log = write_lines(tmp_path_factory.mktemp("late") / "log.jsonl", lines)
    both([log], settings_of=grouped)


def test_requests_and_groups_of_a_folder_are_continued(tmp_path):
    lines = make_moving_lines(3)
    first = write_lines(tmp_path / "first.jsonl", lines[: len(lines) // 2])
    rest = write_lines(tmp_path / "rest.jsonl", lines[len(lines) // 3 :])
    states = [learn([first], learn_lines, settings_of=grouped)[0] for _ in range(3)]
    ways = fold_one_by_one, learn_lines, learn_with_duckdb
    found, again, other = (learn([rest], way, state, grouped)[0] for way, state in zip(ways, states, strict=True))
    assert content(found) == content(again) == content(other)
    assert group_sizes(found) == [4]


def test_small_batches_with_groups_give_the_same(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", make_moving_lines(2, days=3))
    monkeypatch.setattr(event_table, "BATCH", 7)
    monkeypatch.setattr(event_table, "READ", 20)
    monkeypatch.setattr(event_queue, "MAX_QUEUED", 9)
    both([path], settings_of=grouped)


def test_groups_stay_unknown_without_numpy(tmp_path, monkeypatch):
    def fail():
        raise LockstepError("groups are found with numpy")

    monkeypatch.setattr(pools, "require_numpy", fail)
    found, _ = both([write_lines(tmp_path / "log.jsonl", make_moving_lines(4, days=3))], settings_of=grouped)
    assert group_sizes(found) == []
    assert len(found.requests.days) == 3
    assert found.model.content.serial == 3 + 1 + 1  # three days, the search without requests on the first, the end
