"""The file that decisions are written to: whole lines, of many processes, whatever happens to the file."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree

import pytest

from policyengine.audit import DecisionLog, DecisionLogError, log_file, read_records
from policyengine.audit.encoder import PlainCheck
from policyengine.engine import Engine
from policyengine.runtime.decision import Gate
from policyengine.runtime.decode import MAX_DEPTH
from policyengine.runtime.fast_decode import fits_depth

POLICY = """
anyone { may GET /health }
guard "no bodies" on GET /health { deny when (request.headers["x-a"] else "") == "x" }
"""
OPEN = {"request": {"method": "GET", "path": "/health"}}


def engine(path: Path, **options: object) -> Engine:
    return Engine.from_text(POLICY, log=DecisionLog(path, **options))  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the file was moved is looked at before each line."""
    monkeypatch.setattr(log_file, "CHECK_INTERVAL_SECONDS", 0.0)


def ids(path: Path) -> list[str]:
    return [record.id for record in read_records(path)]


def test_each_decision_is_logged_as_a_line(path):
    asked = engine(path)
    first, second = asked.decide(OPEN), asked.evaluate(OPEN)
    assert [json.loads(line)["decision"] for line in path.read_text().splitlines()] == [
        first.to_dict(),
        second.to_dict(),
    ]


def test_an_explanation_is_not_logged(path):
    engine(path).explain(OPEN)
    assert path.read_bytes() == b""


