"""What every store remembers, on each of them: one test body for the memory of a process and for real servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from msgspec.structs import replace

from policyengine.engine import Engine
from policyengine.runtime import history
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, HistoryRecord, OutcomeReport, WindowKey
from policyengine.runtime.limits import Charge
from policyengine.runtime.values import Unknown, Value
from policyengine.stores.base import Store
from policyengine.typesystem import EntityRef
from tests.stores.charges import SECOND, START, asks, budget, places, rate
from tests.stores.conftest import Fresh, fresh_everywhere, with_another_number

fresh = fresh_everywhere
HOUR = 3_600 * SECOND
LINE = ("paid", "alice")
MOST_EVENTS = f"MOST_EVENTS, SLACK, NEVER = {history.MAX_EVENTS_PER_KEY}"


def record(
    watch: str = "paid", key: str = "alice", *facts: Value, within: int = HOUR, latest: bool = False, **told: Any
) -> HistoryRecord:
    return HistoryRecord(watch, key, facts, tuple(told.get("outputs", ())), within, latest, told.get("awaits", False))


def remembers(*records: HistoryRecord, relied: tuple[tuple[WindowKey, int], ...] = (), limits: tuple[Charge, ...] = (),
              **more: Any) -> Effects:  # fmt: skip
    return replace(asks(*limits, **more), records=records, relied=relied)


def happens(store: Store, *records: HistoryRecord, name: str = "one", at: int = START, **more: Any) -> bool:
    """Whether it was admitted, and nobody was quicker."""
    told = store.commit(remembers(*records, **more), name, at)
    return told is not None and told.admitted


def past(store: Store, key: WindowKey = LINE, at: int = START) -> History:
    return store.fetch([key], at)[key]


@pytest.fixture
def begun(store: Store) -> Store:
    store.begin(["paid", "seen"], START)
    return store


# ── What is known ─────────────────────────────────────────────────────────────────────────────


def test_the_history_of_a_watch_that_was_not_begun_is_unknown(store: Store) -> None:
    found = past(store)
    assert (list(found.events), found.version, found.now) == ([], 0, START)
    assert found.complete_after > START * 1_000


def test_beginning_a_history_again_does_not_move_its_start(begun: Store) -> None:
    assert past(begun).complete_after == START - 1
    begun.begin(["paid"], START + HOUR)
    assert past(begun).complete_after == START - 1


def test_an_ended_history_restarts_without_earlier_events(begun: Store) -> None:
    assert happens(begun, record(), record("seen", "alice"))
    begun.end(["paid"])
    assert past(begun).complete_after > START + HOUR
    begun.begin(["paid", "seen"], START + 7)
    assert past(begun).complete_after == START + 6
    assert past(begun, ("seen", "alice")).complete_after == START - 1
    assert happens(begun, record(), name="two", at=START + 9)
    assert past(begun).complete_after == START + 6
    assert "two" in [one.decision for one in past(begun).events]


def test_the_history_keeps_the_facts_of_an_allowed_request_unchanged(begun: Store) -> None:
    facts = (
        "é" * 50,
        7,
        Decimal("0.1"),
        Decimal(12345678901234567890),
        Decimal("1E+6144"),
        10**34 - 1,
        True,
        EntityRef("user", "ann"),
        ("a", 1),
        Unknown.missing("body.x"),
        "\ud800",
    )
    assert happens(begun, record("paid", "alice", *facts), record("seen", "alice"), name="first")
    assert happens(begun, record(), name="second", at=START + 5)
    first, second = past(begun).events
    assert (first.at, first.decision, first.facts, first.status, first.output) == (START, "first", facts, None, ())
    assert (second.at, second.decision, past(begun).now) == (START + 5, "second", START + 5)
    assert first.serial == past(begun, ("seen", "alice")).events[0].serial < second.serial


def test_histories_of_different_keys_are_separate(begun: Store) -> None:
    assert happens(begun, record())
    keys = [LINE, ("paid", "bob"), ("seen", "alice")]
    found = begun.fetch(keys, START)
    assert [len(found[key].events) for key in keys] == [1, 0, 0]


def test_events_are_counted_between_two_times(begun: Store) -> None:
    for number in range(5):
        assert happens(begun, record(), name=f"{number}", at=START + number)
    found = past(begun)
    assert [found.count_between(START + after, None) for after in (-1, 0, 3, 4)] == [5, 4, 1, 0]
    assert [found.count_between(START, START + until) for until in (-1, 0, 3, 9)] == [0, 0, 3, 4]


def test_a_peek_records_no_event(begun: Store) -> None:
    begun.commit(remembers(record()), "one", START, peek=True)
    assert not past(begun).events


def test_a_throttled_request_is_not_recorded_in_the_history(begun: Store) -> None:
    assert not happens(begun, record(), limits=(rate(), budget(0)))
    assert not past(begun).events
    assert happens(begun, record(), limits=(rate(), budget(1)), name="two")
    assert len(past(begun).events) == 1


def test_a_denied_request_is_recorded_whatever_the_state_of_its_limits(begun: Store) -> None:
    assert not happens(begun, record(), limits=(rate(counts=True), budget(0)), denied=True)
    assert len(past(begun).events) == 1


def test_a_request_with_a_spent_approval_is_not_recorded_in_the_history(begun: Store) -> None:
    assert happens(begun, record(), spends=("a",))
    assert not happens(begun, record(), spends=("a",), name="two")
    assert len(past(begun).events) == 1


def test_an_event_matches_its_fact_and_an_unknown_fact_matches_any(begun: Store) -> None:
    for number, fact in enumerate(["a", "b", Unknown.missing("body.x"), "a"]):
        happens(begun, record("paid", "alice", fact), name=str(number))
    assert [one.decision for one in past(begun).among(0, "a")] == ["0", "2", "3"]


# ── One step ──────────────────────────────────────────────────────────────────────────────────


def test_the_version_of_a_history_increases_with_every_event(begun: Store) -> None:
    versions = [past(begun).version]
    for number in range(3):
        happens(begun, record(), name=str(number))
        versions.append(past(begun).version)
    assert versions[0] == 0
    assert versions == sorted(set(versions))


def test_a_commit_that_relies_on_a_changed_history_has_no_effect(begun: Store) -> None:
    relied = ((LINE, 0), (("seen", "alice"), 0))
    assert happens(begun, record(), relied=relied, limits=(budget(9),))
    late = {"limits": (budget(9), places(9), rate(10)), "spends": ("a",)}
    assert not happens(begun, record("seen"), relied=relied, name="two", **late)
    assert not happens(begun, record("seen"), relied=relied, name="three", denied=True)
    assert not past(begun, ("seen", "alice")).events
    assert not begun.spent_among(["a"])
    told = begun.commit(asks(budget(9), places(9), rate(10)), "look", START, peek=True)
    assert told is not None
    assert [one.remaining for one in told.standings] == [7, 8, 9]


def test_a_peek_ignores_a_changed_history(begun: Store) -> None:
    happens(begun, record())
    assert begun.commit(remembers(relied=((LINE, 0),), limits=(rate(),)), "two", START, peek=True) is not None


def test_a_commit_that_relies_on_the_current_history_succeeds(begun: Store) -> None:
    happens(begun, record())
    for number in range(3):
        relied = ((LINE, past(begun).version), (("seen", "bob"), 0))
        assert happens(begun, record(), relied=relied, name=str(number), limits=(rate(), budget(9)))
    assert len(past(begun).events) == 4


# ── How it came out ───────────────────────────────────────────────────────────────────────────


def test_an_outcome_is_recorded_only_once(begun: Store) -> None:
    waiting = record(awaits=True, outputs=(("cost",), ("a", "b"), ("gone",)))
    happens(begun, record(), name="before")
    happens(begun, waiting, record("seen"), name="run")
    version = past(begun).version
    output = {"cost": Decimal("0.1"), "a": {"b": "é"}, "more": 1}
    assert begun.report("run", OutcomeReport(201, output), START) == "first"
    assert begun.report("run", OutcomeReport(500, {}), START) == "again"
    assert begun.report("before", OutcomeReport(500, {}), START) is None
    before, event = past(begun).events
    assert (before.status, event.status, event.output[:2]) == (None, 201, (Decimal("0.1"), "é"))
    assert isinstance(event.output[2], Unknown)
    assert past(begun).version > version
    assert past(begun, ("seen", "alice")).events[0].status is None


def test_an_outcome_can_have_no_status(begun: Store) -> None:
    happens(begun, record(awaits=True, outputs=(("x",),)), name="run")
    assert begun.report("run", OutcomeReport(None, {"x": 1}), START) == "first"
    [event] = past(begun).events
    assert (event.status, event.output) == (None, (1,))


def test_an_event_has_neither_status_nor_outputs_until_its_outcome_is_reported(begun: Store) -> None:
    happens(begun, record(awaits=True, outputs=(("x",), ("y",))), name="lost")
    happens(begun, record(awaits=True, outputs=(("x",), ("y",))), name="run")
    assert begun.report("run", OutcomeReport(204, {"y": [1, "a"]}), START) == "first"
    lost, run = past(begun).events
    assert (lost.status, lost.output) == (None, ())
    assert (run.status, run.output[0], list(run.output[1])) == (204, Unknown.missing("past.output.x"), [1, "a"])  # type: ignore[call-overload]


UNANSWERED = """
issuer acme { scopes none }
agent "*" { issued by acme   acts alone   may POST /pay, POST /chat, GET /more }
guard "one at a time" on POST /pay { require no (POST /pay where past.status is absent) within 10m }
guard "proved" on POST /pay {
  require no (POST /pay where (past.status else 500) < 400 and past.output.proof is absent) within 10m
}
guard "tokens" on POST /chat { require sum (past.output.tokens else 100) of POST /chat within 10m < 200 }
guard "statuses" on GET /more { require sum (past.status else 0) of GET /more within 10m < 600 }
"""


def test_unanswered_requests_are_settled_on_every_store(store: Store) -> None:
    now = [datetime(2027, 1, 4, 12, tzinfo=UTC)]
    engine = Engine.from_text(UNANSWERED, clock=lambda: now[0], store=store)
    now[0] += timedelta(hours=1)

    def ask(path: str, status: int | None = None, **output: object) -> str:
        method, _, path = path.partition(" ")
        caller = {"agent": {"id": "bot", "issuer": "acme"}, "credential": {}}
        decision = engine.decide({**caller, "request": {"method": method, "path": path}})
        assert decision.unknown == ()
        if status is not None:
            assert engine.report(decision.id, status=status, output=output) == decision.allowed
        return decision.reasons[0].rule or "" if decision.reasons else str(decision.outcome)

    paid = [ask("POST /pay", 200, proof=[7]), ask("POST /pay", 200, proof=""), ask("POST /pay"), ask("POST /pay")]
    assert paid == ["allow", "allow", "allow", "one at a time"]
    now[0] += timedelta(minutes=10)
    assert [ask("POST /pay", 201), ask("POST /pay", 201)] == ["allow", "proved"]
    spent = [ask("POST /chat", 200, tokens=90), ask("POST /chat"), ask("POST /chat", 500, tokens=9.5)]
    assert [*spent, ask("POST /chat", 200, tokens=0.5), ask("POST /chat")] == [*["allow"] * 4, "tokens"]
    assert [ask("GET /more", 404), ask("GET /more"), ask("GET /more", 200), ask("GET /more")] == [
        "allow", "allow", "allow", "statuses",
    ]  # fmt: skip


def test_an_outcome_after_the_window_is_ignored(begun: Store) -> None:
    happens(begun, record(awaits=True), name="run")
    assert begun.report("run", OutcomeReport(200, {}), START + HOUR) is None
    assert begun.report("nobody", OutcomeReport(200, {}), START) is None


def test_a_reported_outcome_invalidates_commits_that_rely_on_the_history(begun: Store) -> None:
    happens(begun, record(awaits=True), name="run")
    relied = ((LINE, past(begun).version),)
    begun.report("run", OutcomeReport(200, {}), START)
    assert not happens(begun, relied=relied, limits=(rate(),), name="two")


def test_an_outcome_of_an_evicted_event_changes_nothing(begun: Store) -> None:
    happens(begun, record("paid", "alice", latest=True, awaits=True), name="first")
    happens(begun, record("paid", "alice", latest=True, awaits=True), name="second")
    assert begun.report("first", OutcomeReport(200, {}), START) == "first"
    assert [(one.decision, one.status) for one in past(begun).events] == [("second", None)]


# ── What is forgotten ─────────────────────────────────────────────────────────────────────────


def test_a_latest_only_history_keeps_the_last_event_and_stays_complete(begun: Store) -> None:
    for number in range(5):
        happens(begun, record(latest=True), name=str(number), at=START + number)
    found = past(begun)
    assert [one.decision for one in found.events] == ["4"]
    assert found.complete_after == START - 1


def test_events_outside_the_longest_window_are_evicted_and_marked_incomplete(begun: Store) -> None:
    for number in range(5):
        happens(begun, record(within=HOUR), name=str(number), at=START + number)
    happens(begun, record(within=SECOND), name="last", at=START + HOUR + 2)
    found = past(begun)
    assert [one.decision for one in found.events] == ["3", "4", "last"]
    assert found.complete_after == START + 2


def test_the_number_of_events_per_key_is_bounded(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("memory.history", "sql.history"):
        monkeypatch.setattr(f"policyengine.stores.{module}.MAX_EVENTS_PER_KEY", 20)
    for module, script in (("redis.store", "STEP"), ("redis.cluster_history", "LINES")):
        with_another_number(module, script, MOST_EVENTS, "MOST_EVENTS, SLACK, NEVER = 20", monkeypatch)
    store = fresh()
    store.begin(["paid"], START)
    for number in range(50):
        happens(store, record(), name=str(number), at=START + number)
    found = past(store)
    assert [one.decision for one in found.events] == [str(number) for number in range(30, 50)]
    assert found.complete_after == START + 29


def test_event_times_of_a_history_never_decrease(begun: Store) -> None:
    happens(begun, record(), name="first", at=START + HOUR)
    happens(begun, record(), name="second", at=START)
    first, second = past(begun).events
    assert first.at <= second.at
    assert first.serial < second.serial


def test_events_of_a_key_are_returned_in_order(begun: Store) -> None:
    for number in range(300):
        happens(begun, record("paid", "alice", number), name=str(number), at=START + number // 7)
    found = [(one.serial, one.at, one.facts) for one in past(begun).events]
    assert found == sorted(found)
    assert [facts for _, _, facts in found] == [(number,) for number in range(300)]


def test_the_redis_script_has_the_same_event_bounds_as_the_code() -> None:
    pytest.importorskip("redis")
    past = import_module("policyengine.stores.history_rows")
    assert (
        f"{MOST_EVENTS}, {past.SLACK_MICROSECONDS}, {past.NEVER}"
        in import_module("policyengine.stores.redis.store").STEP.text
    )
