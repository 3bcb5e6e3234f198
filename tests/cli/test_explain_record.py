"""`policyengine explain --log`: a logged request with the facts of its time, and how the decision differed."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.stores.memory.store import MemoryStore

HEAD = """language 1
package shop
issuer acme { url "https://login.example"   scopes none }
facts { body.amount: number? }
entity order { open: bool }
agent "bot" { issued by acme   acts alone   may GET /v1/orders, POST /v1/orders/{id: order} }
"""
GUARDS = """guard "only open orders" on POST /v1/orders/{id: order} { require resource.open   audit full }
guard "by day" on POST /v1/orders/{id: order} { deny unless time within mon..sun 08:00..18:00 "UTC" }
guard "not often" on POST /v1/orders/{id: order} { deny when count of (GET /v1/orders) within 1h >= 3 }
"""
STRICTER = GUARDS.replace(">= 3", ">= 2").replace("   audit full }", " }")


def entities(file: Path, *, open: bool) -> Path:
    file.write_text(json.dumps({"entities": [{"type": "order", "id": "1", "attributes": {"open": open}}]}))
    return file


@pytest.fixture
def logged(run, tmp_path) -> str:
    """The ID of an allowed decision, at ten o'clock after two other requests, in `d.jsonl`."""
    (tmp_path / "shop.policy").write_text(HEAD + GUARDS)
    now = [datetime(2026, 3, 2, 10, tzinfo=UTC)]
    log = DecisionLog(tmp_path / "d.jsonl", seal=None, redact=["body.amount"])
    engine = Engine.load(
        tmp_path / "shop.policy", entities=entities(tmp_path / "then.json", open=True), clock=lambda: now[0], log=log,
        store=MemoryStore(history_complete=True),
    )  # fmt: skip
    for method, path in (("GET", ""), ("GET", ""), ("POST", "/1")):
        request = {"method": method, "path": f"/v1/orders{path}"}
        agent = {"id": "bot", "issuer": "acme"}
        decision = engine.decide({"request": request, "agent": agent, "body": {"amount": 7}})
        now[0] += timedelta(minutes=1)
    log.close()
    return decision.id


def test_the_same_policies_decide_the_same_at_any_time_later(run, logged):
    ended = run("explain", "shop.policy", "--log", "d.jsonl", "--id", logged)
    lines = ended.out.splitlines()
    assert (ended.code, lines[0]) == (0, "allow")
    assert "time within mon..sun 08:00..18:00" in ended.out
    assert "count of (GET /v1/orders) within 1h >= 3" in ended.out
    place = lines.index(f"decision {logged} on line 4 of d.jsonl, with the facts of 2026-03-02T10:02:00Z")
    assert [line.split()[:3] for line in lines[place + 1 : place + 3]] == [
        ["then", "allow", "by"],
        ["now", "allow", "by"],
    ]
    assert lines[place + 3 :] == [
        "  endpoint: POST /v1/orders/{id: order}",
        "the same policies decide the same",
        "the log has no seal: `d.jsonl.tlog/checkpoint` is missing",
    ]


def test_other_policies_show_what_differs(run, logged, tmp_path):
    (tmp_path / "other.policy").write_text(HEAD + STRICTER)
    ended = run("explain", "other.policy", "--log", "d.jsonl", "--id", logged)
    assert ended.code == 10
    *_, title, reason, obligation, _ = ended.out.splitlines()
    assert title == "other policies decide differently:"
    assert reason.startswith('  + deny by guard "not often": ')
    assert obligation == '  - obligation of "only open orders": audit full'


def test_json_has_both_decisions_the_request_and_the_changes(run, logged, tmp_path):
    (tmp_path / "other.policy").write_text(HEAD + STRICTER)
    found = run("explain", "other.policy", "--log", "d.jsonl", "--id", logged, "--format", "json").json
    record = found["record"]
    assert (record["id"], record["time"], record["line"]) == (logged, "2026-03-02T10:02:00Z", 4)
    assert (record["decision"]["outcome"], found["decision"]["outcome"]) == ("allow", "deny")
    assert record["beyond_json"] == [{"at": ["body", "amount"], "is": "no_value", "value": ["redacted"] * 2}]
    assert record["request"]["request"] == {"method": "POST", "path": "/v1/orders/1"}
    assert (found["entities"], found["with_recorded_entities"], found["same_revision"]) == ("recorded", None, False)
    assert [(one["member"], one["then"] is None, one["now"] is None) for one in found["changes"]] == [
        ("outcome", False, False), ("reasons", True, False), ("obligations", False, True)
    ]  # fmt: skip
    assert (found["walk"]["endpoint"], found["seal"]["status"]) == ("POST /v1/orders/1", "none")


