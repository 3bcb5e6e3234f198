"""Lines about tokens: written like decisions, in the same file, and skipped by readers of decisions only."""

from __future__ import annotations

import errno
import json
import os
import time
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit import (
    DecisionLog,
    DecisionRecord,
    Rotation,
    SystemRecord,
    TokenEvent,
    TokenEventKind,
    log_file,
    read_log,
    read_records,
    rotation,
)
from policyengine.audit.files import log_files
from policyengine.audit.rotation import compress, tidy
from policyengine.engine import Engine
from policyengine.http.trace_context import parse_trace_context, trace_scope
from policyengine.runtime.values import Invalid

POLICY = "anyone { may GET /health }"
OPEN = {"request": {"method": "GET", "path": "/health"}, "credential": {"fingerprint": "sha256:1"}}
NOW = 1_800_000_000
ISSUED: dict[str, object] = {
    "client": "summarizer", "user": {"id": "alice"}, "task": {"id": "t-1", "entities": ["42"]}, "revision": "sha256:r",
    "credential": {"fingerprint": "sha256:1", "scopes": ["a", "b"], "claims": {"api_key": "hunter2", "plan": "pro"},
                   "expires_at": datetime(2027, 1, 15, 8, 15, tzinfo=UTC)},
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def engine(path: Path, **options: Any) -> tuple[Engine, DecisionLog]:
    log = DecisionLog(path, **options)
    return Engine.from_text(POLICY, log=log), log


def entries(path: Path) -> list[DecisionRecord | TokenEvent]:
    """All of them; no line may be one that readers have to leave out."""
    told: list[str] = []
    found = list(read_log(path, told.append))
    assert told == []
    return found


def only(path: Path) -> TokenEvent:
    (found,) = entries(path)
    assert isinstance(found, TokenEvent)
    return found


def test_a_token_event_is_logged_with_its_data(path: Path) -> None:
    assert DecisionLog(path).note(TokenEventKind.ISSUED, ISSUED, NOW)
    found = only(path)
    assert (found.what, found.time, found.line) == (TokenEventKind.ISSUED, datetime.fromtimestamp(NOW, UTC), 1)
    assert (found.fingerprint, found.revision, found.trace) == ("sha256:1", "sha256:r", None)
    assert found.told["credential"]["expires_at"] == "2027-01-15T08:15:00Z"
    assert json.loads(path.read_text())["v"] == 2


def test_a_token_and_its_decisions_have_the_same_fingerprint(path: Path) -> None:
    asked, log = engine(path)
    log.note(TokenEventKind.ISSUED, ISSUED, NOW)
    decided = asked.decide(OPEN)
    issued, record = entries(path)
    assert isinstance(record, DecisionRecord)
    assert (record.id, record.fingerprint) == (decided.id, issued.fingerprint)


def test_read_records_skips_token_events(path: Path) -> None:
    asked, log = engine(path)
    for what in TokenEventKind:
        log.note(what, ISSUED, NOW)
    given = [asked.decide(OPEN).id, asked.decide({"request": OPEN["request"]}).id]
    told: list[str] = []
    found = list(read_records(path, told.append))
    assert ([one.id for one in found], [one.line for one in found], told) == (given, [4, 5], [])
    assert [one.fingerprint for one in found] == ["sha256:1", None]


# ── What is left out ──────────────────────────────────────────────────────────────────────────


def test_token_events_redact_members_with_secret_names(path: Path) -> None:
    DecisionLog(path).note(TokenEventKind.ISSUED, ISSUED, NOW)
    found = only(path)
    assert "hunter2" not in path.read_text()
    assert [one.fact for one in found.redacted] == ["credential.claims.api_key"]
    assert found.told["credential"]["claims"]["plan"] == "pro"


@pytest.mark.parametrize("fact", ["task.id", "task.entities", "credential.scopes", "credential.claims.*.plan"])
def test_token_events_redact_configured_facts(path: Path, fact: str) -> None:
    asked, log = engine(path, redact=[fact.replace("*", "**")])
    question = {**OPEN, "credential": ISSUED["credential"], "task": ISSUED["task"]}
    asked.decide(question)
    log.note(TokenEventKind.ISSUED, ISSUED, NOW)
    record, found = entries(path)
    assert set(record.redacted) == set(found.redacted)  # equal values have equal fingerprints
    assert {one.fact for one in found.redacted} == {"credential.claims.api_key", fact.replace(".*", "")}


def test_a_token_event_keeps_a_value_that_json_cannot_represent(path: Path) -> None:
    assert DecisionLog(path).note(TokenEventKind.NOT_ISSUED, {"task": {"id": "t-\ud800"}}, NOW)
    assert only(path).told["task"]["id"] == Invalid("a lone surrogate")


def test_a_token_event_has_the_current_trace(path: Path) -> None:
    trace = parse_trace_context([f"00-{'1' * 32}-{'2' * 16}-01"])
    assert trace is not None
    with trace_scope(trace):
        DecisionLog(path).note(TokenEventKind.ENDED, {"what": "key", "key": "k"}, NOW)
    assert only(path).trace == trace.parent


# ── When it cannot be written ─────────────────────────────────────────────────────────────────


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk with room for as many bytes as the list holds, and then for none."""
    room, write = [0], os.write

    def short(file: int, data: bytes) -> int:
        fits = data[: room[0]]
        room[0] -= len(fits)
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, fits)

    monkeypatch.setattr(log_file.os, "write", short)
    return room


@pytest.mark.parametrize("how", ["deny", "continue"])
def test_note_returns_false_if_a_token_event_cannot_be_logged(path: Path, full: list[int], how: str) -> None:
    found = DecisionLog(path, on_failure=how, seal=None)
    assert not found.note(TokenEventKind.ISSUED, ISSUED, NOW)
    assert (found.failures, found.lets_pass) == (1, how == "continue")
    full[0] = 10_000
    assert found.note(TokenEventKind.ISSUED, ISSUED, NOW)
    event, failure, recovered = read_log(path)
    assert isinstance(event, TokenEvent)
    assert event.fingerprint == "sha256:1"
    assert isinstance(failure, SystemRecord)
    assert isinstance(recovered, SystemRecord)
    assert (failure.event, failure.details) == ("log_failure", {"why": "No space left on device"})
    assert (recovered.event, recovered.details) == ("log_recovered", {"failures": 1})


def test_a_token_event_that_cannot_be_encoded_counts_as_a_failure(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = DecisionLog(path)
    assert not found.note(TokenEventKind.ISSUED, {"x\ud800": 1}, NOW)
    assert (found.failures, path.read_bytes()) == (1, b"")
    assert "an event of kind `issued` could not be logged" in caplog.text


# ── Files, processes, readers ─────────────────────────────────────────────────────────────────


def test_token_events_are_rotated_and_read_across_all_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "tidy_in_thread", tidy)
    monkeypatch.setattr(rotation, "COMPRESS_AFTER_SECONDS", -1.0)
    asked, kept = engine(path, rotation=Rotation(size=2_000, compress=True))
    given: list[str | None] = []
    for number in range(12):
        kept.note(TokenEventKind.ISSUED, {**ISSUED, "credential": {"fingerprint": f"sha256:{number}"}}, NOW)
        given += [f"sha256:{number}", asked.decide({"request": OPEN["request"]}).id]
    assert len(log_files(path)) > 3
    assert any(one.suffix == ".gz" for one in log_files(path))
    assert [one.id if isinstance(one, DecisionRecord) else one.fingerprint for one in entries(path)] == given
    assert [one.line for one in entries(path)] == list(range(1, 25))


def test_rotation_by_token_events_keeps_the_configured_number_of_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "tidy_in_thread", tidy)
    kept = DecisionLog(path, rotation=Rotation(size=500, keep=2), seal=None)
    for number in range(12):
        kept.note(TokenEventKind.ENDED, {"what": "key", "key": f"k-{number}", "padding": "x" * 300}, NOW)
    assert len(log_files(path)) == 3
    assert [one.told["key"] for one in entries(path) if isinstance(one, TokenEvent)][-1] == "k-11"


def test_a_token_event_in_a_compressed_file_is_read(path: Path) -> None:
    DecisionLog(path).note(TokenEventKind.ISSUED, ISSUED, NOW)
    moved = path.rename(path.with_name(f"{path.name}.20270104T120000.000000Z"))
    os.utime(moved, (then := time.time() - 3_600, then))
    compress(moved)
    assert only(path).fingerprint == "sha256:1"


@pytest.mark.parametrize("sync", ["second", "always"])
def test_note_returns_false_if_sync_always_fails(path: Path, monkeypatch: pytest.MonkeyPatch, sync: str) -> None:
    def fails(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    found = DecisionLog(path, sync=sync)
    monkeypatch.setattr(os, "fdatasync", fails)
    assert found.note(TokenEventKind.ISSUED, ISSUED, NOW) is (sync == "second")


def write(asked: Engine, kept: DecisionLog, times: int, padding: int) -> None:
    for number in range(times):
        told = {**ISSUED, "padding": "x" * (padding + number % 7)}
        assert kept.note(TokenEventKind.ISSUED, told, NOW)
        asked.decide(OPEN)


def test_concurrent_processes_write_whole_lines_to_one_log_file(path: Path) -> None:
    asked, kept = engine(path, rotation=Rotation(size=200_000))
    fork = get_context("fork")
    crew = [fork.Process(target=write, args=(asked, kept, 60, size)) for size in (10, 3_000, 9_000)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    assert [one.exitcode for one in crew] == [0, 0, 0]
    found = entries(path)
    assert len(found) == 360
    assert sum(isinstance(one, DecisionRecord) for one in found) == 180


def test_a_whole_line_after_a_half_written_line_is_read(path: Path) -> None:
    DecisionLog(path).note(TokenEventKind.ISSUED, ISSUED, NOW)
    good = path.read_bytes()
    path.write_bytes(good[:70] + good)
    told: list[str] = []
    assert [type(one) for one in read_log(path, told.append)] == [TokenEvent]
    assert told == [f"{path}:1: skipped the line before this one: it was cut off"]


@pytest.mark.parametrize(
    "line",
    [
        '{"v":1,"issued":{}}',
        '{"v":1,"time":"x","issued":{}}',
        '{"v":1,"time":"2027-01-15T08:00:00Z","issued":[]}',
        '{"v":1,"time":"2027-01-15T08:00:00Z","ended":{},"redacted":[1]}',
        '{"v":1,"time":"2027-01-15T08:00:00Z","ended":{"a":null},"beyond_json":[{"at":["a"],"is":"number","value":"x"}]}',
        '{"v":1,"time":"2027-01-15T08:00:00Z","reissued":{}}',
    ],
)
def test_a_malformed_token_event_is_reported_and_skipped(path: Path, line: str) -> None:
    DecisionLog(path).note(TokenEventKind.ISSUED, ISSUED, NOW)
    path.write_text(f"{line}\n{path.read_text()}")
    told: list[str] = []
    assert [one.fingerprint for one in read_log(path, told.append)] == ["sha256:1"]
    assert len(told) == 1
    assert told[0].startswith(f"{path}:1: skipped this line")
