"""What operators change of learned behavior in shared stores: planned changes, and callers to forget."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from policyengine import Engine
from policyengine.behavior import shared as shared_module
from policyengine.behavior.events import Caller
from policyengine.behavior.model import FORMAT, MODEL_VERSION, BehaviorModel, ModelContent, ModelError
from policyengine.behavior.operator_store import NoLearnedBehaviorError, StoredBehavior, StoredReleases
from policyengine.behavior.releases import MAX_RELEASE, ClassRelease
from policyengine.behavior.row import pack_row
from policyengine.behavior.shared_keys import SharedKeys, sign_document, sign_model
from policyengine.behavior.shared_releases import sign_releases
from policyengine.behavior.state import BehaviorState
from policyengine.stores.base import Store
from policyengine.stores.behavior import EVENTS_PER_GENERATION, MODEL, RELEASES, UNREADABLE_NUMBER, BehaviorStore
from policyengine.stores.sql.session import upsert
from policyengine.stores.sql.store import SqlStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question
from tests.processes import wait_until
from tests.stores.charges import START
from tests.stores.learned import CALLER, KEY, Stores, engine_of, teach, told, tracker_of

pytestmark = pytest.mark.usefixtures("without_threads")
PROFILE = "profile reporting"
DAY = 86_400_000
NOW = int((BEGIN + timedelta(days=10, hours=9)).timestamp() * 1_000)
KEYS = SharedKeys(KEY)
ATTACKER = SharedKeys(b"a" * 32)


@pytest.fixture
def store(empty: Store, ten_days: BehaviorState) -> Store:
    """A store with the behavior of ten days."""
    teach(empty, ten_days)
    return empty


@pytest.fixture
def behavior(store: Store) -> BehaviorStore:
    return behavior_of(store)


@pytest.fixture
def engines(shared: Stores, store: Store, clock: FakeClock) -> list[Engine]:
    """Two engines, as in two processes, that share the store."""
    return [engine_of(store, clock), engine_of(shared.again(store), clock)]


def behavior_of(store: Store) -> BehaviorStore:
    assert store.behavior is not None
    return store.behavior


def look(*engines: Engine) -> None:
    """Let processes look at the store, as each does every ten seconds."""
    for engine in engines:
        tracker_of(engine).keep()


def plan(store: BehaviorStore, *releases: ClassRelease, number: int = NOW) -> int:
    """Plan changes, and return the number of their document."""
    learned = StoredBehavior(store)
    assert learned.save_releases(learned.load_releases(), releases, number)
    return learned.load_releases().number


def flood(engine: Engine, clock: FakeClock, path: str = "/data/x", count: int = 60) -> list[str]:
    outcomes = []
    for _ in range(count):
        clock.now += timedelta(milliseconds=50)
        outcomes.append(told(engine.decide(question(path=path, task="flood"))))
    return outcomes


def row_of(engine: Engine, caller: Caller = CALLER) -> bytes | None:
    tracker = tracker_of(engine)
    known = tracker._callers.get(tracker.key_of(caller))
    return None if known is None else pack_row(known.row)


def serial_of(engine: Engine, caller: Caller = CALLER) -> int:
    tracker = tracker_of(engine)
    return tracker._callers[tracker.key_of(caller)].row.serial


def model(serial: int) -> BehaviorModel:
    return BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, serial, NOW, "", ()))


def messages(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if getattr(one, "event", "") == event]


# ── Documents and versions ────────────────────────────────────────────────────────────────────


def test_a_document_is_replaced_only_by_one_with_a_higher_number(empty: Store) -> None:
    behavior = behavior_of(empty)
    assert behavior.known_key() is None
    behavior.shared_key(KEY)
    assert behavior.known_key() == KEY
    assert behavior.document(RELEASES, 0) == (0, b"")
    assert behavior.save_document(RELEASES, 5, b"\xff five", 0)
    assert not behavior.save_document(RELEASES, 5, b"other")
    assert not behavior.save_document(RELEASES, 9, b"nine", 4)
    assert behavior.document(RELEASES, 4) == (5, b"\xff five")
    assert behavior.document(RELEASES, 5) == (5, b"")
    assert behavior.save_document(RELEASES, 9, b"nine", 5)
    assert behavior.document(RELEASES, 5) == (9, b"nine")
    assert behavior.document(MODEL, 0) == (0, b"")


def test_a_number_that_cannot_be_read_is_above_all_others(empty: Store) -> None:
    behavior = behavior_of(empty)
    behavior.shared_key(KEY)
    behavior.save_document(RELEASES, 5, b"five")
    is_typed = isinstance(empty, SqlStore) and not isinstance(empty, SqliteStore)
    for number in ("-7",) if is_typed else ("abc", "-7", "9" * 30):
        put_number(empty, RELEASES, number)
        assert behavior.document(RELEASES, 5)[0] == UNREADABLE_NUMBER


def put_number(store: Any, name: str, number: str) -> None:
    """Write the number of a document, as an attacker who can write into the store does."""
    if isinstance(store, SqlStore):
        with store.step() as connection:
            connection.execute("UPDATE behavior SET number = ? WHERE name = ?", (number, name))
    else:
        store._client.hset(f"policyengine:behavior:{name}", "number", number)


def put_document(store: Any, name: str, number: int, raw: bytes) -> None:
    """Write a document without any check, as an attacker who can write into the store does."""
    if isinstance(store, SqlStore):
        with store.step() as connection:
            connection.execute(upsert("behavior", ("name",), ("number", "value")), (name, number, raw))
    else:
        store._client.hset(f"policyengine:behavior:{name}", mapping={"number": number, name: raw})


def test_versions_are_known_in_the_order_of_their_activity(empty: Store) -> None:
    behavior = behavior_of(empty)
    behavior.shared_key(KEY)
    for number, version in enumerate(["one", "two", "three", "one", "two", "two"]):
        behavior.add_version("family", version, DAY, START + number * 1_000_000)
    behavior.add_version("other", "four", DAY, START)
    assert behavior.versions("family", 10) == ["two", "one", "three"]
    assert behavior.versions("family", 1) == ["two"]
    assert behavior.versions("none", 1) == []
    behavior.add_version("family", "five", DAY, START + DAY * 1_000 + 2_500_000)
    assert behavior.versions("family", 10) == ["five", "two", "one"]


def test_versions_that_are_active_at_the_same_time_have_an_order(empty: Store) -> None:
    behavior = behavior_of(empty)
    behavior.shared_key(KEY)
    for version in ("b", "c", "a", "b"):
        behavior.add_version("family", version, DAY, START)
    assert behavior.versions("family", 10) == ["b", "a", "c"]


# ── Planned changes ───────────────────────────────────────────────────────────────────────────


def test_a_planned_change_raises_no_alarm(engines: list[Engine], behavior: BehaviorStore, clock: FakeClock) -> None:
    plan(behavior, ClassRelease(PROFILE, NOW, NOW + DAY))
    look(*engines)
    for engine in engines:
        assert set(flood(engine, clock, count=30) + flood(engine, clock, "/secret/1", 30)) == {"allow 180"}
        assert tracker_of(engine).counts == {"burst": 0, "novelty": 0, "deviation": 0}


def test_without_a_planned_change_the_same_raises_alarms(engines: list[Engine], clock: FakeClock) -> None:
    look(*engines)
    assert "throttle 2" in flood(engines[0], clock) + flood(engines[0], clock, "/secret/1")
    assert tracker_of(engines[0]).counts["burst"] > 0


def test_a_process_that_has_not_looked_yet_computes_the_same_row(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock
) -> None:
    plan(behavior, ClassRelease(PROFILE, NOW, NOW + DAY))
    look(engines[0])
    for number in range(50):
        clock.now += timedelta(seconds=1)
        engines[number % 2].decide(question(path=f"/secret/{number % 3}", task="change"))
    for engine in (*engines, engines[0]):
        clock.now += timedelta(seconds=1)
        engine.decide(question(task="change"))
    engines[1].evaluate(question(task="change"))
    engines[1].decide(question(task="change"))
    engines[0].decide(question(task="change"))
    later = engine_of(engines[0].store, clock)
    later.evaluate(question(task="change"))
    assert row_of(later) == row_of(engines[0])
    clock.now += timedelta(days=1)
    for engine in (engines[0], engines[1], engines[0]):
        engine.decide(question(task="next"))
    later = engine_of(engines[0].store, clock)
    later.evaluate(question(task="next"))
    assert row_of(later) == row_of(engines[0])


def test_a_planned_change_ends_at_its_time(engines: list[Engine], behavior: BehaviorStore, clock: FakeClock) -> None:
    plan(behavior, ClassRelease(PROFILE, NOW, NOW + 10_000))
    look(engines[0])
    assert set(flood(engines[0], clock, "/secret/1", 3)) == {"allow 180"}
    clock.now += timedelta(seconds=10)
    assert flood(engines[0], clock, "/secret/2", 20)[-1] != "allow 180"


def test_an_operator_can_end_a_planned_change(engines: list[Engine], behavior: BehaviorStore, clock: FakeClock) -> None:
    plan(behavior, ClassRelease(PROFILE, NOW, NOW + DAY))
    look(*engines)
    plan(behavior)
    look(*engines)
    assert "allow 180" not in flood(engines[1], clock, "/secret/1", 20)[-5:]


@pytest.mark.parametrize("group", ["profile other", 'agent "report-*"', ""])
def test_a_planned_change_of_another_class_changes_nothing(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock, group: str
) -> None:
    plan(behavior, ClassRelease(group, NOW, NOW + DAY))
    look(engines[0])
    assert flood(engines[0], clock, "/secret/1", 20)[-1] != "allow 180"


def test_a_running_process_follows_when_it_looks(
    store: Store, behavior: BehaviorStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "LOOK_SECONDS", 0.01)
    tracker = tracker_of(engine_of(store, clock))
    tracker._thread.start()
    plan(behavior, *release_until())
    wait_until(lambda: tracker._releases.ends == {PROFILE: NOW + DAY})
    plan(behavior)
    wait_until(lambda: not tracker._releases.ends)
    tracker.close()


def test_a_process_that_starts_later_follows_at_once(store: Store, behavior: BehaviorStore, clock: FakeClock) -> None:
    plan(behavior, ClassRelease(PROFILE, NOW, NOW + DAY))
    assert set(flood(engine_of(store, clock), clock, "/secret/1")) == {"allow 180"}


def test_a_change_that_was_planned_with_a_wrong_clock_does_not_apply_yet(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock
) -> None:
    """The clock of the operator was a year ahead."""
    ahead = NOW + 365 * DAY
    plan(behavior, ClassRelease(PROFILE, ahead, ahead + DAY), number=ahead)
    look(engines[0])
    assert flood(engines[0], clock, "/secret/1", 20)[-1] != "allow 180"


def test_a_change_that_is_planned_after_one_with_a_wrong_clock_counts(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock
) -> None:
    ahead = NOW + 365 * DAY
    assert plan(behavior, number=ahead) == ahead
    assert plan(behavior, ClassRelease(PROFILE, NOW, NOW + DAY)) == ahead + 1
    look(engines[0])
    assert set(flood(engines[0], clock, "/secret/1")) == {"allow 180"}


def test_two_operators_do_not_overwrite_each_other(behavior: BehaviorStore) -> None:
    first, second = StoredBehavior(behavior), StoredBehavior(behavior)
    known = first.load_releases()
    assert second.save_releases(known, [ClassRelease("b", 0, DAY)], NOW)
    assert not first.save_releases(known, [ClassRelease("a", 0, DAY)], NOW + 5)
    assert first.load_releases() == StoredReleases(NOW, (ClassRelease("b", 0, DAY),))


# ── Attacks on planned changes ────────────────────────────────────────────────────────────────


def release_until(until: int = NOW + DAY) -> list[ClassRelease]:
    return [ClassRelease(PROFILE, NOW, until)]


FORGERIES: dict[str, Callable[[int], bytes]] = {
    "another key": lambda number: sign_releases(number, release_until(), ATTACKER.releases),
    "the key of models": lambda number: sign_releases(number, release_until(), KEYS.models),
    "another number": lambda number: sign_releases(number - 1, release_until(), KEYS.releases),
    "too long": lambda number: sign_releases(number, release_until(NOW + MAX_RELEASE + 1), KEYS.releases),
    "no document": lambda number: sign_document(b"[]", KEYS.releases),
    "cut": lambda number: sign_releases(number, release_until(), KEYS.releases)[:-1],
    "empty": lambda number: b"",
    "not signed": lambda number: sign_releases(number, release_until(), KEYS.releases)[32:],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_planned_changes_are_ignored_and_logged_once(
    forgery: str, engines: list[Engine], store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put_document(store, RELEASES, NOW + 5, FORGERIES[forgery](NOW + 5))
    with caplog.at_level(logging.ERROR):
        look(engines[0], engines[0], engines[0])
    assert len(messages(caplog, "behavior_releases_refused")) == 1
    assert told(engines[0].decide(question(task="flood"))) == "allow 180"  # facts are known
    assert flood(engines[0], clock, "/secret/1", 20)[-1] != "allow 180"
    later = engine_of(store, clock)
    assert tracker_of(later)._releases.ends == {}
    assert StoredBehavior(behavior_of(store)).load_releases().refused


def test_forged_planned_changes_end_those_before_and_are_replaced_by_the_next(
    engines: list[Engine], store: Store, behavior: BehaviorStore, caplog: pytest.LogCaptureFixture
) -> None:
    number = plan(behavior, *release_until())
    look(engines[0])
    put_document(store, RELEASES, number + 1, sign_releases(number + 1, release_until(), ATTACKER.releases))
    look(engines[0])
    assert tracker_of(engines[0])._releases.ends == {}
    assert plan(behavior, *release_until()) == number + 2
    look(engines[0])
    assert tracker_of(engines[0])._releases.ends == {PROFILE: NOW + DAY}


def test_an_older_document_is_ignored_and_replaced_by_the_latest(
    engines: list[Engine], store: Store, behavior: BehaviorStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    plan(behavior, *release_until())
    older = behavior.document(RELEASES, 0)
    latest = plan(behavior)  # the operator ends the change
    look(*engines)
    put_document(store, RELEASES, *older)
    with caplog.at_level(logging.WARNING):
        look(*engines, *engines)
    assert len(messages(caplog, "behavior_releases_restored")) == 1
    assert behavior.document(RELEASES, 0)[0] == latest
    put_document(store, RELEASES, latest + 1, older[1])  # the older document under a newer number
    look(*engines, *engines)
    assert len(messages(caplog, "behavior_releases_refused")) == 2  # once for each process
    for engine in engines:
        assert flood(engine, clock, "/secret/1", 20)[-1] != "allow 180"


def test_planned_changes_that_the_store_lost_are_saved_again(
    engines: list[Engine], store: Any, behavior: BehaviorStore
) -> None:
    number = plan(behavior, *release_until())
    look(engines[0])
    if isinstance(store, SqlStore):
        with store.step() as connection:
            connection.execute("DELETE FROM behavior WHERE name = 'releases'")
    else:
        store._client.delete("policyengine:behavior:releases")
    look(engines[0])
    assert StoredBehavior(behavior).load_releases() == StoredReleases(number, tuple(release_until()))


def test_a_replaced_key_is_logged_and_makes_all_callers_new(
    engines: list[Engine], store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert told(engines[0].decide(question(task="before"))) == "allow 180"
    if isinstance(store, SqlStore):
        with store.step() as connection:
            connection.execute("UPDATE behavior SET value = ? WHERE name = 'key'", (ATTACKER.secret,))
    else:
        store._client.set("policyengine:behavior:key", ATTACKER.secret)
    look(engines[0], engines[0])
    assert len(messages(caplog, "behavior_key_changed")) == 1
    store.behavior.save_document(MODEL, 10**6, sign_model(model(10**6), ATTACKER.models))
    look(engines[0])
    assert told(engines[0].decide(question(task="after"))) == "allow 100"


# ── Callers to forget ─────────────────────────────────────────────────────────────────────────


def test_a_caller_is_forgotten_at_once_by_all_processes(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock
) -> None:
    for engine in engines:
        assert told(engine.decide(question(task="before"))) == "allow 180"
    assert StoredBehavior(behavior).forget(CALLER) == 1
    assert StoredBehavior(behavior).forget(CALLER) == 0
    assert [told(engine.decide(question(task="after"))) for engine in engines] == ["allow 100", "allow 100"]
    assert [serial_of(engine) - EVENTS_PER_GENERATION for engine in engines] == [1, 2]
    assert told(engines[0].decide(question(1, task="before"))) == "allow 180"


def test_a_process_that_was_idle_does_not_bring_back_a_forgotten_caller(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock
) -> None:
    first, second = engines
    second.decide(question(task="before"))
    events = serial_of(second)
    StoredBehavior(behavior).forget(CALLER)
    for _ in range(events + 20):  # the caller has as many events again, and its row is saved
        clock.now += timedelta(seconds=2)
        first.decide(question(task="after"))
    assert told(second.decide(question(task="after"))) == "allow 100"
    first.decide(question(task="after"))
    second.decide(question(task="after"))
    later = engine_of(first.store, clock)
    later.evaluate(question(task="after"))
    assert row_of(later) == row_of(second)


def test_a_failure_of_a_forgotten_caller_is_not_learned(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock
) -> None:
    decision = engines[0].decide(question(task="before"))
    StoredBehavior(behavior).forget(CALLER)
    engines[1].report(decision.id, status=500)
    assert behavior.read(KEYS.key_of(CALLER), START).events == ()
    assert not StoredBehavior(behavior).knows(CALLER)
    assert told(engines[0].decide(question(task="after"))) == "allow 100"


def test_all_versions_of_a_caller_are_forgotten_and_none_teaches_the_next(
    shared: Stores, empty: Store, clock: FakeClock
) -> None:
    text = POLICY.replace("ready 20", 'version by request.headers["x-v"]   ready 20')
    first = Engine.from_text(text, clock=clock, store=empty)
    second = Engine.from_text(text, clock=clock, store=shared.again(empty))

    def ask(engine: Engine, version: str, *, evaluates: bool = False) -> None:
        clock.now += timedelta(minutes=10)
        asked = question()
        asked["request"]["headers"] = {"x-v": version}
        (engine.evaluate if evaluates else engine.decide)(asked)

    def version_of(version: str) -> Caller:
        return CALLER._replace(version=f"{tracker_of(first).tag(version):08x}")

    for version in ("one", "two"):
        for _ in range(20):
            ask(first, version)
    ask(second, "three", evaluates=True)  # this process now has a first row of the third version
    learned = StoredBehavior(behavior_of(empty))
    assert [one.caller for one in learned.find(CALLER, lambda group: first_settings(first, group))] == [
        version_of("two"),
        version_of("one"),
    ]
    assert learned.forget(CALLER) == 2
    assert learned.find(CALLER, lambda group: first_settings(first, group)) == []
    for engine, version in ((second, "three"), (second, "one"), (first, "two")):
        ask(engine, version)
        row = tracker_of(engine)._callers[tracker_of(engine).key_of(version_of(version))].row
        assert sum(row.paces) == 0
    assert {one.caller for one in learned.find(CALLER, lambda group: first_settings(first, group))} == {
        version_of("one"),
        version_of("two"),
        version_of("three"),
    }


def first_settings(engine: Engine, group: str) -> Any:
    reader = engine.decider.behavior
    assert reader is not None
    return reader.settings_of(group)


def test_all_callers_and_classes_are_forgotten(
    engines: list[Engine], behavior: BehaviorStore, clock: FakeClock, ten_days: BehaviorState
) -> None:
    engines[0].decide(question(7))  # a caller without a saved row
    serial = tracker_of(engines[0]).model.content.serial
    learned = StoredBehavior(behavior)
    assert learned.forget_all() == 5
    assert learned.forget_all() == 0
    assert [told(engine.decide(question(1, task="after"))) for engine in engines] == ["allow 100", "allow 100"]
    assert not behavior.save_document(MODEL, serial + 1, sign_model(ten_days.model, KEYS.models))
    look(*engines)
    for engine in engines:
        assert tracker_of(engine).model.content.classes == ()
        assert tracker_of(engine).model.content.made == ten_days.model.content.made
    assert list(behavior.callers(START)) == []


def test_a_damaged_model_is_replaced_when_everything_is_forgotten(
    engines: list[Engine], store: Store, behavior: BehaviorStore
) -> None:
    put_document(store, MODEL, 77, b"damaged")
    look(engines[0])
    learned = StoredBehavior(behavior)
    with pytest.raises(ModelError):
        learned.load_model()
    learned.forget_all()
    look(engines[0])
    assert told(engines[0].decide(question(task="after"))) == "allow 100"
    assert tracker_of(engines[0]).model.content.serial >= 78


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


def test_a_store_without_learned_behavior_is_not_changed(empty: Any) -> None:
    with pytest.raises(NoLearnedBehaviorError):
        StoredBehavior(behavior_of(empty))
    assert behavior_of(empty).known_key() is None
    if isinstance(empty, SqliteStore):
        with empty.step() as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "behavior" not in tables