def test_only_the_owner_may_read_the_log_file(path):
    DecisionLog(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_others_may_read_is_true_for_a_world_readable_log_file(path):
    path.touch(0o644)
    assert DecisionLog(path).others_may_read


def test_a_reopened_log_keeps_its_existing_records(path):
    first = engine(path).decide(OPEN)
    second = engine(path).decide(OPEN)
    assert ids(path) == [first.id, second.id]


def test_a_half_written_line_does_not_affect_other_records(path):
    asked = engine(path).decide(OPEN)
    path.write_bytes(path.read_bytes() + b'{"v":1,"time":"20')
    again = engine(path).decide(OPEN)
    assert ids(path) == [asked.id, again.id]


@pytest.mark.usefixtures("looks_often")
def test_a_log_file_that_was_moved_away_is_reopened(path):
    asked = engine(path)
    before = asked.decide(OPEN)
    moved = path.rename(path.with_suffix(".1"))
    after = asked.decide(OPEN)
    assert (ids(moved), ids(path)) == ([before.id], [after.id])


@pytest.mark.usefixtures("looks_often")
def test_a_log_file_that_was_removed_is_created_again(path):
    asked = engine(path)
    path.unlink()
    assert asked.decide(OPEN).id == ids(path)[0]


def test_no_line_is_written_to_a_deleted_file_while_no_new_file_can_be_created(tmp_path):
    """Between two checks, every decision would be answered, and its line lost with the file."""
    folder = tmp_path / "logs"
    folder.mkdir()
    asked = engine(folder / "decisions.jsonl", seal=None)
    rmtree(folder)
    asked.log.reopen()
    assert {asked.decide(OPEN).gate for _ in range(3)} == {Gate.FAILURE}
    folder.mkdir()
    assert [asked.decide(OPEN).id] == ids(folder / "decisions.jsonl")


def test_a_decision_after_the_end_of_a_log_changes_no_file_that_has_its_number(tmp_path, path, looks_often):
    asked = engine(path)
    number = asked.log._file._file
    asked.log.close()
    opened = []
    while not opened or opened[-1] < number:
        opened.append(os.open(tmp_path / f"other-{len(opened)}", os.O_RDWR | os.O_CREAT | os.O_APPEND))
    try:
        assert opened[-1] == number
        assert not asked.decide(OPEN).allowed
        path.rename(tmp_path / "moved.jsonl")
        assert not asked.decide(OPEN).allowed
        asked.log.close()
        assert os.fstat(number).st_ino == (tmp_path / f"other-{len(opened) - 1}").stat().st_ino
        assert os.fstat(number).st_size == 0
    finally:
        for each in opened:
            os.close(each)


def test_reopen_switches_to_the_new_file_immediately(path):
    asked = engine(path)
    asked.decide(OPEN)
    path.rename(path.with_suffix(".1"))
    assert asked.log is not None
    asked.log.reopen()
    assert ids_after(asked, path) == 1


def ids_after(asked: Engine, path: Path) -> int:
    asked.decide(OPEN)
    return len(ids(path))


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("moved", [True, False], ids=["moved", "emptied"])
def test_a_moved_or_truncated_log_writes_the_entities_again(tmp_path, path, moved):
    entities = tmp_path / "entities.json"
    entities.write_text('{"entities": [{"type": "user", "id": "alice"}]}')
    asked = Engine.from_text(POLICY, directory=None, log=DecisionLog(path))
    (tmp_path / "p.policy").write_text(POLICY)
    asked = Engine.load(tmp_path / "p.policy", entities=entities, log=DecisionLog(path))
    asked.decide(OPEN)
    if moved:
        path.rename(path.with_suffix(".1"))
    else:
        os.truncate(path, 0)
    asked.decide(OPEN)
    (record,) = read_records(path)
    assert record.directory is not None
    assert [str(row.ref) for row in record.directory] == ['user "alice"']


def test_unchanged_entities_are_logged_once_over_several_starts(tmp_path, path):
    (tmp_path / "p.policy").write_text(POLICY)
    entities = tmp_path / "entities.json"
    entities.write_text('{"entities": [{"type": "user", "id": "alice"}]}')
    for _ in range(3):
        Engine.load(tmp_path / "p.policy", entities=entities, log=DecisionLog(path))
    assert path.read_bytes().count(b'"directory"') == 1


# ── Failures ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk with room for as many bytes as the list holds, and then for none."""
    room: list[int] = [0]
    write = os.write

    def short(file: int, data: bytes) -> int:
        fits = data[: room[0]]
        room[0] -= len(fits)
        if not fits:
            raise OSError(28, "No space left on device")
        return write(file, fits)

    monkeypatch.setattr(log_file.os, "write", short)
    return room


@pytest.mark.usefixtures("full")
def test_a_decision_that_cannot_be_logged_is_denied(path, caplog):
    asked = engine(path, seal=None)
    decision = asked.decide(OPEN)
    assert (decision.outcome, decision.gate) == ("deny", "failure")
    assert "could not be recorded" in decision.reasons[0].message
    assert asked.log is not None
    assert asked.log.failures == 1


@pytest.mark.usefixtures("full")
def test_on_failure_continue_allows_decisions_that_cannot_be_logged(path):
    asked = engine(path, on_failure="continue", seal=None)
    assert asked.decide(OPEN).allowed
    assert asked.log is not None
    assert asked.log.failures == 1


@pytest.mark.usefixtures("full")
def test_a_failing_log_is_reported_once_and_counts_each_failure(path, caplog):
    asked = engine(path, seal=None)
    for _ in range(3):
        asked.decide(OPEN)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"the decision log `{path}` cannot be written: No space left on device; decisions are denied"]
    assert asked.log is not None
    assert asked.log.failures == 3


def test_a_log_that_works_again_continues_after_a_half_written_line(path, full, caplog):
    caplog.set_level(logging.WARNING)
    asked = engine(path, seal=None)
    full[0] = 30
    assert not asked.decide(OPEN).allowed
    full[0] = 10_000
    assert asked.decide(OPEN).id == ids(path)[0]
    assert "is written again after the loss of 1 line" in caplog.text


def test_a_log_that_works_again_reports_the_lines_lost_in_each_outage(path, full, caplog):
    caplog.set_level(logging.WARNING)
    asked = engine(path, seal=None)
    for outage in (2, 1):
        full[0] = 0
        for _ in range(outage):
            asked.decide(OPEN)
        full[0] = 10_000
        assert asked.decide(OPEN).allowed
    again = [record for record in caplog.records if vars(record)["event"] == "log_written"]
    assert [vars(record)["failures"] for record in again] == [2, 1]
    assert [record.getMessage().partition(" is ")[2] for record in again] == [
        "written again after the loss of 2 lines", "written again after the loss of 1 line",
    ]  # fmt: skip
    assert asked.log is not None
    assert asked.log.failures == 3


