"""Decisions know the group of a caller: in rates, answers, the log and replay; and it survives restarts."""

from __future__ import annotations

import gc
import logging
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.audit.replay import replay_decision
from policyengine.behavior import group_search, recent_requests
from policyengine.behavior.events import ALLOWED, Caller
from policyengine.behavior.folder import BehaviorFolder, BehaviorFolderError
from policyengine.behavior.group_search import find_groups_of
from policyengine.behavior.lockstep import columns as lockstep_columns
from policyengine.behavior.lockstep.bounds import DAY
from policyengine.behavior.lockstep.detection import LockstepError
from policyengine.behavior.lockstep.search_process import PoolSearch
from policyengine.behavior.member_keys import MemberKeys
from policyengine.behavior.recent_file import RecentFile
from policyengine.behavior.recent_requests import DayRequests, RecentRequests, RequestsError
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.snapshot import UNREADABLE_FACTS
from tests import forking
from tests.behavior.callers import UnreadableBehavior
from tests.behavior.keys_of_one_clock import BEGIN, POLICY, Clockwork

KEYS = [f"key-{number}" for number in range(6)]
NOON = BEGIN + timedelta(days=1, hours=12)
CLAMPED = POLICY.replace("600/1m floor 6/1m", "600/1m   clamp 60/1m when cluster.size > 3")


