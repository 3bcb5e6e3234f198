"""The records of one turn of the event loop are written in one call, before any of their answers is sent."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from contextvars import copy_context
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest

from policyengine.audit import DecisionLog, log_file, read_records
from policyengine.engine import Engine
from policyengine.runtime.current_caller import caller_scope
from policyengine.server.app import DecisionApp, create_app
from policyengine.server.fast_path import answer_turn
from policyengine.server.fast_path.answer_turn import WaitingAnswer
from policyengine.server.fast_path.exchange import FastAnswer
from policyengine.stores.url import open_store
from tests.server.conftest import SHUT
from tests.server.fast_exchanges import HeldAnswers
from tests.server.processes import started
from tests.server.test_http1 import NEXT, OFFER, connected, post, statuses

POLICY = "anyone { may GET /open }"
QUESTION = {"request": {"method": "GET", "path": "/open"}}
BODY = json.dumps(QUESTION).encode()
HEADERS = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
FORWARDED = [
    (b"host", b"127.0.0.1"), (b"x-forwarded-method", b"GET"), (b"x-forwarded-uri", b"/open"),
    (b"x-forwarded-for", b"10.1.2.3"),
]  # fmt: skip
SERVE = """
import sys
from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.server import serve
from tests.server.test_answer_turn import POLICY
engine = Engine.from_text(POLICY, log=DecisionLog(sys.argv[1]))
serve(engine, port=0, listening=lambda url: print(url, flush=True))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


