"""Several processes that answer on the same listeners: forked, replaced when one dies, and stopped together.

They share what was loaded before they were forked: the same policies, and what decisions spend only by a store beside
them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import NoReturn, Protocol

from policyengine.engine import Engine
from policyengine.server.listeners import ServeError

LAST_ANSWERS = 5  # seconds
MOST_WORKERS = 64
PAUSE = 0.5  # seconds before a worker is replaced
STOPPING = (signal.SIGTERM, signal.SIGINT)
LOGGER = logging.getLogger("policyengine")


def check_workers(engine: Engine, workers: int) -> None:
    """Raises ServeError."""
    if not 1 <= workers <= MOST_WORKERS:
        raise ServeError(f"{workers} workers are not possible", f"from 1 to {MOST_WORKERS}")
    if workers > 1 and not hasattr(os, "fork"):
        raise ServeError("there are no several workers on this system", "serve with one")
    if workers > 1 and engine.keeps and not engine.shares:
        raise ServeError(
            f"policies with `confirm`, limits or history are served by one worker: of {workers}, each would count and "
            "remember for itself, and accept an approval that another has spent",
            "leave `--workers` out, or share a store: `--store sqlite:///store.db`",
        )


# ── The one that watches ──────────────────────────────────────────────────────────────────────


class Work(Protocol):
    """What a worker does until it is told to stop, or until the other end of the pipe `lifeline` is closed."""

    def __call__(self, *, lifeline: int) -> object: ...


class Stopped(BaseException):
    """SIGTERM or SIGINT came: everything ends, whatever was being done."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


def supervise(work: Work, workers: int, started: Callable[[], None]) -> int:
    """Let `workers` processes do the work and replace those that die, until the signal that is returned.

    Raises ServeError where processes cannot be forked.
    """
    if threading.active_count() > 1:
        raise ServeError("workers cannot be forked from a process that has threads", "use `policyengine serve`")
    # Only this process holds `held`: when it is gone, however it ended, the workers read the end of `lifeline`.
    lifeline, held = os.pipe()
    crew: list[ForkProcess] = []
    before = {one: signal.signal(one, stop) for one in STOPPING}
    try:
        for _ in range(workers):
            crew.append(begin(work, lifeline, held))
        started()
        keep(crew, lambda: begin(work, lifeline, held))
    except Stopped as stopped:
        return stopped.signal
    finally:
        for one in STOPPING:
            signal.signal(one, signal.SIG_IGN)
        end(crew)
        os.close(lifeline)
        os.close(held)
        for one, handler in before.items():
            signal.signal(one, handler)


def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def begin(work: Work, lifeline: int, held: int) -> ForkProcess:
    process = get_context("fork").Process(target=live, args=(work, lifeline, held), daemon=True)
    process.start()
    return process


def live(work: Work, lifeline: int, held: int) -> None:
    os.close(held)
    for one in STOPPING:
        signal.signal(one, signal.SIG_DFL)
    work(lifeline=lifeline)


def keep(crew: list[ForkProcess], another: Callable[[], ForkProcess]) -> NoReturn:
    """Replace whoever dies, one after the other and none at once: what kills them may well kill the next."""
    while True:
        wait([process.sentinel for process in crew])
        for place, process in enumerate(crew):
            if process.exitcode is not None:
                LOGGER.error("worker %d ended with status %d; another takes its place", process.pid, process.exitcode)
                time.sleep(PAUSE)
                crew[place] = another()


def end(crew: list[ForkProcess]) -> None:
    for process in crew:
        process.terminate()
    latest = time.monotonic() + LAST_ANSWERS + 1
    for process in crew:
        process.join(max(latest - time.monotonic(), 0))
        if process.exitcode is None:
            process.kill()
            process.join()