def test_other_entities_take_the_place_of_those_of_then(run, logged, tmp_path):
    entities(tmp_path / "now.json", open=False)
    arguments = ["explain", "shop.policy", "--log", "d.jsonl", "--id", logged, "--entities", "now.json"]
    ended = run(*arguments)
    rows = [line.split(" by ")[0].split() for line in ended.out.splitlines() if " by sha256:" in line]
    assert (ended.code, [(row[0], row[-1]) for row in rows]) == (
        10, [("then", "allow"), ("now,", "allow"), ("now,", "deny")]
    )  # fmt: skip
    found = run(*arguments, "--format", "json").json
    assert (found["entities"], found["with_recorded_entities"]["outcome"]) == ("given", "allow")


def test_a_record_without_its_entities_is_explained_with_others(run, logged, tmp_path):
    log = tmp_path / "d.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"directory":"sha' not in line[:30]))
    arguments = ["explain", "shop.policy", "--log", "d.jsonl", "--id", logged]
    ended = run(*arguments)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.endswith("the entities that this decision used\nhint: pass the entities: `--entities SOURCE`\n")
    assert run(*arguments, "--entities", "then.json").code == 0


def test_redacted_facts_and_old_approvals_are_noted(run, logged, tmp_path):
    (tmp_path / "other.policy").write_text(HEAD + 'guard "small" on /v1/** { deny when body.amount > 5 }\n')
    log = tmp_path / "d.jsonl"
    log.write_text(
        log.read_text().replace(
            '"body":{', '"approvals":[{"id":"a","by":"c","granted_at":"2026-03-02T10:00:00Z","binding":"b"}],"body":{'
        )
    )
    found = run("explain", "other.policy", "--log", "d.jsonl", "--id", logged)
    assert "note: the decision may depend on redacted facts: body.amount" in found.out
    assert "note: the approvals of the request were bound to other policies, so they do not count" in found.out


def test_rows_are_looked_up_until_the_decision_needs_no_more(run, logged, tmp_path):
    with closing(sqlite3.connect(tmp_path / "now.db", isolation_level=None)) as rows:
        rows.execute('CREATE TABLE "order" (id TEXT PRIMARY KEY, open INTEGER)')
        rows.execute("INSERT INTO \"order\" VALUES ('1', 0)")
    tables = 'url = "sqlite:///now.db"\n[directory.order]\ntable = "order"\nlookup = true\nattributes = ["open"]\n'
    (tmp_path / "now.toml").write_text(f"[directory]\n{tables}")
    ended = run("explain", "shop.policy", "--log", "d.jsonl", "--id", logged, "--entities", "now.toml")
    assert (ended.code, ended.err) == (10, "")
    assert '+ deny by guard "only open orders"' in ended.out


def test_a_changed_record_of_a_sealed_log_ends_with_1(run, project, tmp_path):
    log = DecisionLog(tmp_path / "d.jsonl")
    engine = Engine.load(project, entities=project / "entities.json", log=log)
    decided = engine.decide((project / "request.json").read_bytes())
    log.close()
    arguments = ["explain", project, "--log", "d.jsonl", "--id", decided.id]
    ended = run(*arguments)
    assert (ended.code, "✓ sealed as line 2 of 2" in ended.out) == (0, True)
    (tmp_path / "d.jsonl").write_text(
        (tmp_path / "d.jsonl").read_text().replace('"outcome":"allow"', '"outcome":"deny"')
    )
    ended = run(*arguments)
    assert (ended.code, ended.out.splitlines()[0][:50]) == (1, "✗ the seal of the log does not prove this record: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the request to explain is ambiguous"),
        (["--log", "d.jsonl"], 2, "the request to explain is ambiguous"),
        (["--id", "X"], 2, "the request to explain is ambiguous"),
        (["--log", "d.jsonl", "--id", "X", "--request", "-"], 2, "the request to explain is ambiguous"),
        (["--log", "d.jsonl", "--id", "X", "--identity", "i"], 2, "a logged request has no credentials to verify"),
        (["--log", "d.jsonl", "--id", "X"], 1, "no decision `X` in `d.jsonl`"),
    ],
)
def test_wrong_usage_is_one_message(run, logged, arguments, code, message):
    ended = run("explain", "shop.policy", *arguments)
    assert (ended.code, ended.out, message in ended.err) == (code, "", True)
