"""How requests came out is on record: once for each decision, only by its caller, whether or not a rule asks."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit import DecisionLog, OutcomeRecord, log_file, read_log, read_records, recent_decisions
from policyengine.audit.outcomes import build_outcome, read_number
from policyengine.audit.recent_decisions import (
    BUCKET_BYTES,
    BUCKETS,
    ENTRY_BYTES,
    MAX_RECENT,
    DecisionSubject,
    RecentDecisions,
    ReportTurn,
    find_entry,
)
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.engine.outcomes import OutcomeNotRecordedError
from policyengine.runtime.current_caller import SEPARATOR, caller_scope
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.history import OutcomeReport
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
entity invoice {}
issuer acme { url "https://acme.example"   scopes none   records chains }
agent "bot" { issued by acme   acts for any user   may GET /v1/invoices/{id: invoice}, POST /pay }
user any { may GET /v1/invoices/{id: invoice}, POST /pay }
"""
READS_OUTPUT = """
facts { body.note: string? }
guard "g" on POST /pay {
  deny when count of (GET /v1/invoices/{id: invoice} where past.output.token == "x" or past.output.tokens > 9
    or past.output.paid.state == "no" or past.output.note == "secret") within 1h > 5
}
"""
ASKED: dict[str, Any] = {
    "agent": {"id": "bot", "issuer": "acme"},
    "user": {"id": "ann"},
    "credential": {"issuer": "acme", "scopes": []},
    "chain": {"hops": []},
    "task": {"id": "t-9"},
    "attestation": {"verified": True, "model": "m-4"},
    "request": {"method": "GET", "path": "/v1/invoices/42"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def engine(path: Path, policy: str = POLICY, *, store: Any = None, **options: Any) -> Engine:
    return Engine.from_text(policy, clock=lambda: NOW, log=DecisionLog(path, seal=None, **options), store=store)


def outcomes(path: Path) -> list[OutcomeRecord]:
    return [entry for entry in read_log(path, pytest.fail) if isinstance(entry, OutcomeRecord)]


def test_an_outcome_is_recorded_with_the_subject_of_its_decision(path: Path) -> None:
    asked = engine(path)
    with caller_scope("name edge"):
        decision = asked.decide(ASKED)
        assert decision.allowed, decision.reasons
        assert asked.report(decision.id, status=200, latency_ms=12.5, size=3_120, usage={"input_tokens": 85})
    (found,) = outcomes(path)
    assert found.to_dict() == {
        "decision": decision.id,
        "status": 200,
        "latency_ms": Decimal("12.5"),
        "size": 3_120,
        "usage": {"input_tokens": 85},
        "subject": {
            "agent": "bot",
            "issuer": "acme",
            "user": "ann",
            "chain": ["ann", "bot"],
            "client": "edge",
            "task": "t-9",
            "model": "m-4",
            "endpoint": "GET /v1/invoices/{id: invoice}",
            "resource": {"type": "invoice", "id": "42"},
            "outcome": "allow",
            "revision": decision.revision,
        },
    }
    (record,) = read_records(path)
    assert (record.client, str(record.resource), record.id) == ("edge", 'invoice "42"', found.decision)


def test_a_decision_is_reported_once(path: Path) -> None:
    asked = engine(path)
    decision = asked.decide(ASKED)
    assert [asked.report(decision.id, status=status) for status in (200, 200, 500)] == [True, False, False]
    assert [found.status for found in outcomes(path)] == [200]
    assert asked.report_outcome(decision.id, OutcomeReport(200, {})) == "again"


def test_only_the_caller_of_a_decision_can_report_it(path: Path) -> None:
    asked = engine(path)
    with caller_scope("name edge"):
        decision = asked.decide(ASKED)
    with caller_scope("name other"):
        assert not asked.report(decision.id, status=200)
    assert not asked.report(decision.id, status=200)
    assert not asked.report(f"{decision.id}{SEPARATOR}x", status=200)
    assert outcomes(path) == []
    with caller_scope("name edge"):
        assert asked.report(decision.id, status=200)


@pytest.mark.parametrize("id", ["", "x", "01K0Q6Z6W3M5Y8T2C4R7B9D1FG", "\ud800", "x" * 100_000])
def test_a_report_about_an_unknown_decision_writes_nothing(path: Path, id: str) -> None:
    assert engine(path).report_outcome(id, OutcomeReport(200, {})) is None
    assert path.read_bytes() == b""


def test_an_outcome_has_the_time_of_the_clock_of_the_engine(path: Path) -> None:
    asked = engine(path)
    asked.report(asked.decide(ASKED).id, status=200)
    assert [found.time for found in outcomes(path)] == [NOW]


def test_a_request_that_did_not_pass_has_no_outcome(path: Path) -> None:
    asked = engine(path)
    denied = asked.decide({"request": {"method": "POST", "path": "/pay"}})
    assert not denied.allowed
    assert not asked.report(denied.id, status=200)
    assert outcomes(path) == []


def test_a_request_that_was_only_observed_has_an_outcome_with_the_decision_that_it_escaped(path: Path) -> None:
    asked = engine(path, POLICY + 'guard "no" on POST /pay { deny when agent.id == "bot" }')
    asked.observe(Observe(NOW + timedelta(days=1)))
    passed = asked.decide({**ASKED, "request": {"method": "POST", "path": "/pay"}})
    assert passed.observed
    assert asked.report(passed.id, status=201)
    (found,) = outcomes(path)
    assert [found.subject[name] for name in ("outcome", "gate", "rule")] == ["deny", "guard", "no"]


def test_a_decision_of_an_earlier_engine_can_be_reported_after_a_reload(path: Path) -> None:
    asked = engine(path)
    decision = asked.decide(ASKED)
    after = asked.successor(Engine.from_text(POLICY + "anyone { may GET /health }").kernel)
    assert after.report(decision.id, status=200)
    (found,) = outcomes(path)
    assert found.subject["revision"] == asked.revision


def test_a_batch_and_an_evaluation_can_be_reported(path: Path) -> None:
    asked = engine(path)
    several = [*asked.decide_many([ASKED, ASKED]), asked.evaluate(ASKED)]
    assert all(asked.report(one.id, status=200) for one in several if isinstance(one, Decision))
    assert len(outcomes(path)) == 3


# ── Output and usage ──────────────────────────────────────────────────────────────────────────

OUTPUT = {
    "token": "hush-hush", "tokens": 12, "paid": {"state": "yes", "more": 1}, "note": "private", "undeclared": "x",
}  # fmt: skip


def test_only_declared_fields_of_the_output_are_recorded(path: Path) -> None:
    asked = engine(path, POLICY + READS_OUTPUT)
    assert asked.report(asked.decide(ASKED).id, status=200, output=OUTPUT)
    (found,) = outcomes(path)
    assert (found.output["tokens"], found.output["paid"], found.output["note"]) == (12, {"state": "yes"}, "private")
    assert "undeclared" not in found.output
    assert found.usage == {"tokens": 12}


def test_secrets_and_redacted_facts_of_an_outcome_are_fingerprints(path: Path) -> None:
    asked = engine(path, POLICY + READS_OUTPUT, redact=["past.output.note", "task.id"])
    assert asked.report(asked.decide(ASKED).id, status=200, output=OUTPUT)
    (record,), (found,) = read_records(path), outcomes(path)
    assert {fact.fact for fact in found.redacted} == {"output.token", "output.note"}
    assert found.output["token"].startswith("redacted:")
    assert found.output["note"].startswith("redacted:")
    assert found.subject["task"] == record.request["task"]["id"]  # type: ignore[index]  # an object
    text = path.read_text()
    assert [word for word in ("hush-hush", "private", "t-9") if word in text] == []


def test_reported_usage_replaces_that_of_the_output(path: Path) -> None:
    asked = engine(path, POLICY + READS_OUTPUT)
    assert asked.report(asked.decide(ASKED).id, output=OUTPUT, usage={"output_tokens": 7, "cost": Decimal("0.25")})
    (found,) = outcomes(path)
    assert found.usage == {"output_tokens": 7, "cost": Decimal("0.25")}


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (12, 12), (12.5, Decimal("12.5")), (Decimal("0.1234"), Decimal("0.123")), (12.0, 12), (0, 0), (1e-9, 0),
        (True, None), (-1, None), (float("nan"), None), (float("inf"), None), (Decimal("sNaN"), None), (1e300, None),
        (10**400, None), ("12", None), (None, None),
    ],
)  # fmt: skip
def test_numbers_are_recorded_exactly_or_not_at_all(given: object, number: object) -> None:
    assert read_number(given) == number


