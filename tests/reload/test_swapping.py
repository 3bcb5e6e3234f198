"""The swap itself: no answer is of two sets of policies, and what was counted goes on counting."""

from __future__ import annotations

import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Condition, Event

import pytest

from policyengine.audit import DecisionLog, read_records
from policyengine.engine import Engine
from policyengine.reload import ReloadableEngine, ReloadRefusedError, prepare_candidate
from policyengine.runtime.request import Request
from tests.depth import examples, scaled
from tests.reload.conftest import ASK, OPEN, QUIET, SHUT
from tests.trusting import TRUSTING

SWAPS = examples(300, 1_000)
NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def next_of(held: ReloadableEngine, text: str) -> Engine:
    return held.current.successor(Engine.from_text(text).kernel)


def swapped(held: ReloadableEngine, text: str) -> None:
    held.replace(next_of(held, text))


def test_the_log_says_whether_a_rule_has_changed(caplog: pytest.LogCaptureFixture) -> None:
    held = ReloadableEngine(Engine.from_text(OPEN))
    with caplog.at_level(logging.INFO, logger="policyengine"):
        swapped(held, f"# the same rules\n{OPEN}")
        swapped(held, SHUT)
    same, other = [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "reload"]
    assert same.startswith("reloaded, and no rule has changed: sha256:")
    assert other.startswith("the policies were reloaded: sha256:")


