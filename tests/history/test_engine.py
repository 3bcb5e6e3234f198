"""History through the engine: what is fetched, recorded in one step and reported, under a clock that the test holds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from policyengine.compiler.bundle.file import write_bundle
from policyengine.engine import Engine
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.limits import ChargeResult
from policyengine.runtime.request import RequestError
from policyengine.stores.memory.store import MemoryStore
from tests.history.plainly import HEAD, user
from tests.spec.deciding import NOW, bot, question, verdict

SHUT = 'deny by "g"'
AFTER_REVIEW = 'guard "g" on POST /pay { require after POST /review within 1h }'
PAY_ONCE = 'guard "g" on POST /pay { require count of POST /pay within 1h < 1 }'


class Playing:
    """An engine, its store, and the time."""

    def __init__(
        self, *rules: str, store: MemoryStore | None = None, engine: Engine | None = None, now: datetime = NOW
    ) -> None:
        self.now = now
        self.store = store or MemoryStore(history_complete=True)
        self.engine = engine or Engine.from_text(HEAD + "\n".join(rules), clock=lambda: self.now, store=self.store)

    def after(self, **passed: float) -> Playing:
        self.now += timedelta(**passed)
        return self

    def ask(self, where: str, who: Mapping[str, object] | None = None, **members: object) -> Decision:
        return self.engine.decide({**(bot() if who is None else who), **question(where, **members)})

    def says(self, where: str, who: Mapping[str, object] | None = None, **members: object) -> str:
        return verdict(self.ask(where, who, **members))

    def peeks(self, where: str) -> Decision:
        return self.engine.evaluate({**bot(), **question(where)})


# ── Scenarios ─────────────────────────────────────────────────────────────────────────────────


def test_a_payment_needs_a_successful_review_by_another_user() -> None:
    playing = Playing(
        'guard "g" on POST /v1/invoices/{id}/pay {\n  require after (POST /v1/invoices/{id}/review by another user '
        "where past.params.id == params.id and past.status < 400) within 1h\n}"
    )
    assert playing.says("POST /v1/invoices/42/pay") == SHUT
    own, failed, good = (playing.ask("POST /v1/invoices/42/review", user(name)) for name in ("alice", "bob", "carol"))
    for review, status in ((own, 200), (failed, 500), (good, 200)):
        assert playing.says("POST /v1/invoices/42/pay") == SHUT
        assert playing.engine.report(review.id, status=status)
    assert playing.says("POST /v1/invoices/42/pay") == "allow"
    assert playing.says("POST /v1/invoices/43/pay") == SHUT
    assert playing.after(hours=1).says("POST /v1/invoices/42/pay") == SHUT


def test_reading_a_secret_blocks_mail_until_a_review() -> None:
    playing = Playing(
        'guard "g" on TOOL mail/* { require no TOOL secrets/read within 1h since POST /review per (agent.id) }'
    )
    said = []
    for where in ("TOOL mail/send", "TOOL secrets/read", "TOOL mail/send", "POST /review", "TOOL mail/send"):
        said.append(playing.after(minutes=1).says(where))
    assert said == ["allow", "allow", SHUT, "allow", "allow"]


def test_too_many_denials_block_the_caller() -> None:
    playing = Playing(
        'guard "g" on POST /pay { deny when count of (denied TOOL *) within 10m > 5 }',
        'guard "no" on TOOL secrets/* { deny }',
    )
    for _ in range(6):
        assert playing.says("POST /pay") == "allow"
        assert playing.says("TOOL secrets/read") == 'deny by "no"'
    assert playing.says("POST /pay") == SHUT
    assert playing.says("POST /pay", bot(user="bob")) == "allow"
    assert playing.after(minutes=10).says("POST /pay") == "allow"


def test_a_sum_over_history_stops_at_its_bound() -> None:
    playing = Playing(
        "facts on POST /pay { body.amount: number }",
        'guard "g" on POST /pay { require sum past.body.amount of POST /pay within 24h + body.amount <= 5_000 }',
    )
    assert [playing.says("POST /pay", body={"amount": n}) for n in (4_000, 1_001, 1_000, 1)] == [
        "allow", SHUT, "allow", SHUT,
    ]  # fmt: skip


# ── What enters history, and when ─────────────────────────────────────────────────────────────


def test_an_evaluation_is_not_recorded_and_requires_a_decide_call() -> None:
    playing = Playing(AFTER_REVIEW)
    decision = playing.peeks("POST /review")
    assert [one.kind for one in decision.obligations] == ["consume"]
    assert playing.says("POST /pay") == SHUT


def test_an_evaluation_reads_history() -> None:
    playing = Playing(AFTER_REVIEW)
    assert not playing.peeks("POST /pay").allowed
    playing.ask("POST /review")
    assert playing.peeks("POST /pay").allowed


def test_a_throttled_request_does_not_enter_history() -> None:
    playing = Playing(AFTER_REVIEW, 'rate "r" per user.id on POST /review { 1/1h }')
    assert playing.says("POST /review") == "allow"
    playing.after(hours=1, microseconds=-1)
    assert playing.says("POST /review") == 'throttle by "r"'
    assert playing.after(microseconds=1).says("POST /pay") == SHUT


def test_an_unconfirmed_request_does_not_enter_history() -> None:
    playing = Playing(AFTER_REVIEW, 'guard "ask" on POST /review { confirm by role boss }')
    assert playing.says("POST /review") == 'confirm by "ask"'
    assert playing.says("POST /pay") == SHUT


def test_an_explanation_reads_history() -> None:
    playing = Playing(AFTER_REVIEW)
    asked = {**bot(), **question("POST /pay")}
    assert not playing.engine.explain(asked).decision.allowed
    playing.ask("POST /review")
    assert playing.engine.explain(asked).decision.allowed


def test_history_is_unknown_before_the_start_of_the_engine() -> None:
    playing = Playing('guard "g" on POST /pay { require no POST /review within 1h }', store=MemoryStore())
    assert playing.says("POST /pay") == SHUT
    assert playing.after(hours=1).says("POST /pay") == "allow"


def test_a_new_rule_has_no_history_from_before_it() -> None:
    playing = Playing(AFTER_REVIEW, store=(store := MemoryStore()))
    playing.after(days=1).ask("TOOL secrets/read")
    later = Playing('guard "g" on POST /pay { require no TOOL secrets/read within 1h }', store=store, now=playing.now)
    assert later.after(minutes=59).says("POST /pay") == SHUT
    assert later.after(minutes=1).says("POST /pay") == "allow"


def test_the_same_rule_in_another_revision_keeps_its_history() -> None:
    playing = Playing(AFTER_REVIEW)
    playing.ask("POST /review")
    later = Playing("# more\n" + AFTER_REVIEW, 'guard "new" on GET /x { deny }', store=playing.store)
    assert later.says("POST /pay") == "allow"


def test_an_engine_from_a_bundle_records_history(tmp_path: Path) -> None:
    made = Playing(PAY_ONCE)
    (tmp_path / "a.policybundle").write_bytes(write_bundle(made.engine.kernel, "test"))
    engine = Engine.from_bundle(
        tmp_path / "a.policybundle", clock=lambda: NOW, store=MemoryStore(history_complete=True)
    )
    assert [Playing(engine=engine).says("POST /pay") for _ in range(2)] == ["allow", SHUT]


def test_an_endpoint_without_history_does_not_read_the_store() -> None:
    class Shut(MemoryStore):
        def fetch(self, keys: Any, now: int) -> Mapping[WindowKey, History]:
            raise AssertionError("nobody needs it")

    playing = Playing(AFTER_REVIEW, store=Shut(history_complete=True))
    assert playing.says("GET /elsewhere") == "allow"
    assert playing.says("POST /review") == "allow"
    assert playing.says("POST /pay") == "deny by failure"


# ── One step ──────────────────────────────────────────────────────────────────────────────────


def test_a_decision_is_retried_when_its_history_changed_before_the_commit() -> None:
    class Quicker(MemoryStore):
        """Another request is quicker than the first commit."""

        raced = False

        def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
            if not self.raced and effects.relied:
                self.raced = True
                assert playing.says("POST /pay") == "allow"
            return super().commit(effects, decision, now, peek=peek)

    playing = Playing(PAY_ONCE, store=Quicker(history_complete=True))
    assert playing.says("POST /pay") == SHUT


def test_concurrent_requests_never_exceed_a_count() -> None:
    playing = Playing('guard "g" on POST /pay { require count of POST /pay within 1h < 20 }')
    said: list[str] = []
    threads = [Thread(target=lambda: said.extend(playing.says("POST /pay") for _ in range(15))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("allow") == 20
    assert playing.engine.failures == 0


# ── Reports ───────────────────────────────────────────────────────────────────────────────────

SUCCEEDED = 'guard "g" on POST /pay { require after (POST /review where past.status < 400) within 1h }'


def test_a_second_outcome_report_is_rejected() -> None:
    playing = Playing(SUCCEEDED)
    review = playing.ask("POST /review")
    assert playing.engine.report(review.id, status=500)
    assert not playing.engine.report(review.id, status=200)
    assert playing.says("POST /pay") == SHUT


@pytest.mark.parametrize("decision", ["", "01JUNKNOWN", "x" * 1_000])
def test_a_report_for_an_unknown_decision_is_rejected(decision: str) -> None:
    assert not Playing(SUCCEEDED).engine.report(decision, status=200)


def test_a_report_after_the_window_is_rejected() -> None:
    playing = Playing(SUCCEEDED)
    review = playing.ask("POST /review")
    assert not playing.after(hours=1).engine.report(review.id, status=200)


def test_a_report_frees_a_concurrency_slot() -> None:
    playing = Playing('rate "r" per user.id on POST /run { at most 1 at once }')
    run = playing.ask("POST /run")
    assert playing.says("POST /run") == 'throttle by "r"'
    assert playing.engine.report(run.id, status=200)
    assert playing.says("POST /run") == "allow"


def test_a_report_with_refund_returns_the_budget_spend() -> None:
    playing = Playing('budget "b" per user.id on POST /run { count <= 1 within 1d }')
    run = playing.ask("POST /run")
    assert playing.engine.report(run.id, refund=True)
    assert playing.says("POST /run") == "allow"


def test_output_floats_are_summed_as_their_shortest_decimals() -> None:
    playing = Playing('guard "g" on POST /pay { require sum past.output.cost of POST /run within 1h <= 0.3 }')
    for _ in range(3):
        assert playing.engine.report(playing.ask("POST /run").id, output={"cost": 0.1})
    assert playing.says("POST /pay") == "allow"


def test_an_output_that_is_not_an_object_is_rejected() -> None:
    with pytest.raises(RequestError):
        Playing(SUCCEEDED).engine.report("x", output=[1])  # type: ignore[arg-type]
