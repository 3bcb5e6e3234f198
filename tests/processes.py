"""Waiting for conditions, and for processes that tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

STOP_SECONDS = 30.0  # servers finish what is in progress first


def wait_until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.01)


def is_usually_within(seconds: float, call: Callable[[], object]) -> bool:
    """Return whether one of three calls takes less than a number of seconds: on a machine that stalls, some calls are
    slow, but not all."""
    for _ in range(3):
        began = time.monotonic()
        call()
        if time.monotonic() - began < seconds:
            return True
    return False


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie. A killed process of another parent ends a little later."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def stop(process: subprocess.Popen[Any]) -> None:
    """Stop a process, and wait for its end. If it misses SIGTERM, for example because it is starting, it is killed."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_session(process: subprocess.Popen[Any]) -> None:
    """Stop a process that was started with `start_new_session`, as `stop` does, and then kill the processes that it has
    started and left: a program such as `go run` does not stop its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
