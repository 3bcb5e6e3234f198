"""What a server says of itself: a line of JSON for each thing that happened, and no secrets."""

from __future__ import annotations

import http.client
import io
import json
import logging
import re
import signal
from contextlib import closing
from pathlib import Path

import pytest

from policyengine.circuit_breaker import PAUSE_SECONDS
from policyengine.engine import Engine
from policyengine.server.telemetry.server_log import EXTRA_MEMBERS, LogFormat, server_logging
from policyengine.stores.base import StoreError
from policyengine.stores.circuit_breaker import StoreBreaker
from tests.server.conftest import OPEN, POLICY
from tests.server.processes import started
from tests.server.test_log import SERVE

_LOG = logging.getLogger("policyengine")


def lines(form: LogFormat, *happening: object) -> list[str]:
    stream = io.StringIO()
    with server_logging(form, lambda: "sha256:1", stream):
        for one in happening:
            one()  # type: ignore[operator]
    return stream.getvalue().splitlines()


def reloaded() -> None:
    _LOG.info("the policies were reloaded: %s", "b", extra={"event": "reload", "revision": "b", "before": "a"})


def test_each_log_event_is_a_line_of_json() -> None:
    (line,) = lines(LogFormat.JSON, reloaded)
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "info", "event": "reload", "message": "the policies were reloaded: b", "revision": "b", "before": "a",
    }  # fmt: skip


def test_records_without_an_event_and_uvicorn_records_are_logged_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "level", logging.NOTSET)  # which its servers here have set
    logging.getLogger("uvicorn.error").manager._clear_cache()  # type: ignore[attr-defined]
    found = [
        json.loads(line) for line in lines(LogFormat.JSON, lambda: logging.getLogger("uvicorn.error").warning("x\ny"))
    ]
    assert [(one["event"], one["message"], one["revision"]) for one in found] == [("log", "x\ny", "sha256:1")]


def test_the_text_log_omits_routine_events() -> None:
    said = lines(
        LogFormat.TEXT, reloaded, lambda: _LOG.info("listening", extra={"event": "listening"}), lambda: _LOG.error("e")
    )
    assert said == ["the policies were reloaded: b", "e"]


def test_the_text_log_has_the_findings_of_a_refused_reload_on_indented_lines() -> None:
    def refused() -> None:
        _LOG.error("not reloaded: %s", "1 guard\n\na\rb\nhint: c", extra={"event": "reload_refused"})

    assert lines(LogFormat.TEXT, refused) == ["not reloaded: 1 guard", "  a\\rb", "  hint: c"]
    assert lines(LogFormat.TEXT, lambda: _LOG.error("a\nb")) == ["a\\nb"]


def test_the_log_of_a_failed_decision_has_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_text(POLICY)
    monkeypatch.setattr(engine.decider.compiled.evaluator, "plan", lambda *_: 1 / 0)
    given: list[str] = []
    (line,) = lines(LogFormat.JSON, lambda: given.append(engine.decide(OPEN).id))
    found = json.loads(line)
    assert (found["event"], found["level"], found["decision"]) == ("decision_failed", "error", given[0])
    assert "ZeroDivisionError" in found["exception"]


def test_an_outage_of_the_store_and_its_end_are_logged_once() -> None:
    now = [0.0]
    breaker = StoreBreaker(lambda: now[0])

    def fails() -> None:
        with pytest.raises(StoreError), breaker:
            raise StoreError("no answer")

    def answers() -> None:
        now[0] += PAUSE_SECONDS
        with breaker:
            pass

    found = [json.loads(line) for line in lines(LogFormat.JSON, *[fails] * 3, answers, answers)]
    assert [(one["event"], one["level"], one["operation"]) for one in found] == [
        ("store_fails", "error", "read"), ("store_answers", "warning", "read"),
    ]  # fmt: skip


VALUES = {
    "read",
    "write",
    "policies",
    "tests",
    "entities",
    "removed",
    "widening",
    "failure",
    "on",
    "lifted",
    "ended",
}  # of documented members


def test_every_documented_member_is_logged() -> None:
    table = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8").partition("| event |")[2]
    last = [line.rstrip("| ").rpartition(" | ")[2] for line in table.partition("\n\n")[0].splitlines()[2:]]
    documented = {
        name for cell in last if cell.startswith(("`", "the first `")) for name in re.findall("`(\\w+)`", cell)
    }
    assert documented >= {"listening", "operation", "refusals", "skew_ms", "reasons", "jti", "status"}
    assert documented - VALUES - {"exception"} <= {*EXTRA_MEMBERS}


def test_server_logging_restores_the_loggers() -> None:
    before = [
        (one.level, one.propagate, list(one.handlers)) for one in map(logging.getLogger, ("policyengine", "uvicorn"))
    ]
    lines(LogFormat.JSON, reloaded)
    assert before == [
        (one.level, one.propagate, list(one.handlers)) for one in map(logging.getLogger, ("policyengine", "uvicorn"))
    ]


def test_a_server_logs_when_it_listens_and_when_it_stops_and_no_token(tmp_path: Path) -> None:
    (tmp_path / "p.policy").write_text(POLICY)
    arguments = ["serve", str(tmp_path), "--port", "0", "--format", "json", "--log-format", "json"]
    secret = "a-very-secret-token"
    with started(SERVE, *arguments) as (first, process):
        port = int(json.loads(first)["listening"].rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            headers = {"content-type": "application/json", "authorization": f"Bearer {secret}", "x-request-id": "r-1"}
            connection.request("POST", "/decide", json.dumps(OPEN), headers)
            assert connection.getresponse().status == 200
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["listening", "stopped"]
    assert {json.loads(line)["revision"] for line in said.splitlines()} == {Engine.from_text(POLICY).revision}
    assert secret not in said
