"""Decision records name the endpoint pattern that the request matched, through every door."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from fastmcp import Client, FastMCP

from policyengine.audit import DecisionLog, DecisionRecord, OutcomeRecord, confirm_replay, read_log, replay_decision
from policyengine.audit.exports.cloud_events import encode_cloud_event
from policyengine.audit.exports.ocsf import encode_ocsf
from policyengine.audit.query.duck import DuckReader
from policyengine.audit.query.pack import pack_log
from policyengine.audit.query.query import AuditQuery
from policyengine.audit.query.stream import StreamReader
from policyengine.audit.record_summary import summarize
from policyengine.audit.report.questions import ask_questions
from policyengine.compiler.bundle.file import write_bundle
from policyengine.compiler.endpoint_patterns import declared_endpoints
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.integrations.mcp.fastmcp import PolicyMiddleware, always
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.runtime.request import RequestError
from policyengine.server import create_app

POLICY = """
entity invoice {}
facts { body.amount: number? }
anyone { may GET /invoices/{id: invoice}, ANY /files/**, TOOL github/*, ACTION view invoice }
guard "closed" on /files/secret/** { deny }
rate "posts" per request.ip on POST /files/{name} { 1/1h }
"""
INVOICE = "GET /invoices/{id: invoice}"
BOT = {"agent": {"id": "bot", "issuer": "acme"}}


def asked(method: str, path: str, **more: object) -> dict[str, object]:
    return {"request": {"method": method, "path": path, "ip": "10.0.0.1"}, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def engine_of(path: Path, **options: Any) -> Engine:
    return Engine.from_text(POLICY, log=DecisionLog(path, seal=None), **options)


def records(path: Path) -> list[DecisionRecord]:
    return [entry for entry in read_log(path, pytest.fail) if isinstance(entry, DecisionRecord)]


def endpoints(path: Path) -> list[str | None]:
    return [record.endpoint for record in records(path)]


def post(engine: Engine, path: str, body: object) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, json=body)

    return asyncio.run(send())


# ── In process ────────────────────────────────────────────────────────────────────────────────


def test_a_record_names_the_pattern(path: Path) -> None:
    engine = engine_of(path)
    engine.decide(asked("GET", "/invoices/7"))
    engine.decide(asked("HEAD", "/invoices/8"))
    engine.decide(asked("POST", "/files/a"))
    engine.decide(asked("GET", "/files/secret/b"))
    engine.evaluate({"tool": {"server": "github", "name": "create_issue"}})
    engine.evaluate({"action": {"name": "view"}, "resource": {"type": "invoice", "id": "7"}})
    assert endpoints(path) == [
        INVOICE, INVOICE, "POST /files/{name}", "GET /files/secret/**", "TOOL github/*", "ACTION view invoice",
    ]  # fmt: skip
    assert set(endpoints(path)) < set(declared_endpoints(engine.kernel))
    assert b'"endpoint":"GET /invoices/{id: invoice}",' in path.read_bytes()


def test_a_record_without_a_pattern_lacks_the_member(path: Path) -> None:
    engine = engine_of(path)
    engine.decide(asked("GET", "/invoices"))
    engine.decide(asked("GET", "/files/../invoices/7"))
    engine.decide({"tool": {"server": "mail", "name": "send"}})
    engine.decide({"action": {"name": "edit"}, "resource": {"type": "invoice", "id": "7"}})
    assert endpoints(path) == [None] * 4
    assert b'"endpoint":' not in path.read_bytes()


def test_every_question_of_a_batch_has_its_own(path: Path) -> None:
    engine = engine_of(path)
    questions = [asked("GET", "/invoices/7"), asked("POST", "/files/a"), {"request": {}}, asked("GET", "/files/b")]
    found = engine.decide_many(questions)
    assert isinstance(found[2], RequestError)
    assert endpoints(path) == [INVOICE, "POST /files/{name}", "GET /files/**"]


def test_a_repeated_idempotent_decision_has_the_same(path: Path) -> None:
    engine, key = engine_of(path), IdempotencyKey("gateway", "key", "digest")
    again = [engine.decide_once(asked("POST", "/files/a"), key).again for _ in range(2)]
    assert again == [False, True]
    assert endpoints(path) == ["POST /files/{name}"] * 2


def test_an_observed_decision_has_it(path: Path) -> None:
    engine = engine_of(path)
    engine.observe(Observe(datetime.now(UTC) + timedelta(hours=1)))
    assert engine.decide(asked("GET", "/files/secret/b")).observed
    assert [(record.observed, record.endpoint) for record in records(path)] == [(True, "GET /files/secret/**")]


def test_a_decision_that_fails_has_it_if_the_endpoint_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(path)

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(engine.decider, "decide", fail)
    assert engine.decide(asked("GET", "/invoices/7")).gate == "failure"
    monkeypatch.setattr(engine, "_read", fail)
    assert engine.decide(asked("GET", "/invoices/7")).gate == "failure"
    assert endpoints(path) == [INVOICE, None]


def test_a_resource_that_cannot_be_written_does_not_hide_it(path: Path) -> None:
    engine = engine_of(path)
    engine.decide({"action": {"name": "view"}, "resource": {"type": "invoice", "id": "\ud800"}})
    assert endpoints(path) == ["ACTION view invoice"]


def test_a_bundle_names_it_alike(path: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "shop.policybundle"
    bundle.write_bytes(write_bundle(Engine.from_text(POLICY).kernel, "0.1.0"))
    Engine.from_bundle(bundle, log=DecisionLog(path, seal=None)).decide(asked("GET", "/invoices/7"))
    assert endpoints(path) == [INVOICE]


def test_an_outcome_names_the_pattern_of_its_decision(path: Path) -> None:
    engine = engine_of(path)
    engine.report(engine.decide(asked("GET", "/invoices/7")).id, status=200)
    (found,) = [entry for entry in read_log(path) if isinstance(entry, OutcomeRecord)]
    assert found.subject["endpoint"] == INVOICE


def test_a_replay_decides_the_same(path: Path) -> None:
    engine = engine_of(path)
    engine.decide(asked("GET", "/invoices/7"))
    engine.decide(asked("GET", "/files/secret/b"))
    assert all(confirm_replay(replay_decision(one, engine.kernel), engine.kernel).same for one in records(path))


# ── Through doors ─────────────────────────────────────────────────────────────────────────────


def test_the_server_writes_it(path: Path) -> None:
    engine = engine_of(path)
    assert post(engine, "/decide", asked("GET", "/invoices/7")).status_code == 200
    batch = {"requests": [asked("GET", "/files/a"), asked("GET", "/invoices/8")]}
    post(engine, "/decide/batch", batch).raise_for_status()
    assert endpoints(path) == [INVOICE, "GET /files/**", INVOICE]


def test_authzen_writes_it(path: Path) -> None:
    engine = engine_of(path)
    evaluation = {
        "subject": {"type": "user", "id": "ann"}, "action": {"name": "view"},
        "resource": {"type": "invoice", "id": "7"},
    }  # fmt: skip
    post(engine, "/access/v1/evaluation", evaluation).raise_for_status()
    many = {**evaluation, "evaluations": [{}, {"action": {"name": "edit"}}]}
    post(engine, "/access/v1/evaluations", many).raise_for_status()
    assert endpoints(path) == ["ACTION view invoice", "ACTION view invoice", None]


def test_mcp_writes_it(path: Path) -> None:
    server = FastMCP("github", middleware=[PolicyMiddleware(engine_of(path), server="github", identify=always(BOT))])

    @server.tool
    def create_issue(title: str) -> str:
        return title

    async def call() -> None:
        async with Client(server) as client:
            await client.call_tool("create_issue", {"title": "x"}, raise_on_error=False)

    asyncio.run(call())
    assert set(endpoints(path)) == {"TOOL github/*"}


# ── Readers ───────────────────────────────────────────────────────────────────────────────────


def test_queries_count_patterns_and_find_the_request_itself(path: Path, tmp_path: Path) -> None:
    engine = engine_of(path)
    for number in range(3):
        engine.decide(asked("GET", f"/invoices/{number}"))
    engine.decide(asked("GET", "/none"))
    packed = tmp_path / "packed.parquet"
    pack_log([path], packed)
    queries = [
        AuditQuery(count_by=("endpoint",)),
        AuditQuery(count=True).where("endpoint", INVOICE),
        AuditQuery(count_by=("endpoint",)).where("target", "GET /invoices/1"),
    ]
    with DuckReader.open([path]) as with_duckdb, DuckReader.open([], [packed]) as from_pack:
        answers = [reader.answer(queries) for reader in (StreamReader([path]), with_duckdb, from_pack)]
    for by_endpoint, invoices, one in answers:
        assert [row[:2] for row in by_endpoint.rows] == [(INVOICE, 3), ("GET /none", 1)]
        assert invoices.rows[0][0] == 3
        assert [row[:2] for row in one.rows] == [(INVOICE, 1)]
    columns = duckdb.sql(f"SELECT endpoint, target FROM '{packed}' ORDER BY target").fetchall()
    assert columns[0] == (INVOICE, "GET /invoices/0")


def test_a_report_counts_patterns(path: Path) -> None:
    engine = engine_of(path)
    for number in range(3):
        engine.report(engine.decide(asked("GET", f"/invoices/{number}")).id, status=200, latency_ms=number)
    answers = ask_questions(StreamReader([path]), None, None)
    for name in ("new_endpoints", "latency"):
        assert [row[:2] for row in answers[name].rows] == [(INVOICE, 3)]


def test_exports_have_the_pattern_and_the_request(path: Path) -> None:
    engine = engine_of(path)
    engine.decide(asked("GET", "/invoices/7"))
    engine.decide({"tool": {"server": "github", "name": "create_issue"}})
    http, tool = path.read_bytes().splitlines()
    row, event = summarize(json.loads(http)), encode_ocsf(summarize(json.loads(http)))
    assert (row.endpoint, row.target) == (INVOICE, "GET /invoices/7")
    assert (event["api"]["operation"], event["http_request"]["url"]["path"]) == (INVOICE, "/invoices/7")
    assert encode_cloud_event(http, row)["subject"] == "GET /invoices/7"
    api = encode_ocsf(summarize(json.loads(tool)))["api"]
    assert (api["operation"], api["service"]["name"]) == ("TOOL github/*", "github")


def test_a_line_of_before_is_read_without_it(path: Path) -> None:
    engine_of(path).decide(asked("GET", "/invoices/7"))
    line = json.loads(path.read_bytes())
    del line["endpoint"]
    path.write_text(json.dumps(line) + "\n")
    assert endpoints(path) == [None]
    assert (summarize(line).endpoint, summarize(line).target) == ("GET /invoices/7", "GET /invoices/7")
    assert StreamReader([path]).answer([AuditQuery(count_by=("endpoint",))])[0].rows[0][0] == "GET /invoices/7"
