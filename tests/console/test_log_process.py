"""The process that reads the log: what it finds, how it ends, and that it begins again."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.audit.query import log_process
from policyengine.audit.query.halted_requests import HaltedCount, HaltedRequestSearch
from policyengine.audit.query.log_process import DecisionSearch, LoggedDecision, LogReader, LogReadError, LogSearch
from policyengine.audit.query.log_tail import TrafficSearch
from policyengine.audit.query.query import AuditQuery, QueryAnswer
from policyengine.audit.query.requester_history import RequesterActivity, RequesterSearch
from policyengine.halts.requests import make_halt
from tests.console.world import World
from tests.processes import is_running, wait_until

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def in_this_process() -> None:
    """These tests are about the child."""


@pytest.fixture(scope="module")
def reader() -> Iterator[LogReader]:
    """One for all tests after which it still answers: a process takes long to start."""
    made = LogReader()
    yield made
    made.close()


def process_of(reader: LogReader) -> int:
    assert reader._process is not None
    return reader._process.pid


def test_one_process_answers_several_questions(world: World, reader: LogReader) -> None:
    decision = world.decide()
    world.close_log()
    found = reader.ask(DecisionSearch(world.log, decision.id))
    assert isinstance(found, LoggedDecision)
    assert (found.record.id, found.seal.status.value) == (decision.id, "sealed")
    assert found.proof is not None
    assert found.record.directory is not None
    first = process_of(reader)
    answer = reader.ask(LogSearch(world.log, AuditQuery()))
    assert isinstance(answer, QueryAnswer)
    assert answer.total > 0
    assert reader.ask(DecisionSearch(world.log, "01M8MQQTMGEW6CZHTAECMQM3ZG")) is None
    [recent] = reader.ask(TrafficSearch(world.log))
    assert recent.id == decision.id
    past = reader.ask(RequesterSearch(world.log, "bot", "acme", "alice", "2020"))
    assert isinstance(past, RequesterActivity)
    assert past.decisions == {"confirm": 1}
    halt = make_halt({"agent": "bot", "place": "POST /**"}, everything=False, reason="x", end=HOUR, by="", now=0)
    counted = reader.ask(HaltedRequestSearch(world.log, halt, {}, "2020"))
    assert isinstance(counted, HaltedCount)
    assert (counted.total, counted.covered) == (1, 1)
    assert process_of(reader) == first


def test_a_process_ends_with_its_reader(world: World) -> None:
    reader = LogReader()
    reader.ask(TrafficSearch(world.log))
    process = process_of(reader)
    del reader
    gc.collect()
    wait_until(lambda: not is_running(process))


def test_an_error_is_an_answer_and_ends_nothing(world: World, reader: LogReader, tmp_path: Path) -> None:
    for question in (LogSearch(tmp_path / "none", AuditQuery()), DecisionSearch(tmp_path / "none", "0" * 26)):
        with pytest.raises(LogReadError, match="no such file"):
            reader.ask(question)
    (tmp_path / "other").write_text("this is no log\n")
    with pytest.raises(LogReadError, match="is not a decision log"):
        reader.ask(LogSearch(tmp_path / "other", AuditQuery()))
    assert reader.ask(LogSearch(world.log, AuditQuery())) is not None


def test_a_process_that_has_ended_is_replaced(world: World, reader: LogReader) -> None:
    reader.ask(LogSearch(world.log, AuditQuery()))
    first = process_of(reader)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_running(first))
    assert reader.ask(LogSearch(world.log, AuditQuery())) is not None
    assert process_of(reader) != first


def test_an_idle_process_ends_by_itself(world: World) -> None:
    reader = LogReader(idle=0.001)
    reader.ask(LogSearch(world.log, AuditQuery()))
    first = process_of(reader)
    wait_until(lambda: not is_running(first))
    assert reader.ask(LogSearch(world.log, AuditQuery())) is not None
    reader.close()


def test_a_search_that_takes_too_long_is_ended(
    world: World, reader: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.ask(LogSearch(world.log, AuditQuery()))
    os.kill(process_of(reader), signal.SIGSTOP)  # it works for a long time
    monkeypatch.setattr(reader, "_longest", 0.001)
    with pytest.raises(LogReadError, match=r"longer than 0\.001 s"):
        reader.ask(LogSearch(world.log, AuditQuery()))
    assert reader._process is None


def test_a_process_that_cannot_start_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = LogReader()
    monkeypatch.setattr(log_process, "COMMAND", "raise SystemExit(3)")
    with pytest.raises(LogReadError, match="has ended"):
        reader.ask(LogSearch(world.log, AuditQuery()))
    monkeypatch.setattr(log_process, "python_command", lambda code: ["/nonexistent/python"])
    with pytest.raises(LogReadError, match="no process reads the log: no such file"):
        reader.ask(LogSearch(world.log, AuditQuery()))
    reader.close()


def test_a_stop_does_not_wait_for_a_search(world: World, tmp_path: Path) -> None:
    """A search of a pipe, which never ends."""
    reader, problems = LogReader(), []
    reader.ask(LogSearch(world.log, AuditQuery()))
    os.kill(process_of(reader), signal.SIGSTOP)  # it works for a long time

    def ask() -> None:
        try:
            reader.ask(LogSearch(world.log, AuditQuery()))
        except LogReadError as error:
            problems.append(error.message)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(reader._lock.locked)
    reader.close()
    thread.join(30)
    assert problems == ["the server is stopping"]


def test_the_process_ends_with_its_server(world: World) -> None:
    reader = LogReader()
    reader.ask(LogSearch(world.log, AuditQuery()))
    first = process_of(reader)
    assert reader._connection is not None
    reader._connection.close()
    wait_until(lambda: not is_running(first))
    reader.close()
