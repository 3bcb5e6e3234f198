"""Every exception inside the engine is a deny at gate `failure`, counted and logged once; nothing is spent twice."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit import DecisionLog, read_records
from policyengine.engine import Engine, batch
from policyengine.engine import engine as engine_module
from policyengine.engine.charges import apply_charges
from policyengine.engine.observe_mode import Observe
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.request import Request, RequestError
from policyengine.stores.base import CommitRequest, CommitResult, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.spec.deciding import row
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
package shop
entity user { roles: set<string> }
facts on POST /pay { body.amount: number }
anyone { may GET /health, POST /pay, GET /after }
guard "large" on POST /pay { confirm by role finance within 1h when body.amount > 500 }
guard "quiet" on GET /after { deny when after POST /pay within 1h per (request.ip) }
rate "pays" per request.ip on POST /pay { 2/1h }
"""
STAFF = EntityStore([row("user fin", {"roles": ["finance"]})])
HEALTH = {"request": {"method": "GET", "path": "/health", "ip": "8.8.8.8"}}
AFTER = {"request": {"method": "GET", "path": "/after", "ip": "8.8.8.8"}}
PAY: dict[str, Any] = {"request": {"method": "POST", "path": "/pay", "ip": "8.8.8.8"}, "body": {"amount": 5}}
SECRET = "v3ry-s3cret"

Ask = Callable[[Engine, Any], Decision]


def decide_once(engine: Engine, question: Any) -> Decision:
    return engine.decide_once(question, IdempotencyKey("gateway", "key", "digest")).decision


def decide_many(engine: Engine, question: Any) -> Decision:
    (found,) = engine.decide_many([question])
    assert isinstance(found, Decision)
    return found


WAYS: dict[str, Ask] = {
    "decide": lambda engine, question: engine.decide(question),
    "without waiting": lambda engine, question: engine.decide(question, without_waiting=True),
    "JSON": lambda engine, question: engine.decide(json.dumps(question)),
    "request": lambda engine, question: engine.decide(Request.from_mapping(question)),
    "evaluate": lambda engine, question: engine.evaluate(question),
    "async": lambda engine, question: asyncio.run(engine.decide_async(question)),
    "explain": lambda engine, question: engine.explain(question).decision,
    "once": decide_once,
    "many": decide_many,
}


