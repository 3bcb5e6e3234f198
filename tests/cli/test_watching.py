"""`policyengine test --watch`: a real process, real files, and a person who interrupts."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from policyengine.install_hints import install_command
from tests import forking

POLICY = 'anyone { may GET /health }\ntest "health is open" {\n  GET /health => OUTCOME\n}\n'
LONGEST = 30.0  # seconds that a line may take to come


class Watching:
    """A running command, whose lines are waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process, self.stream = process, process.stdout
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.stream:
            self.lines.put(line.rstrip("\n"))

    def until(self, wanted: str) -> list[str]:
        seen: list[str] = []
        while not seen or wanted not in seen[-1]:
            seen.append(self.lines.get(timeout=LONGEST))
        return seen


@contextmanager
def watching(folder: Path, *options: str) -> Iterator[Watching]:
    command = [*forking.command(), "test", str(folder), "--watch", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    watched = Watching(process)
    try:
        yield watched
    finally:
        process.kill()
        process.wait()
        watched.reader.join()
        watched.stream.close()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "some.policy"
    path.write_text(POLICY.replace("OUTCOME", "allow"))
    return path


def test_watch_reruns_tests_after_each_change_and_survives_mistakes(policy: Path) -> None:
    with watching(policy.parent) as command:
        command.until("1 passed")
        command.until("watching for changes")
        policy.write_text(POLICY.replace("OUTCOME", "deny"))
        assert "changed: some.policy" in command.until("1 failed")
        policy.write_text(POLICY.replace("OUTCOME", "nonsense"))
        command.until("the policy cannot be used")
        policy.write_text(POLICY.replace("OUTCOME", "allow"))
        command.until("1 passed")


def test_an_interrupted_watch_exits_with_130(policy: Path) -> None:
    with watching(policy) as command:
        command.until("watching for changes")
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(LONGEST) == 130


def test_watch_without_watchfiles_reports_what_to_install(run, policy, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    ended = run("test", policy, "--watch")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: `--watch` needs watchfiles\nhint: {install_command('testing')}\n"
