"""Processes that are killed at any moment: every acknowledged decision arrives at the receiver, some of them twice."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.audit.sinks.deciding import RUN
from tests.audit.sinks.receivers import Receiver, http_receiver, rsyslog
from tests.depth import examples, scaled
from tests.processes import wait_until
from tests.server.processes import program

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
        self.process: Any = None

    def decide(self, count: int, kill_after: int = sys.maxsize) -> None:
        """Start the process and decide; kill it after that many acknowledgements."""
        self.process = program(RUN, str(count), *self._arguments)
        acknowledged = 0
        while (line := self.process.stdout.readline().strip()) not in ("", "done"):
            self.acknowledged.append(line)
            acknowledged += 1
            if acknowledged == kill_after:
                self.kill()
        if kill_after < sys.maxsize:
            self.stop()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    def stop(self) -> None:
        self.kill()
        self.process.communicate()
        self.process.__exit__(None, None, None)  # closes its streams


def received(receiver: Receiver) -> list[str]:
    return [
        json.loads(line)["decision"]["id"] for request in list(receiver.requests) for line in request.body.splitlines()
    ]


def crash(decider: Decider, rounds: int) -> None:
    """Kill the process several times while it decides, and start it once more."""
    chance = random.Random(SEED)
    for _ in range(rounds):
        decider.decide(10_000, kill_after=chance.randint(1, 300))
    decider.decide(1)


@scaled
@pytest.mark.parametrize(
    ("rotate", "spool"), [(1_000_000_000, False), (100_000, False), (100_000, True)],
    ids=["one file", "rotated files", "a spool"],
)  # fmt: skip
def test_no_acknowledged_decision_is_missing_after_kill_9(receiver, tmp_path, rotate, spool):
    decider = Decider(tmp_path / "d.jsonl", f"http://127.0.0.1:{receiver.port}/#name=s", rotate=rotate, spool=spool)
    crash(decider, examples(3, 100))
    wanted = set(decider.acknowledged)
    wait_until(lambda: wanted <= set(received(receiver)))
    decider.stop()
    assert len(wanted) > 100
    assert list(dict.fromkeys(received(receiver)))[-1] == decider.acknowledged[-1]
    if spool:
        assert len(list(tmp_path.glob("d.jsonl.2*"))) < 20


@scaled
def test_a_receiver_that_fails_between_kills_misses_nothing(receiver, tmp_path):
    chance = random.Random(SEED)
    receiver.statuses = [chance.choice([202, 500, 503, 429, 302, 401]) for _ in range(200)]
    decider = Decider(tmp_path / "d.jsonl", f"http://127.0.0.1:{receiver.port}/#name=s", rotate=50_000)
    crash(decider, examples(2, 60))
    receiver.statuses.clear()
    wanted = set(decider.acknowledged)
    wait_until(lambda: wanted <= set(received(receiver)))
    decider.stop()


@scaled
def test_rsyslog_misses_nothing_after_kill_9_of_the_sender(tmp_path):
    with rsyslog(tmp_path) as server:
        decider = Decider(tmp_path / "d.jsonl", f"syslog+tcp://127.0.0.1:{server.tcp}#name=s", rotate=100_000)
        crash(decider, examples(2, 40))
        wanted = set(decider.acknowledged)
        wait_until(lambda: wanted <= {json.loads(each["msg"])["decision"]["id"] for each in server.messages()})
        decider.stop()


def test_decisions_do_not_wait_for_a_receiver_that_hangs(receiver, tmp_path):
    receiver.may_answer.clear()
    decider = Decider(tmp_path / "d.jsonl", f"http://127.0.0.1:{receiver.port}/#name=s&timeout=60")
    decider.decide(2_000)
    assert (len(decider.acknowledged), receiver.requests) == (2_000, [])
    receiver.may_answer.set()
    wait_until(lambda: set(decider.acknowledged) <= set(received(receiver)))
    decider.stop()