def test_a_failed_decision_is_logged(path, monkeypatch):
    asked = engine(path)
    monkeypatch.setattr(asked.decider.compiled.evaluator, "plan", lambda *_: 1 / 0)
    decision = asked.decide(OPEN)
    assert (decision.gate, ids(path)) == ("failure", [decision.id])


@pytest.mark.parametrize("at", ["1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z"])
def test_a_decision_for_a_chosen_time_is_logged_with_that_time(path, at):
    engine(path).decide({**OPEN, "options": {"consume": False, "at": at}})
    assert [record.time for record in read_records(path)] == [datetime.fromisoformat(at)]


def test_a_directory_is_rejected_as_a_log(tmp_path):
    with pytest.raises(DecisionLogError, match="is a directory"):
        DecisionLog(tmp_path)


def test_a_pipe_is_rejected_as_a_log(path):
    os.mkfifo(path)
    with pytest.raises(DecisionLogError, match="is not a regular file"):
        DecisionLog(path)


@pytest.mark.parametrize("fact", ["body.card number", "bodi.card", "card", ""])
def test_a_redact_pattern_that_is_not_a_fact_is_rejected(path, fact):
    with pytest.raises(DecisionLogError, match=r"not the name of a fact|does not exist"):
        DecisionLog(path, redact=[fact])


# ── Several processes ─────────────────────────────────────────────────────────────────────────


def ask(asked: Engine, times: int, padding: int) -> None:
    for number in range(times):
        asked.decide({**OPEN, "context": {"padding": "x" * (padding + number % 7)}})


def test_concurrent_processes_write_whole_lines_to_one_log_file(path):
    asked = engine(path)
    fork = get_context("fork")
    crew = [fork.Process(target=ask, args=(asked, 400, size)) for size in (10, 3_000, 9_000)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    assert [one.exitcode for one in crew] == [0, 0, 0]
    found = ids(path)
    assert (len(found), len(set(found))) == (1_200, 1_200)


@pytest.mark.usefixtures("looks_often")
def test_concurrent_processes_lose_no_record_if_the_log_file_is_moved(path):
    asked = engine(path)
    fork = get_context("fork")
    crew = [fork.Process(target=ask, args=(asked, 300, 500)) for _ in range(3)]
    for one in crew:
        one.start()
    moved = []
    while any(one.is_alive() for one in crew) and len(moved) < 5:
        moved.append(path.rename(path.with_suffix(f".{len(moved)}")))
        while not path.exists() and any(one.is_alive() for one in crew):
            time.sleep(0.001)
    for one in crew:
        one.join()
    assert sum(len(ids(file)) for file in (*moved, path) if file.exists()) == 900


def test_the_answer_after_a_logged_one_is_its_own(path):
    decider = engine(path)
    first, second = (decider.decide({"request": {"method": "GET", "path": f"/v1/{name}"}}) for name in "ab")
    texts = [json.loads(each.to_json())["id"] for each in (second, first, second)]
    assert texts == [second.id, first.id, second.id]
    assert texts[1:] == ids(path)


def test_a_secret_is_redacted_in_objects_whose_other_names_are_known(path):
    decider = engine(path)
    for body in ({"a": {"b": "v"}}, {"a": {"token": "t0p"}}, {"a": {"b": "v"}, "Token": "t0p"}, {"a": [{"b": "v"}]}):
        decider.decide({"request": {"method": "GET", "path": "/v1/a"}, "body": body})
    text = path.read_text()
    assert "t0p" not in text
    assert text.count('"redacted":[') == 2


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: {"a": [value]}])
def test_a_plain_question_is_at_most_as_deep_as_facts_may_be(wrap):
    check, tree = PlainCheck(frozenset()), {"a": 1}
    while fits_depth(tree, MAX_DEPTH):
        assert check.is_plain_object(tree)
        tree = wrap(tree)
    assert not check.is_plain_object(tree)
