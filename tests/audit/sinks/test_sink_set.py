"""The sinks of a log: what they see, when they deny, and what a spool keeps."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import active_count

import pytest

from policyengine.audit import DecisionLog, DecisionLogError, Rotation
from policyengine.audit.sinks import sender, sink_set
from policyengine.audit.sinks.cursor import read_cursor
from policyengine.audit.sinks.sink_set import SinkOptions, SinkSet
from policyengine.audit.sinks.targets import parse_sinks
from policyengine.engine import Engine
from tests.audit.sinks.receivers import Receiver, http_receiver
from tests.processes import wait_until

POLICY = """
facts on POST /pay { body.amount: number   body.recipient: string   body.receipt: string }
anyone { may POST /pay }
guard "no big payments" on POST /pay { deny when body.amount > 10 message "{body.amount} for {body.recipient}" }
guard "receipts" on POST /pay { redact body.receipt }
"""
SECRETS = {
    "authorization": "Bearer canary-header", "x-api-key": "canary-api-key",
}  # fmt: skip
QUESTION = {
    "request": {"method": "POST", "path": "/pay", "headers": SECRETS},
    "body": {"amount": 90, "recipient": "canary-recipient", "password": "canary-password",
             "nested": {"client_secret": "canary-nested"}},
    "args": {"deep": [{"note": "canary-note"}]},
}  # fmt: skip
CANARY = b"canary-"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(sink_set, "IDLE_SECONDS", 0.01)


def url(receiver: Receiver, options: str = "#name=s") -> str:
    return f"http://127.0.0.1:{receiver.port}/{options}"


def sinks_of(log: DecisionLog) -> SinkSet:
    assert log.sinks is not None
    return log.sinks


def bodies(receiver: Receiver) -> bytes:
    return b"".join(request.body for request in list(receiver.requests))


# ── Redaction ─────────────────────────────────────────────────────────────────────────────────


def test_no_sink_sees_more_than_the_log(receiver, tmp_path, capfd):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        datagrams.settimeout(10)
        with http_receiver() as otlp, http_receiver() as ocsf, http_receiver() as events:
            log = DecisionLog(
                tmp_path / "d.jsonl", redact=["body.recipient", "args.**.note"],
                sinks=[
                    url(receiver), f"otlp+http://127.0.0.1:{otlp.port}", url(ocsf, "#name=ocsf&records=ocsf"),
                    url(events, "#name=events&records=cloudevents"), "stdout:",
                    f"syslog+udp://127.0.0.1:{datagrams.getsockname()[1]}",
                ],
            )  # fmt: skip
            engine = Engine.from_text(POLICY, log=log)
            decided = engine.decide(QUESTION)
            assert engine.decide({**QUESTION, "body": {"amount": 5, "receipt": "canary-receipt"}}).allowed
            log.note("issued", {"client": "c", "jti": "j", "token": "canary-token"}, 1_800_000_000)
            wait_until(lambda: all(sink.sender.sent == 3 for sink in sinks_of(log).sinks))
            written = (tmp_path / "d.jsonl").read_bytes()
            log.close()
            seen = {
                "http": bodies(receiver), "otlp": bodies(otlp), "ocsf": bodies(ocsf), "cloudevents": bodies(events),
                "stdout": capfd.readouterr().out.encode(),
                "syslog": b"".join(datagrams.recv(100_000) for _ in range(3)),
            }  # fmt: skip
    assert "canary-recipient" in decided.reasons[0].message  # the caller sees the reason; the log withholds it
    assert CANARY not in written
    assert {name for name, sent in seen.items() if CANARY in sent} == set()
    assert {name for name, sent in seen.items() if decided.id.encode() not in sent} == set()
    lines = [line for line in written.splitlines() if b'"directory":"' not in line[:30]]
    assert bodies(receiver).splitlines() == lines
    assert {name for name in ("stdout", "syslog") if lines[0] not in seen[name]} == set()


# ── Lag ───────────────────────────────────────────────────────────────────────────────────────

BIG = {"request": {"method": "GET", "path": "/health"}, "body": {"text": "x" * 50_000}}


def deciding(tmp_path: Path, sinks: SinkOptions, **options: object) -> tuple[Engine, DecisionLog]:
    log = DecisionLog(tmp_path / "d.jsonl", sinks=sinks, seal=None, **options)  # type: ignore[arg-type]
    return Engine.from_text("anyone { may GET /health }", log=log), log


def test_a_sink_that_denies_denies_beyond_its_bound_until_it_has_caught_up(receiver, tmp_path, caplog):
    caplog.set_level(logging.INFO, "policyengine")
    receiver.may_answer.clear()
    options = SinkOptions(parse_sinks([url(receiver, "#name=s&lag=1MB&on_lag=deny")]))
    engine, log = deciding(tmp_path, options)
    while sinks_of(log).sinks[0].lag <= 1_000_000:
        engine.decide(BIG)
    denied = engine.decide(BIG)
    assert (str(denied.outcome), str(denied.gate)) == ("deny", "failure")
    assert denied.reasons[0].message == "the decision could not be recorded; the operator's log says why"
    assert not log.note("issued", {"jti": "j"}, 0)  # and no token is issued
    assert log.note("ended", {"what": "task"}, 0)  # but access can be taken away
    assert sinks_of(log).sinks[0].counts["sink_denials"] == 2
    receiver.may_answer.set()
    wait_until(lambda: engine.decide(BIG).allowed)
    log.close()
    assert denied.id.encode() not in (tmp_path / "d.jsonl").read_bytes()
    events = [(record.event, record.sink) for record in caplog.records if hasattr(record, "event")]
    assert events == [("sink_lags", "s"), ("sink_caught_up", "s")]
    assert caplog.messages[0].endswith(" MB, more than its bound: decisions are denied")


def test_a_sink_that_continues_never_denies(receiver, tmp_path, caplog):
    receiver.may_answer.clear()
    engine, log = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver, "#name=s&lag=1MB")])))
    decisions = [engine.decide(BIG) for _ in range(60)]
    wait_until(lambda: sinks_of(log).sinks[0].lagging)
    decisions.append(engine.decide(BIG))
    assert all(decision.allowed for decision in decisions)
    receiver.may_answer.set()
    wait_until(lambda: sinks_of(log).sinks[0].sender.sent == 61)
    wait_until(lambda: len(caplog.messages) == 2)
    log.close()
    assert caplog.messages[0].endswith(" MB, more than its bound: decisions are not denied")
    assert caplog.messages[1:] == ["the sink `s` has caught up"]


def test_a_sink_that_lags_after_a_restart_denies_from_the_first_decision(receiver, tmp_path):
    receiver.may_answer.clear()
    engine, log = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver, "#name=s&lag=1MB")])))
    for _ in range(30):
        engine.decide(BIG)
    sinks_of(log).stop(0.0)
    again, _ = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver, "#name=s&lag=1MB&on_lag=deny")])))
    assert not again.decide(BIG).allowed


# ── Spools ────────────────────────────────────────────────────────────────────────────────────


def spool(receiver: Receiver, options: str) -> SinkOptions:
    return SinkOptions(parse_sinks([url(receiver, options)]), spool=True)


def test_a_spool_deletes_what_every_sink_has_sent(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(sink_set, "FINISHED_SECONDS", 0.0)
    monkeypatch.setattr("policyengine.audit.sinks.log_follower.FINISHED_SECONDS", 0.0)
    options = spool(receiver, "#name=s&lag=4MB")
    engine, log = deciding(tmp_path, options, rotation=Rotation(options.part_bytes))
    for _ in range(40):
        engine.decide(BIG)
    wait_until(lambda: sinks_of(log).sinks[0].sender.sent == 40)
    wait_until(lambda: not list(tmp_path.glob("d.jsonl.2*")))
    log.close()


def test_a_spool_denies_by_default(receiver, tmp_path):
    receiver.may_answer.clear()
    options = spool(receiver, "#name=s&lag=1MB")
    engine, log = deciding(tmp_path, options, rotation=Rotation(options.part_bytes))
    wait_until(lambda: not engine.decide(BIG).allowed)
    size = sum(path.stat().st_size for path in tmp_path.glob("d.jsonl*") if path.is_file())
    assert 1_000_000 < size < 10_000_000
    receiver.may_answer.set()
    log.close()


def total_size(paths):
    """Return the size of files, of which some may be deleted meanwhile."""
    size = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def test_a_spool_that_continues_stays_within_its_bound_and_counts_the_loss(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(sink_set, "FINISHED_SECONDS", 0.0)
    monkeypatch.setattr("policyengine.audit.sinks.log_follower.FINISHED_SECONDS", 0.0)
    receiver.statuses = [503] * 10_000
    options = spool(receiver, "#name=s&lag=1MB&on_lag=continue")
    engine, log = deciding(tmp_path, options, rotation=Rotation(options.part_bytes))
    sink = sinks_of(log).sinks[0]
    for _ in range(100):
        assert engine.decide(BIG).allowed
    wait_until(lambda: sink.sender.lost > 0 and sink.sender.lag() <= 1_000_000)
    wait_until(lambda: total_size(tmp_path.glob("d.jsonl.2*")) <= 1_100_000)
    receiver.statuses.clear()
    sink.sender._retry_at = 0.0
    wait_until(lambda: sink.sender.sent + sink.sender.lost == 100)
    log.close()


# ── Processes ─────────────────────────────────────────────────────────────────────────────────


def test_a_log_without_decisions_starts_no_thread(receiver, tmp_path):
    before = active_count()
    _, log = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver)])))
    assert active_count() == before
    log.close()


def test_closing_a_log_sends_what_is_left(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "IDLE_SECONDS", 60.0)
    engine, log = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver)])))
    sinks_of(log).wake()
    wait_until(lambda: sinks_of(log).sinks[0].sender._lock >= 0)
    engine.decide(BIG)
    log.close()
    assert len(receiver.requests) == 1


def test_a_restart_sends_what_was_left_without_a_new_decision(receiver, tmp_path):
    receiver.statuses = [503] * 1_000
    engine, log = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver)])))
    decided = engine.decide(BIG)
    log.close()
    receiver.statuses.clear()
    _, again = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver)])))
    sinks_of(again).wake()
    wait_until(lambda: decided.id.encode() in bodies(receiver))
    again.close()


def test_forked_processes_take_turns(receiver, tmp_path):
    engine, log = deciding(tmp_path, SinkOptions(parse_sinks([url(receiver)])))
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(50):
                    engine.decide({"request": {"method": "GET", "path": "/health"}})
                log.close()
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    sinks_of(log).wake()
    wait_until(lambda: bodies(receiver).count(b"\n") >= 100)
    log.close()
    sent = [json.loads(line)["decision"]["id"] for line in bodies(receiver).splitlines()]
    assert (len(sent), len(set(sent))) == (100, 100)
    cursor = read_cursor(tmp_path / "d.jsonl.sinks", "s")
    assert cursor is not None
    assert (cursor.sent, cursor.lost) == (100, 0)


# ── Mistakes ──────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_sink_is_an_error_of_the_log(tmp_path):
    with pytest.raises(DecisionLogError) as raised:
        DecisionLog(tmp_path / "d.jsonl", sinks=["ftp://h"])
    assert raised.value.message == "`ftp:` is not a sink"


def test_a_folder_that_cannot_be_written_is_an_error_of_the_log(tmp_path):
    (tmp_path / "d.jsonl.sinks").write_text("")
    with pytest.raises(DecisionLogError) as raised:
        DecisionLog(tmp_path / "d.jsonl", sinks=["stdout:"])
    assert (
        raised.value.message == f"the folder `{tmp_path / 'd.jsonl.sinks'}` of the sinks cannot be written: file exists"
    )
    assert raised.value.hint == "make the folder writable, or name another folder"


def test_only_the_owner_can_read_the_state_of_sinks(tmp_path):
    DecisionLog(tmp_path / "d.jsonl", sinks=["stdout:"]).close()
    folder = tmp_path / "d.jsonl.sinks"
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, folder / "stdout.cursor")] == ["0o700", "0o600"]
