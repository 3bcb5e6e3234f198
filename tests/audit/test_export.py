"""Exports, read by independent readers of their formats."""

from __future__ import annotations

import csv
import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.exports.ocsf import encode_ocsf
from policyengine.audit.exports.tables import COLUMNS, format_cell
from policyengine.audit.record_summary import RecordSummary, find_record, summarize
from policyengine.cli import main
from tests.audit.export_lines import LINES, encoded

RECORDS = LINES[1:]  # the first line has entity rows
MISSING = "error: `{}`: no such file or directory\nhint: paths are relative to the current folder\n"


ODD = (
    "error: `odd.txt` is not a decision log: odd.txt:1: not valid JSON at line 1, column 1: a value was expected\n"
    "hint: name a file that `serve --log` or `audit pack` wrote\n"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"".join(encoded()))
    return path


def exported(log: Path, form: str) -> bytes:
    out = log.parent / f"out.{form}"
    assert main(["audit", "export", str(log), "--format", form, "-o", str(out)]) == 0
    return out.read_bytes()


def events(log: Path, form: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported(log, form).splitlines()]


# ── OCSF ──────────────────────────────────────────────────────────────────────────────────────


@cache
def validator(version: str) -> Draft202012Validator:
    """The published schema of the class 6003, with all of its objects and constraints."""
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
    name = schema.lookup_class_name_from_uid(class_uid=6003)
    return Draft202012Validator(schema.get_class_schema(class_name=name, profiles=["security_control"]))


def mistakes(event: dict[str, Any], version: str = "1.4.0") -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(version).iter_errors(event)]


def test_every_event_is_valid_by_the_published_schema(log):
    found = events(log, "ocsf")
    assert len(found) == len(RECORDS)
    assert {event["metadata"]["event_code"]: mistakes(event) for event in found if mistakes(event)} == {}
    assert {event["metadata"]["version"] for event in found} == {"1.4.0"}


@pytest.mark.parametrize("version", ["1.5.0", "1.6.0", "1.7.0", "1.8.0"])
def test_every_event_is_also_valid_by_other_versions_of_the_schema(log, version):
    assert [mistakes(event, version) for event in events(log, "ocsf") if mistakes(event, version)] == []


def test_the_validator_finds_mistakes(log):
    event = events(log, "ocsf")[0]
    del event["api"]["operation"]
    event["activity_id"] = 7
    event["src_endpoint"] = {}
    assert len(mistakes(event)) >= 3


def test_an_event_says_who_asked_for_what_and_how_it_ended(log):
    deny, observed, failure, outcome, *_ = events(log, "ocsf")
    assert deny["time"] == 1_800_000_000_000
    assert deny["type_uid"] == 600301
    assert deny["actor"] == {
        "app_uid": "bot", "app_name": "bot", "user": {"uid": "alice", "name": "alice", "type_id": 1},
        "idp": {"name": "acme", "uid": "acme"},
        "authorizations": [{
            "decision": "deny",
            "policy": {"name": "=no nights", "version": "sha256:1", "group": {"name": "acme.shop"}},
        }],
    }  # fmt: skip
    assert (deny["src_endpoint"]["ip"], deny["resources"]) == (
        "10.1.2.3", [{"uid": "42", "name": "invoice/42", "type": "invoice"}],
    )  # fmt: skip
    assert (deny["status"], deny["action"], deny["disposition"]) == ("Failure", "Denied", "Blocked")
    assert deny["unmapped"]["policyengine"]["chain"] == ["alice", "planner", "bot"]
    assert (observed["activity_id"], observed["activity_name"]) == (99, "TOOL billing/refund")
    assert (observed["status"], observed["action"]) == ("Success", "Allowed")
    assert (failure["severity"], failure["status"]) == ("High", "Failure")
    assert outcome["http_response"] == {"code": 503, "latency": 12, "length": 3120}
    assert outcome["metadata"]["uid"] == "D1:outcome"


def test_an_empty_record_is_still_a_valid_event():
    assert mistakes(encode_ocsf(RecordSummary("system", ""))) == []


# ── CloudEvents ───────────────────────────────────────────────────────────────────────────────


