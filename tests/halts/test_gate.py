"""The gate `halted`: where it stands, that nothing is spent there, and that every way to decide passes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog, read_records
from policyengine.audit.replay import confirm_replay, replay_decision
from policyengine.clock import epoch_nanoseconds
from policyengine.engine.observe_mode import Observe
from policyengine.entities.store import EntityStore
from policyengine.evaluator.verdicts import NO_EFFECTS
from policyengine.explain.agreement import check_agreement
from policyengine.halts.errors import HaltError
from policyengine.runtime.decision import Gate
from policyengine.runtime.halts import ArmedHalt, Halt, HaltSet
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import trace_request
from policyengine.stores.memory.store import MemoryStore
from tests.depth import examples, scaled
from tests.generate.cases import cases
from tests.halts.halting import BEGIN, HOUR, POLICY, Clock, create, outcome, question

REFUND = question("/v1/refunds/7", "POST")


# ── Its place ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "asked",
    [
        question(),
        question(agent={"id": "stranger", "issuer": "acme"}),  # before the identity
        question("/nowhere"),  # before the grants
        question("/health", agent=None, user=None),  # also what is open to anyone
        question(chain={"hops": [{"agent": "x"}]}),
        REFUND,
    ],
)
def test_a_halt_comes_before_every_gate_but_the_path(asked: dict[str, Any]) -> None:
    engine = create()
    engine.halt(reason="an incident", end=2 * HOUR, everything=True)
    decision = engine.decide(asked)
    assert (decision.outcome, decision.gate) == ("deny", Gate.HALTED)
    [reason] = decision.reasons
    assert (reason.gate, reason.message) == (Gate.HALTED, "halted until 2026-03-02T12:00:00Z: an incident")
    assert decision.remedies == decision.obligations == decision.rates == decision.unknown == ()


def test_a_malformed_path_is_not_halted() -> None:
    engine = create()
    engine.halt(reason="an incident", end=HOUR, everything=True)
    assert outcome(engine, question("/a//b")) == "deny malformed_path"


def test_the_message_never_names_the_operator_or_the_scope() -> None:
    engine = create()
    engine.halt(reason="an incident", end=HOUR, user="alice", by="the operator's token")
    written = engine.decide(question()).to_json().decode()
    assert "operator" not in written
    assert engine.explain(question()).render().splitlines()[-1].startswith("✗ halted — halted until")


@scaled
@pytest.mark.parametrize("first", range(0, examples(20, 80), 10))
def test_evaluator_and_specification_halt_alike(first: int) -> None:
    """Generated policies, requests and halts: the same decision, whichever of both finds the halt."""
    draw, halted = Random(first), 0
    for case in (one for seed in range(first, first + 10) for one in cases(seed, 20)):
        kernel, request = case.kernel, case.request
        evaluator = Engine(kernel, clock=lambda: BEGIN).decider.compiled.evaluator
        snapshot = Snapshot(EntityStore(), halts=HaltSet(map(ArmedHalt, drawn_halts(draw, kernel.packages))))
        facts = build_facts(kernel, request, snapshot, BEGIN)
        trace = trace_request(facts, snapshot)
        halt = None if snapshot.halts is None else evaluator.find_halt(request, snapshot.halts)
        assert (None if halt is None else halt.message) == trace.halted
        if halt is not None:
            decision = evaluator.deny_halted(request, halt, epoch_nanoseconds(BEGIN))
            check_agreement(facts, trace, decision, NO_EFFECTS)
            halted += 1
    assert halted > 20


def drawn_halts(draw: Random, packages: tuple[str, ...]) -> list[Halt]:
    scopes = [
        {"everything": True}, {"agent": "*"}, {"agent": "b*"}, {"issuer": "acme"}, {"user": "alice"},
        {"package": draw.choice(packages)}, {"chain_root": "*"}, {"tool": "*"}, {"task": "*"},
    ]  # fmt: skip
    return [
        Halt(str(number), f"reason {number}", 0, 2_000_000_000 + draw.randrange(3), **draw.choice(scopes))  # type: ignore[arg-type]
        for number in range(draw.randrange(1, 4))
    ]


# ── Nothing is spent ──────────────────────────────────────────────────────────────────────────


def test_a_halted_request_spends_nothing() -> None:
    engine = create()
    halt = engine.halt(reason="stop", end=HOUR, agent="bot")
    for _ in range(5):
        assert outcome(engine, REFUND) == "deny halted"
    engine.lift(halt.id, reason="mended")
    assert [outcome(engine, REFUND) for _ in range(3)] == ["allow", "allow", "throttle rate"]


def test_observe_mode_does_not_let_a_halted_request_pass() -> None:
    engine = create()
    engine.observe(Observe(BEGIN + timedelta(days=1)))
    engine.halt(reason="stop", end=HOUR, agent="bot")
    assert not engine.decide(question()).allowed
    assert engine.decide(question("/nowhere", agent={"id": "x", "issuer": "acme"})).allowed


def key(text: str = "k") -> IdempotencyKey:
    return IdempotencyKey("edge", text, "digest")


def test_a_key_whose_request_was_allowed_is_halted_too() -> None:
    engine = create()
    first = engine.decide_once(REFUND, key())
    assert first.decision.allowed
    halt = engine.halt(reason="stop", end=HOUR, agent="bot")
    halted = engine.decide_once(REFUND, key())
    assert (halted.decision.gate, halted.again) == (Gate.HALTED, False)
    engine.lift(halt.id, reason="mended")
    again = engine.decide_once(REFUND, key())
    assert (again.decision.id, again.again) == (first.decision.id, True)


def test_a_halted_decision_is_not_kept_under_its_key() -> None:
    engine = create()
    halt = engine.halt(reason="stop", end=HOUR, agent="bot")
    assert engine.decide_once(REFUND, key()).decision.gate is Gate.HALTED
    engine.lift(halt.id, reason="mended")
    assert engine.decide_once(REFUND, key()).decision.allowed


# ── Every way to decide ───────────────────────────────────────────────────────────────────────


def test_every_way_to_decide_is_halted() -> None:
    engine = create()
    engine.halt(reason="stop", end=HOUR, agent="bot")
    later = {**question(), "options": {"at": (BEGIN + 10 * HOUR).isoformat(), "consume": False}}
    decisions = [
        engine.decide(question()), engine.decide(Engine.authenticate(engine, question())),
        engine.evaluate(question()), engine.evaluate(later), engine.decide(later),
        engine.explain(question()).decision, *engine.decide_many([question(), REFUND]),
        asyncio.run(engine.decide_async(question())), asyncio.run(engine.evaluate_async(question())),
        engine.decide(b'{"agent": {"id": "bot", "issuer": "acme"}, "request": {"method": "GET", "path": "/orders"}}'),
    ]  # fmt: skip
    assert {one.gate for one in decisions} == {Gate.HALTED}


def test_a_successor_keeps_the_halts() -> None:
    engine = create()
    halt = engine.halt(reason="stop", end=HOUR, agent="bot")
    successor = engine.successor(engine.kernel)
    assert outcome(successor, question()) == "deny halted"
    successor.lift(halt.id, reason="mended")
    assert outcome(engine, question()) == outcome(successor, question()) == "allow"


def test_a_halt_in_the_middle_of_a_decision_denies_it() -> None:
    """The halt begins after the decision has looked at the halts, and before it is committed."""
    engine = create()
    resolve = engine.decider._resolve
    committed: list[str] = []

    def halting(*given: Any) -> Any:
        found = resolve(*given)
        if not engine.halts:
            engine.halt(reason="stop", end=HOUR, agent="bot")
        return found

    class Watching(MemoryStore):
        def commit(self, *given: Any, **more: Any) -> Any:
            committed.append("commit")
            return super().commit(*given, **more)

    engine.decider.store = Watching()
    engine.decider._resolve = halting  # type: ignore[method-assign]
    assert outcome(engine, REFUND) == "deny halted"
    assert committed == []


def test_a_halt_in_the_middle_of_an_evaluation_denies_it() -> None:
    engine = create()
    resolve = engine.decider._resolve

    def halting(*given: Any) -> Any:
        if not engine.halts:
            engine.halt(reason="stop", end=HOUR, agent="bot")
        return resolve(*given)

    engine.decider._resolve = halting  # type: ignore[method-assign]
    assert engine.evaluate(question()).gate is Gate.HALTED


def test_a_halt_in_the_middle_of_a_batch_denies_what_is_not_committed(tmp_path: Path) -> None:
    from policyengine.stores.sqlite.store import SqliteStore

    engine = create(store=SqliteStore(tmp_path / "state.db"))
    assert outcome(engine, question()) == "allow"
    plan = engine.decider.compiled.evaluator.plan
    planned: list[object] = []

    def halting(*given: Any, **more: Any) -> Any:
        planned.append(given)
        if len(planned) == 2:
            engine.halt(reason="stop", end=HOUR, agent="bot")
        return plan(*given, **more)

    engine.decider.compiled.evaluator.plan = halting  # type: ignore[method-assign]
    decisions = engine.decide_many([REFUND, REFUND, question("/health", agent=None, user=None)])
    assert [one.gate for one in decisions] == [Gate.HALTED, Gate.HALTED, None]


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def test_a_halt_ends_at_its_end() -> None:
    clock = Clock()
    engine = create(clock)
    engine.halt(reason="stop", end=HOUR, agent="bot")
    clock.now = BEGIN + HOUR - timedelta(milliseconds=1)
    assert outcome(engine, question()) == "deny halted"
    clock.now = BEGIN + HOUR
    assert outcome(engine, question()) == "allow"
    assert engine.halts == ()


def test_a_clock_that_is_set_back_lifts_no_halt() -> None:
    clock = Clock()
    engine = create(clock)
    engine.halt(reason="stop", end=HOUR, agent="bot")
    clock.now = BEGIN - timedelta(days=2)  # before the halt began
    assert outcome(engine, question()) == "deny halted"
    clock.now = BEGIN + 2 * HOUR
    assert outcome(engine, question()) == "allow"
    clock.now = BEGIN + timedelta(minutes=30)  # the clock was wrong: the halt has not ended
    assert outcome(engine, question()) == "deny halted"


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (timedelta(0), "the end 2026-03-02T10:00:00Z is in the past"),
        (-HOUR, "the end 2026-03-02T09:00:00Z is in the past"),
        (BEGIN - HOUR, "the end 2026-03-02T09:00:00Z is in the past"),
        ((BEGIN + HOUR).replace(tzinfo=None), "the end of the halt has no time zone"),
        (timedelta(days=367), "a halt lasts at most 366d"),
    ],
)
def test_an_end_in_the_past_or_too_far_away_is_refused(end: Any, message: str) -> None:
    engine = create()
    with pytest.raises(HaltError, match=message):
        engine.halt(reason="stop", end=end, agent="bot")


# ── The record ────────────────────────────────────────────────────────────────────────────────


def test_the_replay_of_a_log_with_halts_decides_the_same(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "decisions.jsonl"
    log = DecisionLog(path)
    engine = create(clock, log=log)
    halt = engine.halt(reason="it repeats refunds", end=HOUR, agent="bot", by="ops")
    clock.now += timedelta(minutes=5)
    engine.decide(REFUND)
    engine.lift(halt.id, reason="mended")
    engine.decide(REFUND)
    log.close()
    halted, allowed = read_records(path)
    assert halted.halt is not None
    assert (halted.halt.id, halted.halt.reason) == (halt.id, "it repeats refunds")
    assert allowed.halt is None
    for record in (halted, allowed):
        again = confirm_replay(replay_decision(record, engine.kernel), engine.kernel)
        assert again.same
        assert again.decision.reasons == engine_reasons(record.decision)


def engine_reasons(decision: Any) -> tuple[Any, ...]:
    from policyengine.runtime.decision import Reason

    return tuple(Reason(Gate(one["gate"]), one["message"]) for one in decision["reasons"])


def test_a_log_says_when_each_halt_begins_is_lifted_and_ends(tmp_path: Path) -> None:
    from policyengine.audit import SystemRecord, read_log

    clock, path = Clock(), tmp_path / "decisions.jsonl"
    log = DecisionLog(path)
    engine = create(clock, log=log)
    first = engine.halt(reason="first", end=HOUR, agent="bot", by="ops")
    second = engine.halt(reason="second", end=2 * HOUR, everything=True)
    engine.lift(second.id, reason="too much", by="dev")
    clock.now += 2 * HOUR
    engine.halting.refresh()
    log.close()
    found = [one for one in read_log(path) if isinstance(one, SystemRecord) and one.event == "halt"]
    assert [(one.details["halt"], one.details["state"]) for one in found] == [
        (first.id, "on"), (second.id, "on"), (second.id, "lifted"), (first.id, "ended"),
    ]  # fmt: skip
    assert (found[0].details["agent"], found[0].details["by"], found[0].details["reason"]) == ("bot", "ops", "first")
    assert (found[2].details["lifted_by"], found[2].details["lifting_reason"]) == ("dev", "too much")


def test_nothing_is_learned_from_a_halted_request() -> None:
    text = POLICY.replace("anyone {", 'guard "bursts" on /orders { deny when behavior.burst }\nanyone {')
    engine = Engine.from_text(text, clock=Clock())
    engine.halt(reason="stop", end=HOUR, agent="bot")
    reader = engine.decider.behavior
    assert reader is not None
    for _ in range(10):
        assert outcome(engine, question()) == "deny halted"
    assert not reader.tracker.state.rows  # type: ignore[union-attr,attr-defined]
