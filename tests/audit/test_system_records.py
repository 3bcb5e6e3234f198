"""The log has lines about the server itself: reloads in words, observe mode, and failures of what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit import (
    DecisionLog,
    DecisionRecord,
    SealRecord,
    SystemEvent,
    SystemRecord,
    read_log,
    system_notes,
)
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.entities.lookup import EntityLookups, LookupEntityStore, RowLookupError
from policyengine.entities.store import EntityStore
from policyengine.log_throttle import LogThrottle
from policyengine.reload import ReloadableEngine, ReloadRules
from policyengine.reload.comparison import PolicyComparison, WideningChange
from policyengine.stores.clock_skew import ClockSkew
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.typesystem import EntityRef
from tests.stores.test_failing import Broken, Time

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
ASK = {"request": {"method": "GET", "path": "/health"}}
OPEN = """language 1
package shop
anyone { may GET /health }
guard "quiet" on GET /health { deny when request.host == "loud.example" }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def events(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of the server, with their details but the revision."""
    found = [entry for entry in read_log(path, pytest.fail) if isinstance(entry, SystemRecord)]
    return [(one.event, {name: value for name, value in one.details.items() if name != "revision"}) for one in found]


# ── Reloads ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "shop.policy").write_text(OPEN)
    return made


def held_of(folder: Path, path: Path) -> ReloadableEngine:
    rules = ReloadRules.of([], seconds=0)
    return ReloadableEngine.load(folder, log=DecisionLog(path, seal=None), rules=rules, tested=False)


def test_a_reload_is_recorded_with_the_difference_in_words(folder: Path, path: Path) -> None:
    held = held_of(folder, path)
    before = held.current.revision
    changed = OPEN.replace("loud.example", "other.example").replace("GET /health }\n", "GET /health, GET /more }\n")
    (folder / "shop.policy").write_text(changed + 'rate "calls" per request.host on GET /more { 10/1m }\n')
    assert held.reload()
    assert events(path) == [
        (
            "reload",
            {
                "before": before,
                "changes": [
                    'guard "quiet" of shop changed, at shop.policy:4',
                    "block `anyone` of shop changed, at shop.policy:3",
                    'rate "calls" of shop added, at shop.policy:5',
                ],
            },
        )
    ]
    record = next(entry for entry in read_log(path) if isinstance(entry, SystemRecord))
    assert record.revision == held.current.revision != before


def test_a_reload_of_the_same_rules_has_no_changes(folder: Path, path: Path) -> None:
    held = held_of(folder, path)
    (folder / "shop.policy").write_text(f"# a comment\n{OPEN}")
    assert held.reload()
    assert events(path) == [("reload", {"before": held.current.revision})]


def test_a_refused_reload_is_recorded_with_its_reason(folder: Path, path: Path) -> None:
    held = held_of(folder, path)
    (folder / "shop.policy").write_text(OPEN.replace("deny when", "denies when"))
    assert not held.reload()
    (folder / "shop.policy").write_text(OPEN[: OPEN.index("guard")])
    assert not held.reload()
    assert [(event, found["why"], found["reason"]) for event, found in events(path)] == [
        ("reload_refused", "1 error in the policies", "policies"),
        ("reload_refused", "1 guard is gone", "removed"),
    ]
    assert events(path)[1][1]["findings"] == ['guard "quiet" of shop, which was at shop.policy:4']


def test_the_comparison_after_a_reload_is_recorded(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widening = WideningChange('guard "quiet"', ("GET /health",), "deny -> allow")

    class Answering:
        def __init__(self, *given: object) -> None: ...
        def poll(self) -> PolicyComparison:
            return PolicyComparison((widening,), ("GET /more: too long",))

    monkeypatch.setattr("policyengine.reload.gate.ComparisonProcess", Answering)
    rules = ReloadRules.of([], seconds=5)
    held = ReloadableEngine.load(folder, log=DecisionLog(path, seal=None), rules=rules, tested=False)
    before = held.current.revision
    held.gate.swapped(held.current, Engine.from_text(OPEN.replace("loud", "other"), log=held.current.log))
    for _ in range(2):
        held.attend()
    assert events(path) == [
        (
            "reload_compared",
            {
                "before": before,
                "widens": ['deny -> allow at GET /health, by guard "quiet"'],
                "unproved": ["GET /more: too long"],
                "proved": False,
            },
        )
    ]


# ── Observe mode ──────────────────────────────────────────────────────────────────────────────


def test_observe_mode_is_recorded_when_it_begins_and_when_it_ends(path: Path) -> None:
    now = [NOW]
    engine = Engine.from_text(OPEN, clock=lambda: now[0], log=DecisionLog(path, seal=None))
    engine.observe(Observe(NOW + timedelta(days=1), ("shop",), ("GET /health",)))
    engine.decide(ASK)
    now[0] += timedelta(days=2)
    for _ in range(3):
        engine.decide(ASK)
    assert events(path) == [
        (
            "observe",
            {"state": "on", "until": "2027-01-05T12:00:00Z", "packages": ["shop"], "endpoints": ["GET /health"]},
        ),
        ("observe", {"state": "ended", "until": "2027-01-05T12:00:00Z"}),
    ]


# ── Failures ──────────────────────────────────────────────────────────────────────────────────

LIMITED = """
anyone { may GET /health }
rate "calls" per request.path on GET /health { 100/1d }
"""


class Pinged(Broken):
    def ping(self) -> None:
        self.probe()


def test_a_failing_store_is_recorded_once_and_again_when_it_works(path: Path) -> None:
    time, inner = Time(), Pinged(MemoryStore())
    store = ResilientStore(inner, clock=time)  # type: ignore[arg-type]  # it has what is asked for
    engine = Engine.from_text(LIMITED, log=DecisionLog(path, seal=None), store=store)
    for _ in range(10):
        assert not engine.decide(ASK).allowed
        time.now += 0.01
    inner.broken = False
    time.now += 60
    assert engine.decide(ASK).allowed
    assert events(path) == [
        ("store_failure", {"operation": "write", "why": "the store did not answer"}),
        ("store_recovered", {"operation": "write", "why": "the store accepts writes again"}),
    ]


def test_a_clock_that_differs_from_the_clock_of_the_store_is_recorded(path: Path) -> None:
    engine = Engine.from_text(LIMITED, log=DecisionLog(path, seal=None))
    skew = ClockSkew(1_000_000)
    skew.tell = engine.recorder.write_store_state
    for told in (10_000_000, 20_000_000, 0):
        skew.between(0, told, 0)
    assert [(event, found["operation"]) for event, found in events(path)] == [
        ("store_failure", "clock"), ("store_recovered", "clock"),
    ]  # fmt: skip


class Rows:
    """A source of rows that can fail."""

    types, attributes, identity = ("user",), {"user": frozenset({"name"})}, "rows"
    timeout, ttl, most, shown = 1.0, 0.0, 10, "rows.example"
    broken = True

    def fetch(self, refs: Sequence[EntityRef], seconds: float) -> dict[EntityRef, Any]:
        if self.broken:
            raise RowLookupError("no route", lasts=True)
        return {}


def test_a_directory_that_does_not_answer_is_recorded(path: Path) -> None:
    time, rows = Time(), Rows()
    lookups = EntityLookups([rows], time)  # type: ignore[list-item]  # it has what is asked for
    engine = Engine.from_text(OPEN, log=DecisionLog(path, seal=None))
    engine.replace_directory(LookupEntityStore(EntityStore(), lookups))
    for broken in (True, True, False):
        rows.broken = broken
        time.now += 60
        lookups.fetch([EntityRef("user", "ann")], time.now + 1)
    assert events(path) == [
        ("directory_failure", {"why": "the entity store at `rows.example` does not answer: no route"}),
        ("directory_recovered", {"why": "the entity store at `rows.example` answers again"}),
    ]


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────


def test_lines_of_one_event_are_limited_and_the_next_one_counts_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    monkeypatch.setattr(system_notes, "LogThrottle", lambda: LogThrottle(clock=time))
    notes = DecisionLog(path, seal=None).system
    written = [notes.write(SystemEvent.STORE_FAILURE, why="gone") for _ in range(100)]
    assert (sum(written), len(events(path))) == (20, 20)
    assert notes.write(SystemEvent.STORE_RECOVERED, why="back")
    time.now += 61
    assert notes.write(SystemEvent.STORE_FAILURE, why="gone")
    assert events(path)[-1] == ("store_failure", {"why": "gone", "suppressed": 80})


def test_long_details_are_cut(path: Path) -> None:
    DecisionLog(path, seal=None).system.write("reload", changes=[f"rule {n}" for n in range(1_000)], why="x" * 5_000)
    ((_, found),) = events(path)
    assert (len(found["changes"]), found["changes"][-1]) == (51, "950 more")
    assert (len(found["why"]), found["why"][-1]) == (2_000, "…")


def test_a_worker_names_itself(path: Path) -> None:
    notes = DecisionLog(path, seal=None).system
    notes.worker = 3
    notes.write("stopped")
    (record,) = read_log(path)
    assert isinstance(record, SystemRecord)
    assert (record.event, record.worker, record.details) == ("stopped", 3, {"worker": 3})


def test_a_system_line_starts_no_thread_of_the_seal(path: Path) -> None:
    log = DecisionLog(path)
    log.system.write("started")
    assert log.sealer is not None
    assert not log.sealer.is_awake
    log.note_outcome({"decision": "x"}, 0)
    assert log.sealer.is_awake
    log.close()


# ── The reader ────────────────────────────────────────────────────────────────────────────────


def test_lines_of_earlier_versions_are_read_beside_new_ones(path: Path) -> None:
    engine = Engine.from_text(OPEN, log=DecisionLog(path, seal=None))
    first = engine.decide(ASK)
    path.write_bytes(path.read_bytes().replace(b'{"v":2,', b'{"v":1,'))
    second = engine.decide(ASK)
    assert [entry.id for entry in read_log(path, pytest.fail) if isinstance(entry, DecisionRecord)] == [
        first.id, second.id,
    ]  # fmt: skip


@pytest.mark.parametrize("versions", [(1, 2), (2, 1), (2, 2)])
def test_a_torn_line_does_not_hide_the_next_one_of_another_version(path: Path, versions: tuple[int, int]) -> None:
    Engine.from_text(OPEN, log=DecisionLog(path, seal=None)).decide(ASK)
    torn, whole = (path.read_bytes().replace(b'{"v":2,', b'{"v":%d,' % version) for version in versions)
    path.write_bytes(torn[:60] + whole)
    told: list[str] = []
    assert len(list(read_log(path, told.append))) == 1
    assert told == [f"{path}:1: skipped the line before this one: it was cut off"]


def test_notes_of_the_seal_are_read(path: Path) -> None:
    DecisionLog(path, seal=None).note_seal({"event": "key", "note": "n"})
    (record,) = read_log(path, pytest.fail)
    assert isinstance(record, SealRecord)
    assert (record.event, record.details) == ("key", {"note": "n"})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('"outcome":{}', "it is not a valid outcome ('decision')"),
        ('"outcome":[]', "its `outcome` is not an object"),
        ('"outcome":{"decision":7}', "its `decision` is not the id of a decision"),
        ('"outcome":{"decision":"x","status":"200"}', "its `status` is not a number"),
        ('"outcome":{"decision":"x","size":true}', "its `size` is not a number"),
        ('"outcome":{"decision":"x","usage":[]}', "its `usage` is not an object"),
        ('"system":{}', "it is not a valid system event ('event')"),
        ('"system":{"event":7}', "its `event` is not a string"),
        ('"seal":{}', "it is not a valid note of the seal ('event')"),
    ],
)
def test_an_invalid_line_is_reported(path: Path, line: str, why: str) -> None:
    path.write_text(f'{{"v":2,"time":"2027-01-04T12:00:00Z",{line}}}\n')
    told: list[str] = []
    assert list(read_log(path, told.append)) == []
    assert told == [f"{path}:1: skipped this line: {why}"]