class Clock:
    """A clock that can fail."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __call__(self) -> datetime:
        if self.error is not None:
            raise self.error
        return NOW


def engine_of(store: Any = None, **more: Any) -> Engine:
    kept = store or MemoryStore(history_complete=True)
    return Engine.from_text(POLICY, "shop.policy", directory=STAFF, store=kept, approvals=TRUSTING, **more)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def check_denied(engine: Engine, decision: Decision, caplog: pytest.LogCaptureFixture) -> None:
    assert (decision.outcome, decision.gate) == (Outcome.DENY, Gate.FAILURE)
    assert (decision.package, decision.revision) == ("shop", engine.revision)
    assert len(decision.id) == 26
    assert SECRET not in str(decision.to_dict())
    assert engine.failures == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]


# ── Faults in each part ───────────────────────────────────────────────────────────────────────

ERRORS = [ValueError(SECRET), RecursionError(), KeyError("x"), AssertionError(), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", WAYS)
def test_a_failing_evaluator_denies(
    way: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of()
    monkeypatch.setattr(engine.decider.compiled.evaluator, "plan", raising(error))
    monkeypatch.setattr(engine.decider.compiled.evaluator, "resume", raising(error))
    check_denied(engine, WAYS[way](engine, AFTER), caplog)


QUESTIONS = {"health": HEALTH, "pay": PAY, "after": AFTER}


@pytest.mark.parametrize(
    ("part", "name", "approved"),
    [
        *(("plan", name, False) for name in QUESTIONS),
        ("resume", "after", False),  # only a question about the history is resumed
        *((part, name, True) for part in ("find_windows", "decide") for name in QUESTIONS),
    ],
)
def test_a_failing_walker_denies(part: str, name: str, approved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    monkeypatch.setattr(f"policyengine.compiler.evaluator.walker.{part}", raising(ValueError(SECRET)))
    approval = {"id": "a", "by": "fin", "granted_at": NOW.isoformat(), "binding": "x"}
    decision = engine.decide({**QUESTIONS[name], **({"approvals": [approval]} if approved else {})})
    assert (decision.outcome, decision.gate, engine.failures) == (Outcome.DENY, Gate.FAILURE, 1)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "request"])
def test_a_failing_reader_of_questions_denies(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of()
    error = raising(ValueError(SECRET))
    monkeypatch.setattr(engine_module, "read_ordinary_request", error)
    monkeypatch.setattr(Request, "from_mapping", error)
    monkeypatch.setattr(Request, "from_json", error)
    check_denied(engine, WAYS[way](engine, HEALTH), caplog)


@pytest.mark.parametrize("way", WAYS)
def test_a_malformed_question_is_no_failure(way: str) -> None:
    engine = engine_of()
    malformed = {**HEALTH, "user": {"id": "a", "roles": []}}
    if way == "many":
        assert isinstance(engine.decide_many([malformed])[0], RequestError)
    else:
        with pytest.raises(RequestError):
            WAYS[way](engine, malformed)
    assert engine.failures == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_clock_denies(way: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    engine = engine_of(clock=clock)
    clock.error = OSError("no time")
    check_denied(engine, WAYS[way](engine, HEALTH), caplog)


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_source_of_ids_denies(way: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(ids=raising(OSError("no ids")))
    check_denied(engine, WAYS[way](engine, HEALTH), caplog)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "explain"])
@pytest.mark.parametrize("method", ["commit", "fetch", "spent_among", "claim"])
@pytest.mark.parametrize("error", [ValueError(SECRET), StoreError(SECRET)], ids=["error", "no answer"])
def test_a_failing_store_denies_what_needs_it(
    way: str, method: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(history_complete=True)
    engine = engine_of(store, clock=lambda: NOW)
    question = {"commit": PAY, "fetch": AFTER, "claim": HEALTH}.get(method) or {
        **PAY, "approvals": [{"id": "a", "by": "fin", "granted_at": NOW.isoformat(), "binding": "x"}]
    }  # fmt: skip
    monkeypatch.setattr(store, method, raising(error))
    decision = WAYS[way](engine, question)
    if method == "claim" and (way != "once" or isinstance(error, StoreError)):
        assert decision.allowed  # without a key, or decided without it
        assert engine.failures == 0
        return
    assert (decision.outcome, decision.gate) == (Outcome.DENY, Gate.FAILURE)
    assert SECRET not in str(decision.to_dict())
    assert engine.failures == 1
    assert len([record for record in caplog.records if record.exc_info]) == (not isinstance(error, StoreError))


class Many(SqliteStore):
    """A store outside this process, whose answers to many commits can be replaced."""

    fails: Callable[[Sequence[CommitRequest]], list[CommitResult]] | None = None

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
        return super().commit_many(asked, now) if self.fails is None else self.fails(asked)


@pytest.mark.parametrize(
    "fails",
    [raising(ValueError(SECRET)), raising(StoreError(SECRET)), lambda asked: [], lambda asked: ["odd"] * len(asked)],
    ids=["error", "no answer", "too few answers", "odd answers"],
)
def test_a_failing_commit_of_a_batch_denies_every_decision_that_needs_it(
    fails: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = Many(":memory:"), tmp_path / "log.jsonl"
    engine = engine_of(store, log=DecisionLog(path))
    monkeypatch.setattr(store, "fails", fails)
    found = engine.decide_many([PAY, HEALTH, {"no": "question"}, PAY])
    gates = [one.gate if isinstance(one, Decision) else "refused" for one in found]
    assert gates == [Gate.FAILURE, None, "refused", Gate.FAILURE]
    assert engine.failures == 2
    assert [record.id for record in read_records(path)] == [one.id for one in found if isinstance(one, Decision)]
    monkeypatch.setattr(store, "fails", None)
    assert [one.outcome for one in engine.decide_many([PAY] * 3)] == ["allow", "allow", "throttle"]  # type: ignore[union-attr]


def test_a_failing_answer_of_one_batch_item_denies_that_item(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(Many(":memory:"))
    calls: list[object] = []

    def failing(decision: Decision, effects: Effects, result: Any) -> Decision:
        calls.append(result)
        if len(calls) == 1:
            raise ValueError(SECRET)
        return apply_charges(decision, effects, result)

    monkeypatch.setattr(batch, "apply_charges", failing)
    first, second = engine.decide_many([PAY, PAY])
    assert isinstance(first, Decision)
    assert isinstance(second, Decision)
    assert (first.gate, second.gate) == (Gate.FAILURE, None)
    assert engine.failures == 1


@pytest.mark.parametrize("error", [ValueError(SECRET), StoreError(SECRET)], ids=["error", "no answer"])
def test_a_claim_that_cannot_be_released_still_gets_its_deny(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    engine = engine_of(store)
    monkeypatch.setattr(engine.decider.compiled.evaluator, "plan", raising(ValueError(SECRET)))
    monkeypatch.setattr(store, "release", raising(error))
    assert decide_once(engine, PAY).gate is Gate.FAILURE
    assert engine.failures == 1


# ── Log and observe mode ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", [way for way in WAYS if way != "explain"])
@pytest.mark.parametrize("part", ["_writer_for", "_file.append_all"])
def test_a_decision_whose_log_line_fails_is_denied_and_spent_once(
    way: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    store = MemoryStore()
    engine = Engine.from_text(
        POLICY + 'guard "all" { audit full }', directory=STAFF, store=store, log=log, clock=lambda: NOW
    )
    with monkeypatch.context() as patch:
        owner, name = (log._file, "append_all") if part == "_file.append_all" else (log, part)
        patch.setattr(owner, name, raising(ValueError(SECRET)))
        decision = WAYS[way](engine, PAY)
    assert (decision.outcome, decision.gate) == (Outcome.DENY, Gate.FAILURE)
    assert log.failures == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]
    spent = 0 if way == "evaluate" else 1
    assert [engine.decide(PAY).outcome for _ in range(2)] == (["allow"] * 2 if spent == 0 else ["allow", "throttle"])


@pytest.mark.parametrize("on_failure", ["deny", "continue"])
def test_on_failure_decides_what_happens_to_a_decision_that_cannot_be_logged(
    on_failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", on_failure=on_failure)
    engine = engine_of(log=log)
    monkeypatch.setattr(log._file, "append_all", raising(RuntimeError(SECRET)))
    assert engine.decide(HEALTH).allowed is (on_failure == "continue")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "request"])
def test_a_question_that_cannot_be_read_is_logged_without_its_members(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    engine = engine_of(log=DecisionLog(path))
    question = {**HEALTH, "credentials": {"authorization": f"Bearer {SECRET}"}}
    error = raising(ValueError("no"))
    monkeypatch.setattr(engine_module, "read_ordinary_request", error)
    monkeypatch.setattr(Request, "from_json", error)
    monkeypatch.setattr(Request, "from_mapping", error)
    decision = WAYS[way](engine, question)
    assert SECRET not in path.read_text()
    records = list(read_records(path))
    assert [record.id for record in records] == ([] if way == "explain" else [decision.id])
    assert all(record.request == {} for record in records)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "explain"])
def test_a_failing_observe_mode_denies(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"
    engine = engine_of(log=DecisionLog(path))
    engine.observe(Observe(datetime.now(UTC) + timedelta(hours=1)))
    monkeypatch.setattr(engine.recorder.observer, "given", raising(ValueError(SECRET)))
    decision = WAYS[way](engine, HEALTH)
    check_denied(engine, decision, caplog)
    assert [record.id for record in read_records(path)] == [decision.id]


def test_failures_are_logged_with_the_id_of_the_decision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of()
    monkeypatch.setattr(engine.decider.compiled.evaluator, "plan", raising(ValueError(SECRET)))
    with caplog.at_level(logging.ERROR, logger="policyengine"):
        decision = engine.decide(HEALTH)
    assert [record.decision for record in caplog.records] == [decision.id]  # type: ignore[attr-defined]
