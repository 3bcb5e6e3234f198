"""Processes that are killed at any moment: every acknowledged decision arrives at the receiver, some of them twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit.sinks.receivers import Receiver, http_receiver, rsyslog
from tests.stores.servers import wait_for

ROOT = Path(__file__).parents[3]
SEED = 22


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


class Decider:
    """A process that decides, and can be killed and started again."""

    def __init__(self, log: Path, *urls: str, rotate: int = 1_000_000_000, spool: bool = False) -> None:
        self._arguments = [str(log), str(rotate), "spool" if spool else "", *urls]
        self.acknowledged: list[str] = []
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.audit.sinks.deciding", *self._arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def decide(self, count: int, kill_after: int | None = None) -> None:
        """Decide, and kill the process after that many acknowledgements."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        while (line := self.process.stdout.readline().strip()) not in ("", "done"):
            self.acknowledged.append(line)
            if kill_after is not None and len(self.acknowledged) >= kill_after:
                self.process.kill()
        if kill_after is not None:
            self.stop()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def received(receiver: Receiver) -> list[str]:
    return [
        json.loads(line)["decision"]["id"] for request in list(receiver.requests) for line in request.body.splitlines()
    ]


def crash(decider: Decider, rounds: int) -> None:
    chance = random.Random(SEED)
    for _ in range(rounds):
        decider.decide(10_000, kill_after=len(decider.acknowledged) + chance.randint(1, 400))
        decider.start()


@pytest.mark.parametrize(
    ("rotate", "spool"), [(1_000_000_000, False), (100_000, False), (100_000, True)],
    ids=["one file", "rotated files", "a spool"],
)  # fmt: skip
def test_no_acknowledged_decision_is_missing_after_kill_9(receiver, tmp_path, rotate, spool):
    decider = Decider(tmp_path / "d.jsonl", f"http://127.0.0.1:{receiver.port}/#name=s", rotate=rotate, spool=spool)
    crash(decider, 6)
    decider.decide(1)
    wanted = set(decider.acknowledged)
    wait_for(lambda: wanted <= set(received(receiver)))
    decider.stop()
    assert len(wanted) > 200
    assert list(dict.fromkeys(received(receiver)))[-1] == decider.acknowledged[-1]
    if spool:
        assert len(list(tmp_path.glob("d.jsonl.2*"))) < 20


def test_a_receiver_that_fails_between_kills_misses_nothing(receiver, tmp_path):
    chance = random.Random(SEED)
    receiver.statuses = [chance.choice([202, 500, 503, 429, 302, 401]) for _ in range(200)]
    decider = Decider(tmp_path / "d.jsonl", f"http://127.0.0.1:{receiver.port}/#name=s", rotate=50_000)
    crash(decider, 4)
    receiver.statuses.clear()
    wanted = set(decider.acknowledged)
    wait_for(lambda: wanted <= set(received(receiver)))
    decider.stop()


def test_rsyslog_misses_nothing_after_kill_9_of_the_sender(tmp_path):
    with rsyslog(tmp_path) as server:
        decider = Decider(tmp_path / "d.jsonl", f"syslog+tcp://127.0.0.1:{server.tcp}#name=s", rotate=100_000)
        crash(decider, 3)
        wanted = set(decider.acknowledged)
        wait_for(lambda: wanted <= {json.loads(each["msg"])["decision"]["id"] for each in server.messages()})
        decider.stop()


def test_decisions_do_not_wait_for_a_receiver_that_hangs(receiver, tmp_path):
    receiver.may_answer.clear()
    decider = Decider(tmp_path / "d.jsonl", f"http://127.0.0.1:{receiver.port}/#name=s&timeout=60")
    decider.decide(2_000)
    assert (len(decider.acknowledged), receiver.requests) == (2_000, [])
    receiver.may_answer.set()
    wait_for(lambda: set(decider.acknowledged) <= set(received(receiver)))
    decider.stop()