def test_every_event_is_read_by_the_sdk_of_cloudevents(log):
    raw = exported(log, "cloudevents").splitlines()
    found = [
        from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, line))
        for line in raw
    ]  # fmt: skip
    assert [event.get_type() for event in found] == [
        f"policyengine.{kind}" for kind in (
            "decision decision decision outcome outcome issued not_issued ended system system seal".split()
        )
    ]  # fmt: skip
    first = found[0]
    assert (first.get_id(), first.get_source(), first.get_subject()) == (
        "D1:decision", "urn:policyengine:acme.shop", "POST /pay",
    )  # fmt: skip
    assert first.get_time().isoformat() == "2027-01-15T08:00:00.000001+00:00"
    assert len({(event.get_source(), event.get_id()) for event in found}) == len(RECORDS)


def test_the_data_of_an_event_is_the_line_as_it_is_written(log):
    first = exported(log, "cloudevents").splitlines()[0]
    assert first.endswith(b'"data":' + encoded()[1].rstrip(b"\n") + b"}")


# ── Tables ────────────────────────────────────────────────────────────────────────────────────


def test_a_csv_file_has_a_row_for_each_record(log):
    rows = list(csv.DictReader(exported(log, "csv").decode().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(RECORDS)
    first = {name: value for name, value in rows[0].items() if value}
    assert first == {
        "kind": "decision", "time": "2027-01-15T08:00:00.000001Z", "id": "D1", "outcome": "deny", "gate": "guard",
        "rule": "'=no nights", "message": "'+it is, \"night\"", "observed": "false", "agent": "bot", "issuer": "acme",
        "user": "alice", "chain": "alice > planner > bot", "client": "web", "task": "t-1", "model": "m-1",
        "method": "POST", "path": "/pay", "host": "api.example", "ip": "10.1.2.3", "endpoint": "POST /pay",
            "target": "POST /pay",
        "resource": "invoice/42", "credential": "sha256:9", "package": "acme.shop", "revision": "sha256:1",
        "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }  # fmt: skip


def test_no_cell_is_a_formula(log):
    rows = csv.reader(exported(log, "csv").decode().splitlines())
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))] == []


@pytest.mark.parametrize("text", ["=1", "  =1", "＝1", "＋1", "@a"])
def test_a_text_that_a_spreadsheet_could_run_is_quoted(text):
    assert format_cell(text).startswith("'")


def test_a_parquet_file_has_typed_columns(log):
    exported(log, "parquet")
    table = duckdb.sql(f"SELECT * FROM '{log.parent / 'out.parquet'}'")
    types = dict(zip(table.columns, map(str, table.types), strict=True))
    assert (types["time"], types["chain"], types["status"], types["id"]) == (
        "TIMESTAMP WITH TIME ZONE", "VARCHAR[]", "BIGINT", "VARCHAR",
    )  # fmt: skip
    rows = table.fetchall()
    assert len(rows) == len(RECORDS)
    assert rows[0][COLUMNS.index("rule")] == "=no nights"
    assert rows[0][COLUMNS.index("chain")] == ["alice", "planner", "bot"]
    assert rows[3][COLUMNS.index("latency_ms")] == 12.5


def test_a_table_without_records_is_still_a_table(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(encoded()[0])
    exported(tmp_path / "d.jsonl", "parquet")
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path / 'out.parquet'}'").fetchall() == [(0,)]
    assert exported(tmp_path / "d.jsonl", "csv").decode() == ",".join(COLUMNS) + "\n"


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def test_rotated_files_are_exported_in_order(log, capsys):
    with gzip.open(f"{log}.20270115T080000.000000Z.gz", "wb") as old:
        old.write(encoded()[2])
    assert [event["id"] for event in events(log, "cloudevents")][:2] == ["D2:decision", "D1:decision"]
    assert f"wrote {log.parent / 'out.cloudevents'}: 12 records\n" in capsys.readouterr().out


def test_lines_that_are_not_records_are_reported_and_counted(log, capsys):
    with log.open("ab") as file:
        file.write(b"not json\n" + encoded()[1][:40] + encoded()[3])
    exported(log, "csv")
    told = capsys.readouterr()
    assert told.out == f"wrote {log.parent / 'out.csv'}: 12 records, 1 line skipped\n"
    assert told.err == f"warning: {log}:13: skipped this line: it is not a complete record\n"


@pytest.mark.parametrize("form", ["ocsf", "parquet"])
def test_only_the_owner_can_read_an_export(log, form):
    exported(log, form)
    assert (log.parent / f"out.{form}").stat().st_mode & 0o777 == 0o600