class Writes:
    """The writes to a log. `room` is how many bytes the disk still takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.room = 1 << 30
        self._write = os.write
        monkeypatch.setattr(log_file.os, "write", self.write)

    def write(self, file: int, data: bytes) -> int:
        fits = data[: self.room]
        self.room -= len(fits)
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.sizes.append(len(fits))
        return self._write(file, fits)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


class Turn:
    """An application with a log, and the answers to questions that arrive in one turn of the event loop."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.log = DecisionLog(path, seal=None, **options)
        self.app: DecisionApp = create_app(Engine.from_text(POLICY, log=self.log))
        self.connection = HeldAnswers()

    def ask(self, url: bytes = b"/decide", headers: Any = HEADERS, body: bytes = BODY, method: str = "POST") -> None:
        found = copy_context().run(self.app.now, method, url, headers, body)
        assert isinstance(found, WaitingAnswer)
        found.connection = self.connection

    @property
    def answers(self) -> list[FastAnswer]:
        return self.connection.answers

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return [json.loads(answer.content) for answer in self.answers]

    @property
    def counted(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (name, *labels), values in self.app.api.tally.total().items():
            if name == "decisions":
                found[labels[1]] = found.get(labels[1], 0) + values[0]
        return found


# ── One write ─────────────────────────────────────────────────────────────────────────────────


def test_the_records_of_one_turn_are_written_in_one_call_before_their_answers(path: Path, writes: Writes) -> None:
    turn = Turn(path)
    for _ in range(20):
        turn.ask()
    turn.ask(b"/forward-auth", FORWARDED, b"", "GET")
    assert (writes.sizes, turn.answers, path.read_bytes()) == ([], [], b"")
    turn.app.flush()
    assert len(writes.sizes) == 1
    *answers, forwarded = turn.answers
    assert forwarded.status == 200
    ids = [record.id for record in read_records(path)]
    assert [json.loads(answer.content)["id"] for answer in answers] == ids[:-1]
    assert len(ids) == 21


def test_a_turn_with_many_answers_does_not_wait_for_its_end(
    path: Path, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_turn, "MAX_WAITING", 8)
    turn = Turn(path)
    for _ in range(20):
        turn.ask()
    assert (len(writes.sizes), len(turn.answers)) == (2, 16)


def test_the_log_has_the_order_of_the_decisions_although_some_records_do_not_wait(path: Path) -> None:
    """A batch writes its records itself: it must not overtake the decisions that were made before it."""
    turn = Turn(path)
    turn.ask()
    body = json.dumps({"requests": [QUESTION] * 2}).encode()
    batch = copy_context().run(turn.app.now, "POST", b"/decide/batch", HEADERS, body)
    assert isinstance(batch, FastAnswer)
    turn.app.flush()
    [first] = turn.decisions
    assert next(record.id for record in read_records(path)) == first["id"]


def test_a_log_that_forces_lines_to_disk_forces_those_of_a_turn_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[int] = []
    monkeypatch.setattr("policyengine.audit.fsync.os.fdatasync", forced.append)
    turn = Turn(path, sync="always")
    for _ in range(5):
        turn.ask()
    turn.app.flush()
    assert (len(forced), len(turn.answers)) == (1, 5)


def test_the_caller_of_a_decision_may_report_its_outcome_after_the_turn(path: Path) -> None:
    turn = Turn(path)
    with caller_scope("name edge"):
        turn.ask()
    with caller_scope("name other"):
        turn.ask()
    turn.app.flush()
    first, second = (decision["id"] for decision in turn.decisions)
    engine = turn.app.api.engine
    with caller_scope("name edge"):
        assert not engine.report(second, status=200)
        assert engine.report(first, status=200)


def test_a_failure_after_a_decision_leaves_its_record_in_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Turn(path)
    turn.ask()
    monkeypatch.setattr("policyengine.server.fast_path.question_door.build_answer", None)
    found = turn.app.now("POST", b"/decide", HEADERS, BODY)
    assert isinstance(found, dict)
    assert len(list(read_records(path))) == 2
    assert len(turn.answers) == 1


def test_an_answer_that_cannot_be_sent_closes_its_connection_and_delays_no_other(path: Path) -> None:
    turn = Turn(path)
    found = turn.app.now("POST", b"/decide", HEADERS, BODY)
    assert isinstance(found, WaitingAnswer)

    class Broken(HeldAnswers):
        def send_held(self, method: str, keeps: bool, answer: FastAnswer) -> None:
            raise RuntimeError("no connection")

    broken = found.connection = Broken()
    turn.ask()
    turn.app.flush()
    assert (broken.is_failed, len(turn.answers)) == (True, 1)


# ── Failures ──────────────────────────────────────────────────────────────────────────────────


def test_if_a_turn_cannot_be_written_each_of_its_answers_is_a_denial(path: Path, writes: Writes) -> None:
    turn, writes.room = Turn(path), 0
    for _ in range(3):
        turn.ask()
    turn.ask(b"/forward-auth", FORWARDED, b"", "GET")
    turn.app.flush()
    *answers, forwarded = turn.answers
    for answer in answers:
        decision = json.loads(answer.content)
        assert (answer.status, decision["outcome"], decision["gate"]) == (200, "deny", "failure")
        assert "could not be recorded" in decision["reasons"][0]["message"]
    assert forwarded.status == 503
    assert len({json.loads(answer.content)["id"] for answer in answers}) == 3
    assert turn.log.failures == 4
    assert turn.counted == {"deny": 4}


def test_if_a_turn_cannot_be_written_its_answers_are_sent_anyway_with_continue(path: Path, writes: Writes) -> None:
    turn, writes.room = Turn(path, on_failure="continue"), 0
    for _ in range(3):
        turn.ask()
    turn.app.flush()
    assert [decision["outcome"] for decision in turn.decisions] == ["allow"] * 3
    assert turn.log.failures == 3
    assert turn.counted == {"allow": 3}


def test_an_unexpected_error_of_the_log_denies_the_answers_of_a_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Turn(path)

    def fail(lines: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(turn.log._file, "append_all", fail)
    for _ in range(3):
        turn.ask()
    turn.app.flush()
    assert [decision["gate"] for decision in turn.decisions] == ["failure"] * 3
    assert turn.log.failures == 3


def test_the_denial_of_a_decision_that_failed_keeps_its_place_in_the_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Turn(path)
    turn.ask()
    with monkeypatch.context() as patch:
        patch.setattr(turn.app.api.engine.decider, "_resolve", None)
        turn.ask()
    turn.ask()
    turn.app.flush()
    assert [decision["outcome"] for decision in turn.decisions] == ["allow", "deny", "allow"]
    assert [record.id for record in read_records(path)] == [decision["id"] for decision in turn.decisions]
    assert turn.counted == {"allow": 2, "deny": 1}


@pytest.mark.parametrize("more", [0, 1, 30])
def test_if_a_part_of_a_turn_was_written_only_the_rest_is_denied(path: Path, writes: Writes, more: int) -> None:
    turn = Turn(path)
    turn.ask()
    turn.app.flush()
    writes.room = 2 * writes.sizes[0] + more
    for _ in range(4):
        turn.ask()
    turn.app.flush()
    writes.room = 1 << 30
    turn.ask()
    turn.app.flush()
    outcomes = [decision["outcome"] for decision in turn.decisions]
    assert outcomes == ["allow", "allow", "allow", "deny", "deny", "allow"]
    allowed = [decision["id"] for decision in turn.decisions if decision["allowed"]]
    assert [record.id for record in read_records(path)] == allowed
    lines = path.read_bytes().splitlines()
    system = [line for line in lines if b'"system"' in line]
    assert len(lines) == 4 + bool(more) + len(system)  # with the incomplete line
    assert turn.log.failures == 2


def test_an_answer_that_is_replaced_keeps_its_label_and_its_trace(path: Path, writes: Writes) -> None:
    turn, writes.room = Turn(path), 0
    parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    turn.ask(headers=[*HEADERS, (b"x-request-id", b"r-1"), (b"traceparent", parent)])
    turn.app.flush()
    headers = dict(turn.answers[0].headers)
    assert headers[b"x-request-id"] == b"r-1"
    assert headers[b"traceparent"].startswith(parent[:36])
    assert turn.decisions[0]["outcome"] == "deny"


# ── Batches ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("semantics", ["execute_all", "deny_on_first_deny"])
def test_a_batch_is_written_in_one_call_unless_an_item_can_end_it(path: Path, writes: Writes, semantics: str) -> None:
    app = create_app(Engine.from_text(POLICY, log=DecisionLog(path, seal=None)))
    items = [QUESTION, {**QUESTION, "options": {"consume": True}}, {"request": 5}, QUESTION]
    body = json.dumps({"requests": items, "semantics": semantics}).encode()
    answer = app.now("POST", b"/decide/batch", HEADERS, body)
    assert isinstance(answer, FastAnswer)
    decisions = json.loads(answer.content)["decisions"]
    expected = (
        (["allow", "allow", "deny", "allow"], 1) if semantics == "execute_all" else (["allow", "allow", "deny"], 2)
    )
    assert ([decision["outcome"] for decision in decisions], len(writes.sizes)) == expected
    ids = [decision["id"] for decision in decisions if decision["allowed"]]
    assert [record.id for record in read_records(path)] == ids


def test_a_batch_that_cannot_be_written_is_denied(path: Path, writes: Writes) -> None:
    turn = Turn(path)
    turn.ask()
    turn.app.flush()
    writes.room = writes.sizes[0] + 40
    body = json.dumps({"requests": [QUESTION] * 3}).encode()
    answer = turn.app.now("POST", b"/decide/batch", HEADERS, body)
    assert isinstance(answer, FastAnswer)
    decisions = json.loads(answer.content)["decisions"]
    assert [decision["outcome"] for decision in decisions] == ["allow", "deny", "deny"]
    assert turn.counted == {"allow": 2, "deny": 2}


@pytest.mark.parametrize("store", ["memory", "shared"])
def test_several_questions_of_an_engine_are_written_in_one_call(path: Path, writes: Writes, store: str) -> None:
    options = {} if store == "memory" else {"store": open_store(f"sqlite:///{path.parent}/store.db")}
    engine = Engine.from_text(POLICY, log=DecisionLog(path, seal=None), **options)
    answers = engine.decide_many([QUESTION, SHUT, {"request": 5}, QUESTION])
    ids = [answer.id for answer in answers if hasattr(answer, "id")]
    assert [record.id for record in read_records(path)] == ids
    assert (len(ids), len(writes.sizes)) == (3, 1)
    writes.room = writes.sizes[0] // 3 + 40
    answers = engine.decide_many([QUESTION, SHUT, {"request": 5}, QUESTION])
    gates = [getattr(answer, "gate", "invalid") for answer in answers]
    assert gates[1:] == ["failure", "invalid", "failure"]
    assert gates[0] is None


# ── On the wire ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    path = tmp_path_factory.mktemp("turn") / "decisions.jsonl"
    with started(SERVE, str(path)) as (url, _):
        yield url, path


QUESTION_ON_WIRE = post(b"content-length: %d" % len(BODY), body=BODY)
MALFORMED = b"GET /decide HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (QUESTION_ON_WIRE, [200]),
        (QUESTION_ON_WIRE * 5, [200] * 5),
        (QUESTION_ON_WIRE * 3 + NEXT, [200] * 4),
        (NEXT.replace(b"connection: close\r\n", b"") + QUESTION_ON_WIRE, [200] * 2),
        (QUESTION_ON_WIRE + MALFORMED, [200, 400]),
        (QUESTION_ON_WIRE + post(b"content-length: %d" % len(BODY), *OFFER, body=BODY), [200, 200]),
        (post(b"content-length: %d" % len(BODY), b"connection: close", body=BODY) + QUESTION_ON_WIRE, [200]),
        (post(b"content-length: %d" % len(BODY), body=BODY, version=b"1.0"), [200]),
        (QUESTION_ON_WIRE + post(b"content-length: 1", body=b"{"), [200, 400]),
    ],
    ids=["one", "five", "another path", "after another path", "malformed", "upgrade", "close", "HTTP/1.0", "invalid"],
)
def test_answers_are_sent_in_order_although_the_client_ends_its_side(
    served: tuple[str, Path], message: bytes, expected: list[int]
) -> None:
    url, path = served
    with connected(url) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert statuses(answer) == expected
    ids = {record.id for record in read_records(path)}
    assert set(decision_ids(answer)) <= ids


def decision_ids(answer: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb'"id":"([0-9A-Z]{26})"', answer)]


def test_a_server_killed_under_load_has_logged_every_answered_decision(path: Path) -> None:
    random, answered = Random(3), list[str]()
    for _ in range(4):
        with started(SERVE, str(path)) as (url, process):
            port = int(url.rpartition(":")[2])
            clients = [Thread(target=ask_until_killed, args=(port, answered)) for _ in range(12)]
            for client in clients:
                client.start()
            wanted = len(answered) + random.randint(50, 400)
            while len(answered) < wanted:
                clients[0].join(0.001)
            os.kill(process.pid, signal.SIGKILL)
            for client in clients:
                client.join()
    assert len(answered) > 200
    assert set(answered) <= {record.id for record in read_records(path)}


def ask_until_killed(port: int, answered: list[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with suppress(OSError, http.client.HTTPException), closing(connection):
        while True:
            connection.request("POST", "/decide", BODY, {"content-type": "application/json"})
            answered.append(json.loads(connection.getresponse().read())["id"])