@pytest.fixture(autouse=True)
def forked_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that search for groups, instead of starting each with its imports."""
    monkeypatch.setattr(sys, "executable", forking.python())


def ring(text: str = POLICY, **options: object) -> Clockwork:
    """Return a day of six keys that one clock starts, before the search."""
    clockwork = Clockwork(text, **options)
    clockwork.begin_day(0)
    clockwork.run_days([0], KEYS, ["tenant"])
    return clockwork


def test_the_answer_names_the_group_and_its_size():
    clockwork = ring()
    clockwork.begin_day(1)
    member, tenant = clockwork.decide("key-0", NOON), clockwork.decide("tenant", NOON)
    assert len(member.principal.cluster) == 24
    assert member.to_dict()["principal"]["cluster_size"] == 6
    assert tenant.to_dict()["principal"]["cluster"] == "tenant"
    assert "cluster_size" not in tenant.to_dict()["principal"]


def test_a_clamp_may_require_a_group():
    clockwork = ring(CLAMPED)
    clockwork.begin_day(1)
    allowed = {
        name: sum(clockwork.decide(name, NOON).allowed for _ in range(100)) for name in ("key-0", "key-1", "tenant")
    }
    assert allowed == {"key-0": 60, "key-1": 0, "tenant": 100}


def test_the_log_has_the_group_and_decisions_are_replayed_with_it(tmp_path: Path):
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    clockwork = Clockwork(log=log)
    clockwork.begin_day(0)
    clockwork.run_days([0], KEYS, ["tenant"])
    clockwork.begin_day(1)
    group = clockwork.decide("key-0", NOON).principal.cluster
    clockwork.decide("tenant", NOON)
    log.close()
    *_, member, tenant = read_records(tmp_path / "log.jsonl", print)
    facts = member.behavior.facts
    assert (facts["cluster.id"], facts["cluster.size"]) == (group, 6)
    assert "cluster.id" not in tenant.behavior.facts
    for record in (member, tenant):
        assert replay_decision(record, clockwork.engine.kernel).decision.principal == record_principal(record)


def record_principal(record):
    from policyengine.runtime.decision import Principal

    found = record.decision["principal"]
    return Principal(**{**found, "chain": tuple(found["chain"])})


def test_an_evaluation_counts_the_same_part_and_takes_nothing():
    clockwork = ring()
    clockwork.begin_day(1)
    clockwork.now = NOON
    question = {"agent": {"id": "key-0", "issuer": "acme"}, "request": {"method": "POST", "path": "/quotes"}}
    seen = [clockwork.engine.evaluate(question).rates[0] for _ in range(3)]
    assert {(one.limit, one.remaining) for one in seen} == {(6, 5)}


# ── Unknown never opens ──────────────────────────────────────────────────────────────────────────


def test_a_group_that_cannot_be_read_denies(monkeypatch: pytest.MonkeyPatch):
    clockwork = ring()
    decider = clockwork.engine.decider
    monkeypatch.setattr(decider, "behavior", UnreadableBehavior(decider.behavior))
    denied = clockwork.decide("tenant", NOON)
    assert denied.outcome == "deny"
    assert [one.fact for one in denied.unknown] == ["cluster.id", "cluster.size"]
    assert "cluster.id" in UNREADABLE_FACTS


# ── The search ───────────────────────────────────────────────────────────────────────────────────


def test_decisions_wait_for_no_search(monkeypatch: pytest.MonkeyPatch):
    """The first decision of a day learns the model, and the thread searches groups."""
    clockwork = ring()
    monkeypatch.setattr(group_search, "find_pools", lambda *_: pytest.fail("a decision searched"))
    clockwork.decide("tenant", BEGIN + timedelta(days=1))
    assert clockwork.groups() == []
    clockwork.engine.behavior.keep()
    assert clockwork.groups() == [6]


def test_groups_are_searched_once_a_day(monkeypatch: pytest.MonkeyPatch):
    clockwork, searches = ring(), []
    monkeypatch.setattr(PoolSearch, "find", lambda _, columns, ready: searches.append(len(columns)) or ())
    for _ in range(3):
        clockwork.begin_day(1)
    assert searches == [len(KEYS) * 36 + 36 + 1]


def test_a_clock_that_was_in_the_future_stops_no_later_search():
    """The clock was wrong before a restart: the folder has requests of another year."""
    clockwork = Clockwork()
    day = BEGIN.timestamp() * 1_000 // DAY
    clockwork.engine.behavior.state.requests.add(int(day + 400) * DAY, Caller("acme", "tenant"), 1, 1, ALLOWED)
    clockwork.decide("tenant", BEGIN)
    clockwork.engine.behavior.keep()
    clockwork.run_days([0, 1, 2], KEYS, ["tenant"])
    clockwork.begin_day(3)
    assert clockwork.groups() == [6]
    assert sorted(clockwork.engine.behavior.state.requests.days) == [day, day + 1, day + 2, day + 3]


def test_a_search_that_fails_is_logged_and_leaves_the_groups(monkeypatch, caplog):
    clockwork = ring()
    clockwork.begin_day(1)

    def fail(*_: object) -> None:
        raise LockstepError("groups are found with numpy, `pip install policyengine[behavior]`")

    monkeypatch.setattr(PoolSearch, "find", fail)
    with caplog.at_level(logging.WARNING, "policyengine"):
        clockwork.begin_day(2)
        clockwork.begin_day(2)
    assert clockwork.groups() == [6]
    [record] = caplog.records
    assert record.message == (
        "callers that move as one cannot be found: groups are found with numpy, `pip install policyengine[behavior]`; "
        "known groups are kept"
    )
    assert record.event == "behavior_groups_missing"


def test_a_search_in_a_process_that_fails_says_why(monkeypatch):
    search = PoolSearch()
    monkeypatch.setattr("policyengine.behavior.lockstep.search_process.COMMAND", "import sys; sys.exit('no memory')")
    columns, _ = RecentRequests().window(20_000)
    with pytest.raises(LockstepError, match="no memory"):
        search.find(columns, [])
    monkeypatch.setattr("policyengine.behavior.lockstep.search_process.COMMAND", "print('?')")
    with pytest.raises(LockstepError, match="the search failed"):
        search.find(columns, [])
    search.stop()
    with pytest.raises(LockstepError, match="stopped"):
        search.find(columns, [])
    search.restart()
    monkeypatch.undo()
    assert search.find(columns, []) == ()


def test_nothing_is_recorded_if_no_rule_reads_groups():
    clockwork = Clockwork(POLICY.replace("per cluster.id", "per agent.id").replace(" floor 6/1m", ""))
    assert clockwork.engine.behavior is None
    text = POLICY.replace("per cluster.id", "per agent.id").replace("floor 6/1m", "clamp 6/1m when behavior.burst")
    clockwork = ring(text)
    assert not clockwork.engine.behavior.state.requests.days


def test_an_operator_takes_a_caller_out_of_its_group():
    clockwork = ring()
    clockwork.begin_day(1)
    tracker = clockwork.engine.behavior
    assert tracker.forget(next(caller for caller in tracker.state.rows if caller.agent == "key-0"))
    assert clockwork.groups() == [5]
    assert clockwork.decide("key-0", NOON).principal.cluster == "key-0"


# ── The folder ───────────────────────────────────────────────────────────────────────────────────


def test_groups_and_the_requests_of_the_last_days_survive_a_restart(tmp_path: Path):
    clockwork = ring(behavior=tmp_path / "learned")
    clockwork.engine.behavior.close()
    again = Clockwork(behavior=tmp_path / "learned")
    again.begin_day(1)
    assert again.groups() == [6]
    group = again.decide("key-0", NOON).principal.cluster
    again.engine.behavior.close()
    last = Clockwork(behavior=tmp_path / "learned")
    assert last.decide("key-0", NOON).principal.cluster == group
    last.engine.behavior.close()


def test_requests_are_saved_in_parts_and_old_days_are_dropped(tmp_path: Path):
    clockwork = Clockwork(behavior=tmp_path / "learned")
    for day in range(6):
        clockwork.begin_day(day)
        clockwork.run_days([day], KEYS[:2])
        clockwork.engine.behavior.keep()
    kept = clockwork.engine.behavior.state.requests
    clockwork.engine.behavior.close()
    tracker = BehaviorTracker.open(tmp_path / "learned")
    assert list(tracker.state.requests.days) == list(kept.days)
    assert len(tracker.state.requests) == len(kept)
    assert len(kept.days) == recent_requests.SEARCHED_DAYS + 1
    tracker.close()


def test_a_part_that_was_not_written_completely_is_ignored(tmp_path: Path):
    folder = BehaviorFolder(tmp_path / "learned")
    file = RecentFile(folder)
    file.append([b"one", b"two"])
    path = tmp_path / "learned" / "recent"
    path.write_bytes(path.read_bytes()[:-1])
    again = RecentFile(folder)
    assert list(again.load()) == [b"one"]
    again.append([b"three"])
    assert list(RecentFile(folder).load()) == [b"one", b"three"]


def test_parts_that_cannot_be_written_are_appended_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = BehaviorFolder(tmp_path / "learned")
    file = RecentFile(folder)
    file.append([b"one"])

    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="full"):
            file.append([b"two"])
        with pytest.raises(OSError, match="full"):
            file.replace(folder, [b"two"])
    assert list(RecentFile(folder).load())[:1] == [b"one"]
    file.append([b"two", b"three"])
    assert list(RecentFile(folder).load()) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("place", [6, 40, -1])
def test_a_changed_part_and_all_after_it_are_ignored(tmp_path: Path, place: int):
    folder = BehaviorFolder(tmp_path / "learned")
    RecentFile(folder).append([b"one", b"two"])
    path = tmp_path / "learned" / "recent"
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    assert list(RecentFile(folder).load()) in ([], [b"one"])
    other = BehaviorFolder(tmp_path / "other")
    (tmp_path / "other" / "recent").write_bytes(bytes(raw))
    assert list(RecentFile(other).load()) == []


def test_parts_that_are_no_requests_are_refused(tmp_path: Path):
    folder = BehaviorFolder(tmp_path / "learned")
    RecentFile(folder).append([b"one"])
    with pytest.raises(BehaviorFolderError, match="are damaged"):
        BehaviorTracker.open(tmp_path / "learned")


# ── Requests ─────────────────────────────────────────────────────────────────────────────────────


def test_packed_requests_come_back():
    day = DayRequests(20_000)
    for number in range(10):
        day.add(20_000 * 86_400_000 + number, "acme", f"bot-{number % 3}", number, number + 1)
    found = RecentRequests()
    found.merge(day.pack(0, 4))
    found.merge(day.pack(4, day.count))
    assert found.days[20_000].columns.times == day.columns.times
    columns, callers = found.window(20_001)
    assert [columns.begin + at for at in columns.times] == [day.columns.begin + at for at in day.columns.times]
    assert (callers, columns.callers) == (day.callers(), day.columns.callers)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc0", b"\x96\x01\x90\xc4\x01a\xc4\x00\xc4\x00\xc4\x00", b"\x96\xff\x90\xc4\x00\xc4\x00\xc4\x00\xc4\x00"],
)
def test_bytes_that_are_no_requests_are_refused(raw: bytes):
    with pytest.raises(RequestsError):
        RecentRequests().merge(raw)


def test_requests_of_callers_beyond_the_maximum_of_a_window_are_left_out(monkeypatch: pytest.MonkeyPatch):
    """Their numbers would not fit into the bits of a pair of callers."""
    for module in (recent_requests, lockstep_columns):
        monkeypatch.setattr(module, "MAX_CALLERS", 3)
    requests = RecentRequests()
    for number in range(4):
        for agent in ("bot-1", f"other-{number}", "bot-2"):
            requests.add((20_000 + number % 2) * 86_400_000 + number, Caller("acme", agent), 1, 1, ALLOWED)
    columns, callers = requests.window(20_002)
    assert callers == [("acme", "bot-1"), ("acme", "other-0"), ("acme", "bot-2")]
    assert (len(columns), set(columns.callers), columns.crowded) == (9, {0, 1, 2}, 1)


def test_no_search_makes_an_object_for_each_caller():
    """A full garbage collection, for which decisions wait, follows when many objects are new."""
    requests, counted = RecentRequests(), []
    for number in range(5_000):
        requests.add(20_000 * 86_400_000 + number, Caller("acme", f"bot-{number}"), 1, 1, ALLOWED)

    def find(*_: object) -> tuple[()]:
        gc.collect(0)  # leaves out tuples of texts, which full collections do not visit
        counted.append(len(gc.get_objects()))
        return ()

    gc.collect()
    before = len(gc.get_objects())
    assert find_groups_of(requests, (), {}, MemberKeys(b"k" * 32), 20_001, find) == ()
    assert counted[0] - before < 1_000


def test_too_many_requests_of_a_day_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recent_requests, "MAX_DAY_EVENTS", 3)
    day = DayRequests(20_000)
    for number in range(5):
        day.add(20_000 * 86_400_000 + number, "acme", "bot", 1, 1)
    assert (day.count, day.left_out) == (3, 2)


# ── Other ways to decide ─────────────────────────────────────────────────────────────────────────


QUESTION = {"agent": {"id": "key-0", "issuer": "acme"}, "request": {"method": "POST", "path": "/quotes"}}


@pytest.fixture
def grouped(tmp_path: Path) -> Clockwork:
    clockwork = ring(log=DecisionLog(tmp_path / "log.jsonl", seal=None))
    clockwork.begin_day(1)
    clockwork.now = NOON
    return clockwork


def test_a_batch_charges_the_parts_of_a_member_one_after_the_other(grouped: Clockwork):
    found = grouped.engine.decide_many([QUESTION] * 8)
    assert [one.rates[0].limit for one in found] == [6] * 6 + [564] * 2


def test_a_repeated_idempotency_key_has_the_same_part(grouped: Clockwork):
    key = IdempotencyKey("gateway", "one", "digest")
    found = [grouped.engine.decide_once(QUESTION, key).decision for _ in range(2)]
    assert [one.rates[0].remaining for one in found] == [5, 5]


def test_a_throttle_by_either_part_is_replayed(grouped: Clockwork, tmp_path: Path):
    while grouped.engine.decide(QUESTION).allowed:
        pass
    grouped.engine.decider._recorder.log.close()
    *_, allowed, throttled = read_records(tmp_path / "log.jsonl", print)
    for record in (allowed, throttled):
        again = replay_decision(record, grouped.engine.kernel)
        assert str(again.decision.outcome) == record.decision["outcome"]


def test_an_explanation_shows_both_parts_and_the_group(grouped: Clockwork):
    assert "✓ cluster.size = 6\n    ✓ floor 6/1m — 5 of 6 left" in grouped.engine.explain(QUESTION).render()
    for _ in range(7):
        grouped.engine.decide(QUESTION)
    text = grouped.engine.explain(QUESTION).render()
    assert "✓ 600/1m shared by 6 callers — 562 of 564 left" in text
    while grouped.engine.decide(QUESTION).allowed:
        pass
    assert "✗ 600/1m shared by 6 callers — 0 of 564 left" in grouped.engine.explain(QUESTION).render()


def test_requests_beyond_a_maximum_are_left_out_when_they_are_loaded(monkeypatch: pytest.MonkeyPatch):
    day = DayRequests(20_000)
    for number in range(6):
        day.add(20_000 * 86_400_000 + number, "acme", f"bot-{number % 2}", number, 1)
    packed = day.pack(0, day.count)
    monkeypatch.setattr(recent_requests, "MAX_CALLER_EVENTS", 2)
    found = RecentRequests()
    found.merge(packed)
    assert list(found.days[20_000].columns.endpoints) == [0, 1, 2, 3]
    assert found.left_out == 2
    monkeypatch.setattr(recent_requests, "MAX_DAY_EVENTS", 3)
    found = RecentRequests()
    found.merge(packed)
    assert list(found.days[20_000].columns.endpoints) == [0, 1, 2]
