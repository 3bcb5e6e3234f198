"""`serve --log`: what is answered, over every way in and by every worker, is on record."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from policyengine.audit import read_records
from policyengine.client.socket import SocketClient
from tests.server.processes import started

SERVE = "import sys; from policyengine.cli import main; sys.exit(main(sys.argv[1:]))"
POLICY = "anyone { may GET /health }"
ASKED = {"request": {"method": "GET", "path": "/health"}}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def serving(tmp_path: Path, log: Path):
    """Starts the server with its log; gives its port and its process."""
    policy = tmp_path / "p.policy"
    policy.write_text(POLICY)

    @contextmanager
    def start(*options: str) -> Iterator[tuple[int, int]]:
        arguments = ["serve", str(policy), "--port", "0", "--format", "json", "--log", str(log), *options]
        with started(SERVE, *arguments) as (line, process):
            yield int(json.loads(line)["listening"].rpartition(":")[2]), process.pid

    return start


def ask(port: int, path: str = "/decide", question: object = ASKED) -> dict:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, json.dumps(question), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def test_a_decision_is_logged_before_it_is_answered(serving, log):
    with serving() as (port, _):
        answer = ask(port)
        (record,) = read_records(log)
    assert record.decision == answer
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_every_endpoint_writes_to_the_decision_log(serving, log, tmp_path):
    socket = tmp_path / "s"
    with serving("--socket", str(socket)) as (port, _):
        answers = [
            ask(port),
            ask(port, "/evaluate"),
            *ask(port, "/decide/batch", {"requests": [ASKED, ASKED]})["decisions"],
        ]
        with SocketClient(socket, timeout=30) as client:
            answers.append({"id": client.decide(ASKED).id})
    assert [record.id for record in read_records(log)] == [answer["id"] for answer in answers]


def test_workers_share_the_decision_log(serving, log):
    with serving("--workers", "2") as (port, _):
        asked = [ask(port)["id"] for _ in range(40)]
    assert sorted(record.id for record in read_records(log)) == sorted(asked)


def test_workers_start_with_entities_and_log_sync_second(serving, log, tmp_path):
    (tmp_path / "p.policy").write_text(f"entity user {{ plan: string }}\n{POLICY}")
    (tmp_path / "rows.json").write_text('{"entities": [{"type": "user", "id": "ann", "attributes": {"plan": "free"}}]}')
    with serving("--workers", "2", "--log-sync", "second", "--entities", str(tmp_path / "rows.json")) as (port, _):
        assert {ask(port)["outcome"] for _ in range(4)} == {"allow"}
    assert len(list(read_records(log))) == 4


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_opens_a_new_log_file_after_sighup(serving, log, workers):
    with serving("--workers", workers) as (port, pid):
        ask(port)
        moved = log.rename(log.with_suffix(".1"))
        os.kill(pid, signal.SIGHUP)
        last = later_in_the_new_file(port, log)
    assert last in [record.id for record in read_records(log)]
    assert len(list(read_records(moved))) >= 1


def later_in_the_new_file(port: int, log: Path) -> str:
    """Asks until an answer is in the new file; workers look for it once a second."""
    latest = time.monotonic() + 30
    while time.monotonic() < latest:
        answered = ask(port)["id"]
        if log.exists() and answered in log.read_text():
            return answered
        time.sleep(0.01)
    raise AssertionError("nothing was written to the new file")


@pytest.mark.parametrize(("how", "outcome"), [("deny", "deny"), ("continue", "allow")])
def test_on_log_failure_decides_the_outcome_if_the_log_cannot_be_written(serving, log, how, outcome):
    with serving("--on-log-failure", how) as (port, pid):
        assert ask(port)["outcome"] == "allow"
        limit_files(pid, log.stat().st_size)
        assert ask(port)["outcome"] == outcome


def limit_files(pid: int, size: int) -> None:
    """No file of the process may grow beyond that: what a full disk is, for one process."""
    resource = pytest.importorskip("resource", reason="this system limits no files")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_killed_server_has_logged_every_answered_decision(serving, log):
    answered: list[str] = []
    with serving("--log-rotate", "4KB") as (port, pid):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with suppress(OSError, http.client.HTTPException), closing(connection):
            while True:
                connection.request("POST", "/decide", json.dumps(ASKED), {"content-type": "application/json"})
                answered.append(json.loads(connection.getresponse().read())["id"])
                if len(answered) == 60:
                    os.kill(pid, signal.SIGKILL)
    assert len(answered) >= 60
    found = [record.id for record in read_records(log)]
    assert found[: len(answered)] == answered
    assert len(found) <= len(answered) + 1  # one may have been written and not answered


def test_the_decision_log_redacts_the_authorization_header(serving, log):
    secret = "a-very-secret-token-of-the-user"
    question = {**ASKED, "request": {**ASKED["request"], "headers": {"authorization": f"Bearer {secret}"}}}
    with serving() as (port, _):
        ask(port, question=question)
    assert secret not in log.read_text()
    assert [one.fact for record in read_records(log) for one in record.redacted] == ["request.headers.authorization"]