@scaled
@pytest.mark.parametrize("logged", [False, True])
def test_hundreds_of_swaps_under_load_never_mix_two_policies(tmp_path: Path, logged: bool) -> None:
    log = DecisionLog(tmp_path / "log.jsonl") if logged else None
    held = ReloadableEngine(Engine.from_text(OPEN, log=log))
    kernels = [Engine.from_text(text).kernel for text in (SHUT, OPEN)]
    belongs = {kernels[0].revision: "deny", kernels[1].revision: "allow"}
    over, asked = Event(), [ASK, Request.from_mapping(ASK)]
    came, latest = Condition(), set[str]()

    def load(question: object) -> tuple[int, list[object]]:
        answers, wrong = 0, []
        while not over.is_set():
            decision = held.current.decide(question)  # type: ignore[arg-type]
            answers += 1
            with came:
                latest.add(decision.revision)
                came.notify()
            rules = [one.rule for one in decision.reasons if one.rule]
            closed = ["closed"] if str(decision.outcome) == "deny" else []
            if belongs[decision.revision] != decision.outcome or rules[:1] != closed[:1]:
                wrong.append(decision)
        return answers, wrong

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load, question) for question in asked * 2]
        for number in range(SWAPS // (3 if logged else 1)):
            held.replace(held.current.successor(kernels[number % 2]))
            with came:
                latest.clear()
                assert number % 20 > 1 or came.wait_for(lambda new=kernels[number % 2].revision: new in latest, 60)
        over.set()
        came = [one.result() for one in running]
    assert [wrong for _, wrong in came] == [[]] * 4
    assert min(answers for answers, _ in came) > 0
    assert held.current.failures == 0
    if log is not None:
        records = list(read_records(log.path))
        assert len(records) == sum(answers for answers, _ in came)
        assert {(one.revision, str(one.outcome)) for one in records} == set(belongs.items())


def test_a_bad_reload_keeps_the_current_policies(folder: Path) -> None:
    held = ReloadableEngine.load(folder, rules=QUIET)
    assert held.current.decide(ASK).allowed
    (folder / "shop.policy").write_text(SHUT)
    assert held.reload()
    assert not held.current.decide(ASK).allowed
    (folder / "shop.policy").write_text("nonsense")
    assert not held.reload()
    assert held.current.revision == Engine.from_text(SHUT).revision
    assert (held.reloads.done, held.reloads.refused, held.reloads.why) == (1, 1, "1 error in the policies")


def test_loading_bad_policies_at_startup_raises(folder: Path) -> None:
    (folder / "shop.policy").write_text("nonsense")
    with pytest.raises(ReloadRefusedError):
        ReloadableEngine.load(folder, rules=QUIET)


def test_a_reload_reads_entity_rows_and_a_successor_keeps_them(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('{"entities": [{"type": "user", "id": "ann"}]}')
    held = ReloadableEngine.load(folder, rules=QUIET, entities=rows)
    rows.write_text('{"entities": [{"type": "user", "id": "bob"}]}')
    assert held.reload()
    assert [row.ref.id for row in held.current.directory] == ["bob"]
    assert held.current.successor(held.current.kernel).directory is held.current.directory


# ── What is counted ───────────────────────────────────────────────────────────────────────────

RATE = 'rate "calls" per request.path on GET /health {{ {} }}\n'


def rated(pace: str, more: str = "") -> str:
    return OPEN + RATE.format(pace) + more


def allowed(held: ReloadableEngine, many: int = 1) -> list[bool]:
    return [held.current.decide(ASK).allowed for _ in range(many)]


def test_an_unchanged_rate_keeps_its_count_after_a_reload() -> None:
    held = ReloadableEngine(Engine.from_text(rated("3/1d"), clock=Clock()))
    assert allowed(held, 2) == [True, True]
    swapped(held, rated("3/1d", "anyone { may GET /other }\n"))
    assert allowed(held, 2) == [True, False]


@pytest.mark.parametrize("pace", ["6/1d burst 3", "2/1d"])
def test_a_rate_with_another_pace_starts_a_new_count(pace: str) -> None:
    held = ReloadableEngine(Engine.from_text(rated("3/1d"), clock=Clock()))
    assert allowed(held, 4) == [True, True, True, False]
    swapped(held, rated(pace))
    most = 3 if "burst" in pace else 2
    assert allowed(held, most + 1) == [True] * most + [False]


def test_rates_of_the_same_unit_and_different_pace_count_separately() -> None:
    """1/1s and 3/1s are counted in the same unit, but fall at another speed."""
    clock = Clock()
    held = ReloadableEngine(Engine.from_text(rated("1/1s burst 2"), clock=clock))
    assert allowed(held, 3) == [True, True, False]
    swapped(held, rated("3/1s burst 3"))
    assert allowed(held, 4) == [True, True, True, False]
    swapped(held, rated("1/1s burst 2"))
    assert allowed(held, 1) == [False]
    clock.now += timedelta(seconds=1)
    assert allowed(held, 2) == [True, False]


def test_a_rate_with_a_new_clamp_starts_its_own_count() -> None:
    held = ReloadableEngine(Engine.from_text(rated("3/1d"), clock=Clock()))
    assert allowed(held, 3) == [True] * 3
    clamp = 'rate "calls" per request.path on GET /health { 3/1d  clamp 1/1d when request.method == "GET" }\n'
    swapped(held, OPEN + clamp)
    assert allowed(held, 2) == [True, False]


def test_a_budget_keeps_its_spend_when_its_bound_changes() -> None:
    budget = OPEN.replace("{", "{{").replace("}", "}}")
    budget += 'budget "calls" per request.path on GET /health {{ count <= {} within 1d }}\n'
    held = ReloadableEngine(Engine.from_text(budget.format(2), clock=Clock()))
    assert allowed(held, 3) == [True, True, False]
    swapped(held, budget.format(3))
    assert allowed(held, 2) == [True, False]


# ── What is remembered ────────────────────────────────────────────────────────────────────────

ONCE = OPEN + 'guard "once an hour" on GET /health { require no GET /health within 1h per request.path }\n'


def test_history_continues_over_a_reload() -> None:
    clock = Clock()
    held = ReloadableEngine(Engine.from_text(ONCE, clock=clock))
    clock.now += timedelta(hours=1)
    assert allowed(held) == [True]
    swapped(held, ONCE + "anyone { may GET /other }\n")
    assert allowed(held) == [False]
    clock.now += timedelta(hours=1)
    assert allowed(held) == [True]


@pytest.mark.parametrize("store", ["memory:", "sqlite:///{}/store.db"])
def test_history_is_unknown_for_a_period_without_recording(tmp_path: Path, store: str) -> None:
    from policyengine.stores.url import open_store

    clock = Clock()
    held = ReloadableEngine(Engine.from_text(ONCE, clock=clock, store=open_store(store.format(tmp_path))))
    clock.now += timedelta(hours=2)
    swapped(held, OPEN)
    assert allowed(held, 3) == [True] * 3  # which nobody writes down
    clock.now += timedelta(minutes=1)
    swapped(held, ONCE)
    assert allowed(held) == [False]
    clock.now += timedelta(hours=1)
    assert allowed(held) == [True]


def test_a_history_starts_when_the_policy_is_swapped_in() -> None:
    clock = Clock()
    held = ReloadableEngine(Engine.from_text(OPEN, clock=clock))
    engine = next_of(held, ONCE)
    clock.now += timedelta(minutes=30)
    assert allowed(held) == [True]
    held.replace(engine)
    clock.now += timedelta(minutes=45)
    assert allowed(held) == [False]
    clock.now += timedelta(minutes=15)
    assert allowed(held) == [True]


def test_a_spent_approval_stays_spent_after_a_reload() -> None:
    text = """
entity user { roles: set<string> }
anyone { may GET /x, POST /orders }
guard "orders need a person" on POST /orders { confirm by role finance within 15m }
"""
    held = ReloadableEngine(Engine.from_text(text, clock=Clock(), approvals=TRUSTING))
    order = {"request": {"method": "POST", "path": "/orders"}}
    (remedy,) = [one for one in held.current.decide(order).remedies if one.kind == "approval"]
    approval = {"id": "a-1", "by": "ann", "granted_at": NOW.isoformat(), "binding": remedy.binding}
    ann = {"type": "user", "id": "ann", "attributes": {"roles": ["finance"]}}
    asked = {**order, "approvals": [approval], "entities": [ann]}
    swapped(held, f"# a comment\n{text}")
    first = held.current.decide(asked)
    swapped(held, text)
    assert [first.allowed, held.current.decide(asked).allowed] == [True, False]


# ── The log ───────────────────────────────────────────────────────────────────────────────────


def test_a_reload_is_rejected_when_the_log_cannot_store_the_entities(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('{"entities": []}')
    held = ReloadableEngine.load(folder, rules=QUIET, entities=rows, log=DecisionLog(tmp_path / "log.jsonl"))
    rows.write_text('{"entities": [{"type": "user", "id": "bob"}]}')

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not held.reload()
    assert held.reloads.why == "the entities cannot be written to the decision log"
    assert len(held.current.directory) == 0
    assert held.reload()
    assert held.current.decide(ASK).allowed
    assert [len(record.directory or ()) for record in read_records(tmp_path / "log.jsonl")] == [1]


def test_a_prepared_candidate_decides_when_it_is_swapped_in(folder: Path) -> None:
    held = ReloadableEngine.load(folder, rules=QUIET)
    before = held.current
    held.replace(held.engine_of(prepare_candidate(held.origin)))  # type: ignore[arg-type]
    assert held.current is not before
    assert held.current.decide(ASK).allowed
    assert held.current.failures == 0