def test_text_is_written_to_the_standard_output_by_default(log, capsys):
    assert main(["audit", "export", str(log), "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("kind,time,id,")


def test_a_decision_has_the_resource_that_the_engine_logged(tmp_path):
    policy = "entity invoice {} anyone { may GET /invoices/{id: invoice} }"
    log = DecisionLog(tmp_path / "d.jsonl", seal=None)
    engine = Engine.from_text(policy, log=log)
    engine.decide({"request": {"method": "GET", "path": "/invoices/42"}})
    log.close()
    [row] = csv.DictReader(exported(tmp_path / "d.jsonl", "csv").decode().splitlines())
    assert row["resource"] == "invoice/42"
    line = {"v": 2, "time": "", "client": "edge", "decision": {}, "request": {"credential": {"client": "web"}}}
    assert summarize(line).client == "edge"


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("output", ["d.jsonl", "link", "d.jsonl.1", "d.jsonl.key", "d.jsonl.tlog/checkpoint"])
def test_an_export_does_not_replace_a_file_of_the_log(tmp_path, monkeypatch, capsys, form, output):
    monkeypatch.chdir(tmp_path)
    for name in ("d.jsonl", "d.jsonl.1"):
        Path(name).write_bytes(encoded()[1])
    Path("link").symlink_to("d.jsonl")
    before = sorted(os.listdir())
    assert main(["audit", "export", "d.jsonl", "--format", form, "-o", output]) == 2
    message = f"error: `{output}` belongs to the log `d.jsonl` and is not replaced\nhint: name another file\n"
    assert capsys.readouterr().err == message
    assert (Path("d.jsonl").read_bytes(), sorted(os.listdir())) == (encoded()[1], before)


def test_a_pipe_is_written_to_and_not_replaced(log, capsys):
    pipe = log.with_name("pipe")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["audit", "export", str(log), "--format", "csv", "-o", str(pipe)]) == 0
    assert os.read(reader, 5) == b"kind,"
    assert main(["audit", "export", str(log), "--format", "parquet", "-o", str(pipe)]) == 1
    assert (capsys.readouterr().err, pipe.is_fifo()) == (f"error: `{pipe}` is not a regular file\n", True)
    os.close(reader)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["odd.txt", "--format", "csv"], 1,
         ODD),
        (["odd.txt", "--format", "parquet", "-o", "x"], 1,
         ODD),
        (["d.jsonl", "--format", "csv", "-o", "."], 1, "error: `.`: is a directory\n"),
        (["d.jsonl", "--format", "parquet", "-o", "."], 1, "error: `.`: is a directory\n"),
        (["missing.jsonl", "--format", "csv"], 1, MISSING.format("missing.jsonl")),
        (["d.jsonl", "--format", "csv", "-o", "no/x.csv"], 1, MISSING.format("no/x.csv")),
        (["d.jsonl", "--format", "parquet", "-o", "no/x"], 1, MISSING.format("no/x")),
        (["d.jsonl", "--format", "parquet"], 2,
         "error: a Parquet file cannot be written to the standard output\nhint: name a file: `-o decisions.parquet`\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys, arguments, code, error):
    monkeypatch.chdir(tmp_path)
    Path("d.jsonl").write_bytes(encoded()[1])
    Path("odd.txt").write_text("no record\n" * 300)
    assert main(["audit", "export", *arguments]) == code
    assert capsys.readouterr().err == error
    assert sorted(os.listdir()) == ["d.jsonl", "odd.txt"]


def test_without_duckdb_the_extra_is_named(log, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    assert main(["audit", "export", str(log), "--format", "parquet", "-o", "x.parquet"]) == 1
    assert capsys.readouterr().err == (
        "error: the package `duckdb` is not installed\n"
        "hint: in a checkout of policyengine: `pip install -c constraints.txt '.[audit]'`\n"
    )


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [None, 7, [], {}, "x", [[]], {"id": {}}, True, 1e400])
def test_members_of_unexpected_types_count_as_absent(value):
    tree = {"v": 1, "time": value, "decision": value, "request": value, "outcome": value, "trace": value}
    assert summarize(tree).kind == "decision"
    for kind in ("outcome", "issued", "ended", "system"):
        row = summarize({"v": 2, "time": value, kind: value})
        assert mistakes(encode_ocsf(row)) == []


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"v":1}', b'{"v":"1","decision":{}}', b"\xff", b"[" * 100_000])
def test_a_line_that_is_no_record_has_no_row(line):
    assert find_record(line) is None
