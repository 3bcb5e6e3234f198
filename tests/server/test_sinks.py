"""`serve --log-sink`: records arrive at their receiver, whichever worker decides, and metrics tell how many."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from policyengine.cli import main
from tests.audit.sinks.receivers import Receiver, http_receiver
from tests.processes import wait_until
from tests.server.processes import program, started

SERVE = "import sys; from policyengine.cli import main; sys.exit(main(sys.argv[1:]))"
QUESTION = {"request": {"method": "GET", "path": "/health"}}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "p.policy"
    path.write_text("anyone { may GET /health }")
    return path


@contextmanager
def serving(policy: Path, *options: str) -> Iterator[tuple[int, Any]]:
    with started(SERVE, "serve", str(policy), "--port", "0", "--format", "json", *options) as (line, process):
        yield int(json.loads(line)["listening"].rpartition(":")[2]), process


def send(port: int, method: str, path: str, body: object = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def decide(port: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(send(port, "POST", "/decide", QUESTION))
    return answer


def received(receiver: Receiver) -> list[str]:
    records = [json.loads(line) for request in list(receiver.requests) for line in request.body.splitlines()]
    return [record["decision"]["id"] for record in records if "decision" in record]


def metric(port: int, name: str) -> float:
    found = re.search(rf'^{name}{{sink="s"}} (\S+)$', send(port, "GET", "/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def url(receiver: Receiver, options: str = "") -> str:
    return f"http://127.0.0.1:{receiver.port}/#name=s{options}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_worker_sends_each_record_once(receiver, policy, tmp_path, workers):
    log = ["--log", str(tmp_path / "d.jsonl"), "--log-sink", url(receiver), "--workers", workers]
    with serving(policy, *log) as (port, _):
        asked = [decide(port)["id"] for _ in range(20)]
        wait_until(lambda: sorted(received(receiver)) == sorted(asked))
        wait_until(lambda: metric(port, "policyengine_sink_sent_total") >= 20)
        wait_until(lambda: metric(port, "policyengine_sink_lag_bytes") == 0)


def test_a_stopping_server_sends_its_last_records(receiver, policy, tmp_path):
    with serving(policy, "--log", str(tmp_path / "d.jsonl"), "--log-sink", url(receiver)) as (port, process):
        asked = decide(port)["id"]
        process.terminate()
        process.wait(30)
    assert received(receiver) == [asked]


def test_a_server_sends_what_its_predecessor_could_not_send(receiver, policy, tmp_path):
    receiver.statuses = [503] * 10_000
    options = ["--log", str(tmp_path / "d.jsonl"), "--log-sink", url(receiver)]
    with serving(policy, *options) as (port, process):
        asked = decide(port)["id"]
        wait_until(lambda: metric(port, "policyengine_sink_failures_total") > 0)
        wait_until(lambda: metric(port, "policyengine_sink_lag_bytes") > 0)
        process.terminate()
        assert (
            "the sink `s` fails: the receiver answers 503; records wait, and are sent again later"
            in (process.communicate()[1])
        )
    receiver.statuses.clear()
    with serving(policy, *options):
        wait_until(lambda: asked in received(receiver))


def test_a_spool_replaces_the_log(receiver, policy, tmp_path):
    spool = tmp_path / "spool"
    with serving(policy, "--log-spool", str(spool), "--log-sink", url(receiver)) as (port, _):
        asked = decide(port)["id"]
        wait_until(lambda: received(receiver) == [asked])
    assert sorted(path.name for path in spool.glob("[!.]*")) == ["records.jsonl", "s.cursor", "s.lock"]
    assert spool.stat().st_mode & 0o777 == 0o700


def test_records_on_the_standard_output_are_alone_there(policy, tmp_path):
    options = ["--log", str(tmp_path / "d.jsonl"), "--log-sink", "stdout:", "--port", "0", "--format", "json"]
    with program(SERVE, "serve", str(policy), *options) as process:
        port = int(json.loads(process.stderr.readline())["listening"].rpartition(":")[2])
        asked = decide(port)["id"]
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()
        process.communicate()
    assert lines[0] == "\n"
    assert json.loads(lines[1])["system"]["event"] == "started"
    assert json.loads(lines[2])["decision"]["id"] == asked


# ── Mistakes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--log-sink", "ftp://h"], 2,
         "error: `ftp:` is not a sink\nhint: for example `https://siem.example/ingest`, `otlp+https://collector:4318`, "
         "`syslog+tcp://host:601`, `stdout:`\n"),
        (["--log-sink", "stdout:"], 2,
         "error: sinks need a log or a spool\nhint: keep a log (`--log FILE`), or name a folder for records that are "
         "not sent yet: `--log-spool FOLDER`\n"),
        (["--log-spool", "x"], 2, "error: there is no sink\nhint: name one: `--log-sink URL`\n"),
        (["--log-sink", "stdout:", "--log-spool", "x", "--log-keep", "3", "--log-rotate", "1MB"], 2,
         "error: only a decision log can be rotated, and there is no decision log\nhint: name its file: "
         "`--log decisions.jsonl`\n"),
        (["--log-sink", "http://siem.example/", "--log", "d.jsonl"], 1,
         "error: the sink `http://siem.example`: the URL must begin with `https://`\nhint: `#plain_http=true` permits "
         "`http://` to other machines: anyone on the network path can then read the records\n"),
        (["--log-sink", "stdout:", "--log-spool", "p.policy"], 1, "error: `p.policy`: file exists\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(policy, tmp_path, monkeypatch, capsys, options, code, error):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "p.policy", "--port", "0", *options]) == code
    assert capsys.readouterr().err == error


def test_a_gateway_over_stdio_cannot_write_records_to_its_output(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--upstream", "cat", "--server", "s", "--as", "agent=a", "--log", "d.jsonl", "--log-sink", "stdout:"]
    assert main(["mcp-gateway", "p.policy", *arguments]) == 2
    assert capsys.readouterr().err == (
        "error: over stdio, the output belongs to the protocol\nhint: use another sink\n"
    )


def test_settings_may_name_sinks_and_do_not_show_them(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("policyengine.toml").write_text('[log]\nfile = "d.jsonl"\nsinks = ["https://siem.example/s3cret"]\n')
    assert main(["config", "show", "p.policy"]) == 0
    shown = capsys.readouterr().out
    assert 'sinks = ["https://siem.example/***"]' in shown
    assert "s3cret" not in shown


def test_a_wrong_sink_in_the_settings_is_reported_with_its_place(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("policyengine.toml").write_text('[log]\nfile = "d.jsonl"\nsinks = ["https://u:s3cret@siem.example/"]\n')
    assert main(["config", "check", "p.policy"]) == 1
    told = capsys.readouterr().err
    assert "a sink must have no password in its URL: `https://…@siem.example`" in told
    assert "s3cret" not in told


def test_a_seal_that_fails_shows_in_the_metrics(policy, tmp_path):
    log = tmp_path / "d.jsonl"

    def value(port: int, name: str) -> float:
        found = re.search(rf"^policyengine_{name} (\S+)$", send(port, "GET", "/metrics"), re.MULTILINE)
        assert found is not None
        return float(found[1])

    with serving(policy, "--log", str(log)) as (port, _):
        wait_until(lambda: (log.with_name("d.jsonl.tlog") / "checkpoint").exists())  # covers the start of the server
        wait_until(lambda: value(port, "log_unsealed_seconds") == 0)
        decide(port)
        wait_until(lambda: value(port, "log_unsealed_seconds") == 0)
        assert value(port, "seal_failures_total") == 0
        log.with_name("d.jsonl.tlog").rename(tmp_path / "away")
        decide(port)
        wait_until(lambda: value(port, "seal_failures_total") > 0)
        wait_until(lambda: value(port, "log_unsealed_seconds") > 0)
