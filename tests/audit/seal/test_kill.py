"""Processes that are killed while they write, rotate and seal lose no acknowledged line, and the log verifies."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from pathlib import Path
from random import Random

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog, Rotation
from policyengine.audit.files import log_files
from policyengine.audit.seal import sealer
from policyengine.audit.seal.options import SealOptions
from tests.audit.seal.logs import verified

QUESTION = {"request": {"method": "GET", "path": "/v1/a"}}


def write_decisions(path: Path, ready: int) -> None:
    """Decide until killed, and acknowledge each decision through the pipe."""
    sealer.SLICE_BYTES = 4_096  # in a process of its own
    log = DecisionLog(path, rotation=Rotation(size=40_000), seal=SealOptions(interval=0.01))
    engine = Engine.from_text("anyone { may GET /v1/** }", log=log)
    while True:
        os.write(ready, engine.decide(QUESTION).id.encode())
        log.reopen()


def run_until_killed(path: Path, seconds: float, *, after_first: bool) -> set[bytes]:
    """Run a writer, kill it after this time, which begins with its start or its first decision, and return the IDs that
    it acknowledged."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            write_decisions(path, writing)
        finally:
            os._exit(1)
    os.close(writing)
    told = bytearray()
    with open(reading, "rb", buffering=0) as pipe:
        if after_first:
            assert select.select([pipe], [], [], 60)[0], "the writer decided nothing"
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([pipe], [], [], left)[0]:
                told += pipe.read(1 << 16)
        os.kill(pid, signal.SIGKILL)
        told += pipe.read()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    whole = len(told) // 26 * 26
    return {bytes(told[at : at + 26]) for at in range(0, whole, 26)}


def kill_writers(path: Path, seed: int, times: int) -> int:
    """Kill a writer at random moments; return how many decisions were acknowledged. None of them may be missing."""
    random, acknowledged = Random(seed), set[bytes]()
    for _ in range(times):
        after_first = random.random() < 0.8
        acknowledged |= run_until_killed(path, random.uniform(0.0, 0.2), after_first=after_first)
        if path.with_name(f"{path.name}.tlog").joinpath("checkpoint").exists():
            assert verified(path).problems == []
    log = DecisionLog(path)
    log.note("issued", {"jti": "last"}, 1_800_000_000)
    log.close()
    result = verified(path)
    assert (result.problems, result.unsealed, result.torn) == ([], 0, False)
    written = b"".join(file.read_bytes() for file in log_files(path))
    assert acknowledged - set(re.findall(rb'"id":"([0-9A-Z]{26})"', written)) == set()
    return len(acknowledged)


def test_killed_writers_lose_no_acknowledged_decision(tmp_path):
    assert kill_writers(tmp_path / "d.jsonl", 5, 8) > 20


@pytest.mark.deep
def test_writers_killed_at_200_moments_lose_no_acknowledged_decision(tmp_path):
    assert kill_writers(tmp_path / "d.jsonl", 11, 200) > 2_000
