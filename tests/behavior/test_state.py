"""The rows of all callers: folding again gives the same, a model a day, and a bounded number of callers."""

from collections import OrderedDict
from random import Random

import pytest

from policyengine.behavior.events import ALLOWED, DENIED, HELD, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.row import HOUR, pack_row
from policyengine.behavior.state import BehaviorState, CallerRow
from tests.behavior.callers import DAY, GROUP, ISSUER, KEY, SETTINGS, START, Callers, caller, class_model, jittered
from tests.counted_order import CountedOrder


def traffic(days=24, callers=6):
    random, found = Random(3), []
    for day in range(days):
        for number in range(callers):
            who = caller(number, version="ab"[day > 15])
            for at in jittered(random, 3):
                outcome = random.choices([ALLOWED, DENIED, HELD], [20, 1, 1])[0]
                endpoint, clamped = f"GET /{random.randrange(8)}", random.random() < 0.05
                moment = START + day * DAY + at
                found.append(BehaviorEvent(moment, who, GROUP, endpoint, at // HOUR + 1, outcome, clamped))
    return sorted(found)


def folded(events, **options):
    state, digests = BehaviorState(Tagger(KEY), **options), []
    for event in events:
        state.fold(event, lambda _: SETTINGS)
        digests.append(state.model.digest)
    return state, list(dict.fromkeys(digests))


def packed(state):
    return [(who, found.group, pack_row(found.row)) for who, found in state.rows.items()]


def test_folding_the_same_events_again_gives_the_same_rows_and_models():
    events = traffic()
    (one, digests), (other, again) = folded(events), folded(events)
    assert packed(one) == packed(other)
    assert digests == again
    assert len(digests) == 24  # one at the first event of each day
    assert one.model.class_of((ISSUER, GROUP)).is_ready


def test_rows_that_were_packed_in_between_go_on_the_same():
    events = traffic()
    whole, _ = folded(events)
    state = BehaviorState(Tagger(KEY))
    for number, event in enumerate(events):
        state.fold(event, lambda _: SETTINGS)
        if number % 100 == 0:
            state.rows = {who: CallerRow(found.group, found.row.copy()) for who, found in state.rows.items()}
    assert packed(state) == packed(whole)
    assert state.model.digest == whole.model.digest


def test_reading_changes_no_facts():
    events = traffic(10)
    whole, _ = folded(events)
    state = BehaviorState(Tagger(KEY))
    for event in events:
        row = state.row_at(event.caller, event.at, SETTINGS)
        read = state.read(
            row, ISSUER, GROUP, RequestTags(state.tagger.tag(event.endpoint), event.run), event.at, SETTINGS
        )
        if event.at // DAY == state.model.content.made // DAY:  # no model is learned with this event
            assert state.fold(event, lambda _: SETTINGS) == read
        else:
            state.fold(event, lambda _: SETTINGS)
    assert packed(state) == packed(whole)


def test_a_model_is_learned_at_the_first_event_of_each_day():
    callers = Callers()
    serials = []
    for hour in range(0, 72, 6):
        callers.now = START + hour * HOUR
        callers.send(caller())
        serials.append(callers.state.model.content.serial)
    assert serials == [1] * 4 + [2] * 4 + [3] * 4


def test_a_state_that_does_not_learn_keeps_its_model():
    callers = Callers(model := class_model())
    callers.work(caller(), days=3)
    assert callers.state.model is model


def test_the_caller_not_heard_of_for_longest_makes_room():
    state, _ = folded([BehaviorEvent(START + at, caller(number), GROUP, "GET /", 1, ALLOWED)
                       for at, number in enumerate([0, 1, 2, 0, 3])], most=3)  # fmt: skip
    assert list(state.rows) == [caller(2), caller(0), caller(3)]


@pytest.mark.parametrize("is_ready", [False, True])
def test_making_room_takes_the_same_work_however_many_callers_were_dropped(is_ready):
    """The first key of a plain dict is found by a search among all keys that were deleted before it."""
    state = BehaviorState(Tagger(KEY), most=50)
    settings = ProfileSettings(ready_runs=0, ready_days=0) if is_ready else SETTINGS
    assert {type(state._rows), type(state._new)} == {OrderedDict}
    state._rows, state._new = CountedOrder(), CountedOrder()
    counts = []
    for number in range(500):
        before = state._rows.count + state._new.count
        state.fold(BehaviorEvent(START, caller(number), GROUP, "GET /", 1, ALLOWED), lambda _: settings)
        counts.append(state._rows.count + state._new.count - before)
    assert list(state.rows) == [caller(number) for number in range(450, 500)]
    assert set(counts[50:]) == {counts[50]}
    assert counts[50] < 10


def test_callers_are_apart_by_issuer_agent_and_instance():
    callers = Callers()
    for who in (caller(0), caller(0, instance="i"), caller(1), Caller("other", "agent-0")):
        callers.send(who)
    assert [found.row.serial for found in callers.state.rows.values()] == [1] * 4


def test_a_failure_is_of_a_known_caller():
    callers = Callers()
    callers.send(caller(0))
    callers.state.fold_failure(caller(0))
    callers.state.fold_failure(caller(1))
    assert list(callers.state.rows) == [caller(0)]
    assert callers.row(caller(0)).errors > 0


# ── Versions ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def worked():
    callers = Callers(class_model())
    callers.work(caller(version="a"), days=20)
    return callers


def test_a_new_version_starts_with_the_habits_of_the_last_one(worked):
    old, new = worked.row(caller(version="a")), worked.row(caller(version="b"))
    assert (new.paces, new.peaks, new.seen) == (old.paces, old.peaks, old.seen)
    assert old.trust > 900_000
    assert new.trust == 500_000
    assert worked.read(caller(version="a")).ready
    assert not worked.read(caller(version="b")).ready


def test_a_read_of_a_new_version_keeps_nothing(worked):
    worked.read(caller(version="b"))
    assert list(worked.state.rows) == [caller(version="a")]


def test_a_new_version_starts_from_the_version_heard_of_last(worked):
    worked.send(caller(version="b"), "GET /only-b")
    tag = worked.state.tagger.tag("GET /only-b")
    assert tag in worked.row(caller(version="c")).seen
    worked.state._versions = None  # as in a process that loaded the rows
    assert tag in worked.row(caller(version="c")).seen


def test_the_version_heard_of_last_is_the_same_in_a_process_that_loaded_the_rows(worked):
    for version in "bcb":
        worked.send(caller(version=version), f"GET /only-{version}")
    worked.send(caller(version="a"))
    live = worked.row(caller(version="d"))
    worked.state._versions = None
    assert pack_row(worked.row(caller(version="d"))) == pack_row(live)
    assert live.seen == worked.row(caller(version="a")).seen


def test_callers_without_a_version_or_with_another_instance_start_anew(worked):
    for who in (caller(), caller(instance="i", version="b"), caller(1, version="b")):
        assert worked.row(who).seen == {}


def test_a_forgotten_version_is_no_start(worked):
    del worked.state.rows[caller(version="a")]
    assert worked.row(caller(version="b")).seen == {}


def test_the_known_versions_are_bounded():
    state, _ = folded(
        [BehaviorEvent(START + n, caller(n, version="a"), GROUP, "GET /", 1, ALLOWED) for n in range(50)], most=3
    )
    state.row_at(caller(60, version="b"), START + 60, SETTINGS)
    for number in range(50):
        state.fold(
            BehaviorEvent(START + 60 + number, caller(number, version="c"), GROUP, "GET /", 1, ALLOWED),
            lambda _: SETTINGS,
        )
        assert state._versions is None or len(state._versions) <= 6


# ── Tags ──────────────────────────────────────────────────────────────────────────────────────


def test_tags_depend_on_the_key_and_the_text():
    tags = [Tagger(KEY).tag("GET /a"), Tagger(KEY).tag("GET /b"), Tagger(b"other").tag("GET /a")]
    assert len(set(tags)) == 3
    assert all(0 <= tag < 2**32 for tag in tags)
    assert Tagger(KEY).tag("GET /a") == tags[0]


def test_a_tagger_caches_a_bounded_number_of_texts():
    tagger = Tagger(KEY, size=3)
    tags = [tagger.tag(str(number)) for number in range(10)]
    assert len(tagger._known) <= 3
    assert [tagger.tag(str(number)) for number in range(10)] == tags


def test_texts_that_are_no_utf8_have_tags():
    assert Tagger(KEY).tag("\udcff") != Tagger(KEY).tag("\ufffd")


def test_a_flood_of_new_keys_does_not_displace_callers_that_are_ready():
    ready = ProfileSettings(ready_runs=1, ready_days=1)
    state = BehaviorState(Tagger(b"key"), most=10)
    for each in range(3):
        for run in (1, 2):
            state.fold(BehaviorEvent(START + run, caller(each), GROUP, "GET /", run, ALLOWED), lambda _: ready)
    for each in range(100, 200):
        state.fold(BehaviorEvent(START + each, caller(each), GROUP, "GET /", 1, ALLOWED), lambda _: ready)
    assert len(state.rows) == 10
    assert {caller(0), caller(1), caller(2)} <= state.rows.keys()
    for each in range(200, 220):  # without new ones, the one heard of longest ago makes room
        for run in (1, 2):
            state.fold(BehaviorEvent(START + each, caller(each), GROUP, "GET /", run, ALLOWED), lambda _: ready)
    assert len(state.rows) == 10
    assert caller(0) not in state.rows