def test_invalid_parts_of_a_report_are_left_out() -> None:
    report = OutcomeReport(99, {}, float("nan"), -1, {"Tokens": 1, "": 1, "a": "x", "b": 2})
    assert build_outcome("id", report, ()) == {"decision": "id", "usage": {"b": 2}}
    many = OutcomeReport(True, {}, None, True, {f"n{number}": 1 for number in range(100)})
    assert len(build_outcome("id", many, ())["usage"]) == 16  # type: ignore[arg-type]  # an object


def test_long_texts_of_an_output_and_of_a_subject_are_left_out(path: Path) -> None:
    asked = engine(path, POLICY + READS_OUTPUT)
    decision = asked.decide({**ASKED, "task": {"id": "t" * 600}})
    assert asked.report(decision.id, output={"note": "n" * 300, "tokens": 1})
    (found,) = outcomes(path)
    assert (found.output, "task" in found.subject) == ({"tokens": 1}, False)


# ── Failures ──────────────────────────────────────────────────────────────────────────────────

REVIEWED = POLICY + (
    'guard "g" on POST /pay { require after (GET /v1/invoices/{id: invoice} where past.status < 400) within 1h }'
)
PAY = {**ASKED, "request": {"method": "POST", "path": "/pay"}}


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the disk is full."""
    is_full, write = [False], os.write

    def short(file: int, data: bytes) -> int:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(log_file.os, "write", short)
    yield is_full
    is_full[0] = False


def test_an_outcome_that_cannot_be_recorded_changes_nothing_and_can_be_reported_again(
    path: Path, full: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    asked = engine(path, REVIEWED, store=MemoryStore(history_complete=True))
    decision = asked.decide(ASKED)
    full[0] = True
    with pytest.raises(OutcomeNotRecordedError, match=r"^the outcome could not be recorded$"):
        asked.report(decision.id, status=200)
    assert asked.log is not None
    assert asked.log.failures == 1
    assert "cannot be written: No space left on device" in caplog.text
    full[0] = False
    assert not asked.decide(PAY).allowed
    assert asked.report(decision.id, status=200)
    assert asked.decide(PAY).allowed
    assert [found.status for found in outcomes(path)] == [200]


def test_with_continue_an_outcome_takes_effect_unrecorded(path: Path, full: list[bool]) -> None:
    store = MemoryStore(history_complete=True)
    asked = engine(path, REVIEWED, store=store, on_failure="continue")
    decision = asked.decide(ASKED)
    full[0] = True
    assert asked.report_outcome(decision.id, OutcomeReport(200, {})) == "unrecorded"
    full[0] = False
    assert asked.decide(PAY).allowed
    assert outcomes(path) == []


def test_a_report_that_the_store_lost_is_completed_by_a_second_one_and_recorded_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(history_complete=True)
    asked = engine(path, REVIEWED, store=store)
    decision = asked.decide(ASKED)

    def fails(*given: object, **options: object) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store, "report", fails)
        with pytest.raises(StoreError):
            asked.report(decision.id, status=200)
    assert asked.report(decision.id, status=200)
    assert not asked.report(decision.id, status=200)
    assert asked.decide(PAY).allowed
    assert len(outcomes(path)) == 1


def test_a_decision_of_another_server_with_the_same_store_is_recorded_without_a_subject(tmp_path: Path) -> None:
    store = MemoryStore(history_complete=True)
    first, second = (engine(tmp_path / name, REVIEWED, store=store) for name in ("a", "b"))
    decision = first.decide(ASKED)
    assert [second.report(decision.id, status=200) for _ in range(2)] == [True, False]
    (found,) = outcomes(tmp_path / "b")
    assert (found.decision, found.status, found.subject) == (decision.id, 200, {})


# ── What is remembered ────────────────────────────────────────────────────────────────────────


def subject(number: int) -> DecisionSubject:
    return DecisionSubject(Decision.of(Outcome.ALLOW).with_id((number * 100_000, number)))


def ids_of(numbers: range) -> list[str]:
    return [subject(number).decision.id for number in numbers]


@pytest.fixture(params=[False, True], ids=["one process", "several"])
def recent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RecentDecisions:
    """Recent decisions with a sixteenth of their memory."""
    monkeypatch.setattr(recent_decisions, "MAX_RECENT", MAX_RECENT // 16)
    monkeypatch.setattr(recent_decisions, "BUCKETS", BUCKETS // 16)
    found = RecentDecisions()
    if request.param:
        found.share()
    return found


def test_recent_decisions_are_remembered_and_old_ones_forgotten(recent: RecentDecisions) -> None:
    many = 3 * BUCKETS // 16 * BUCKET_BYTES // ENTRY_BYTES
    for number in range(many):
        recent.add(subject(number))
    last = ids_of(range(many - 1_000, many))
    assert {recent.take_turn(id) for id in last} == {ReportTurn.FIRST}
    assert {recent.take_turn(id) for id in last} == {ReportTurn.AGAIN}
    unknown = [recent.take_turn(id) for id in ids_of(range(1_000))].count(ReportTurn.UNKNOWN)
    assert unknown > 900
    assert sum(map(len, recent._by_time.values())) <= MAX_RECENT // 16
    assert recent.subject(last[-1]) == subject(many - 1)
    assert recent.subject(ids_of(range(1))[0]) is None


@pytest.mark.parametrize("id", ["custom", (1_000_000, "01ARZ3NDEKTSV4RRFFQ69G5FAV")])
def test_a_decision_that_is_added_again_keeps_its_state(recent: RecentDecisions, id: Any) -> None:
    added = DecisionSubject(Decision.of(Outcome.ALLOW).with_id(id))
    recent.add(added)
    assert recent.take_turn(added.decision.id) is ReportTurn.FIRST
    recent.add(added)
    assert recent.take_turn(added.decision.id) is ReportTurn.AGAIN
    recent.give_back(added.decision.id)
    assert recent.take_turn(added.decision.id) is ReportTurn.FIRST


def test_the_state_of_a_decision_changes_no_other_one() -> None:
    entry, other = b"\x02" * 8, b"\x04" * 8
    bucket = other + bytes((*entry[:-1], 0x03)) + bytes(48)
    assert [find_entry(bucket, digest) for digest in (entry, other, b"\x06" * 8)] == [8, 0, -1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no workers without fork")
def test_workers_know_the_decisions_of_each_other(path: Path) -> None:
    asked = engine(path)
    assert asked.log is not None
    asked.log.recent.share()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, asked.decide(ASKED).id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    id = os.read(reader, 100).decode()
    assert [asked.report(id, status=200) for _ in range(2)] == [True, False]
    (found,) = outcomes(path)
    assert (found.decision, found.subject) == (id, {})


# ── Client and resource of a decision ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("caller", "client"),
    [("name edge", "edge"), (f"token {'ab' * 32}", "token abababab"), ("user 1000", "user 1000"), ("", None)],
)
def test_a_decision_names_the_client_that_asked(path: Path, caller: str, client: str | None) -> None:
    with caller_scope(caller):
        engine(path).decide(ASKED)
    (record,) = read_records(path)
    assert record.client == client


RESOURCES = """
entity invoice {}
facts { args.id: string?   args.token: string? }
scope refunds { TOOL shop/refund with resource = invoice(args.id) }
scope secrets { TOOL shop/secret with resource = invoice(args.token) }
anyone {
  may GET /v1/invoices/{id: invoice}, GET /health, ACTION view invoice
  may refunds, secrets
}
"""


@pytest.mark.parametrize(
    ("question", "resource"),
    [
        ({"request": {"method": "GET", "path": "/v1/invoices/4%202"}}, 'invoice "4 2"'),
        ({"request": {"method": "GET", "path": "/health"}}, "None"),
        ({"request": {"method": "GET", "path": "/a/../b"}}, "None"),
        ({"tool": {"server": "shop", "name": "refund"}, "args": {"id": "7"}}, 'invoice "7"'),
        ({"tool": {"server": "shop", "name": "refund"}, "args": {"id": 7}}, "None"),
        ({"tool": {"server": "shop", "name": "refund"}, "args": {}}, "None"),
        ({"tool": {"server": "shop", "name": "secret"}, "args": {"token": "hush-hush"}}, "None"),
        ({"action": {"name": "view"}, "resource": {"type": "invoice", "id": "8"}}, 'invoice "8"'),
    ],
)
def test_a_decision_names_its_resource(path: Path, question: dict[str, Any], resource: str) -> None:
    asked = engine(path, RESOURCES)
    decision = asked.decide(question)
    (record,) = read_records(path)
    assert str(record.resource) == resource
    assert "hush-hush" not in path.read_text()
    assert asked.report(decision.id, status=200) is decision.allowed


@pytest.mark.parametrize(
    ("guard", "options"), [("", {"redact": ["args.id"]}), ('guard "g" on TOOL * { redact args.id }', {})]
)
def test_a_redacted_fact_is_no_resource(path: Path, guard: str, options: dict[str, Any]) -> None:
    question = {"tool": {"server": "shop", "name": "refund"}, "args": {"id": "private"}}
    asked = engine(path, RESOURCES + guard, **options)
    asked.decide({**question, "options": {"obligations_supported": ["redact"]}})
    (record,) = read_records(path)
    assert record.resource is None
    assert "private" not in path.read_text()


def test_members_that_a_shipper_adds_are_ignored(path: Path) -> None:
    engine(path).decide(ASKED)
    line = json.loads(path.read_text())
    added = {"client": 7, "resource": "host", "system": "linux", "outcome": "shipped"}
    path.write_text(json.dumps({**line, **added}) + "\n")
    (record,) = read_log(path, pytest.fail)
    assert (record.client, record.resource) == (None, None)  # type: ignore[union-attr]  # a decision
