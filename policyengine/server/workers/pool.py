"""The supervisor of worker processes that share listeners: it forks them, replaces workers that die, and stops all
together.

Workers share the data that was loaded before the fork, such as the policies. They share the state that decisions spend
only through a store.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import NoReturn, Protocol

from policyengine.engine import Engine
from policyengine.reload import Candidate, ReloadableEngine, ReloadStatus
from policyengine.reload.scheduler import ReloadScheduler
from policyengine.server.listeners import ServeError
from policyengine.server.workers.board import WorkerBoard
from policyengine.server.workers.reload import ReloadCoordinator, WorkerChannel

MAX_WORKERS = 64
RESTART_PAUSE_SECONDS = 0.5  # seconds before a worker is replaced
POLL_SECONDS = 0.05  # seconds between two checks whether workers have closed their listeners
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOGGER = logging.getLogger("policyengine")


def check_workers(engine: Engine, workers: int) -> None:
    """Check that this engine can run in several workers. Raises ServeError."""
    if not 1 <= workers <= MAX_WORKERS:
        raise ServeError(f"`{workers}` is not a valid number of workers", f"use 1 to {MAX_WORKERS}")
    if workers > 1 and not hasattr(os, "fork"):
        raise ServeError("this system does not support several workers", "use one worker")
    if workers > 1 and engine.identity is not None and not engine.state.is_remote:
        raise ServeError(
            f"credentials need one worker: each of {workers} would accept a proof that was already used at another "
            "worker, and would not know what another worker revoked",
            "omit `--workers`, or share a store: `--store sqlite:///store.db`",
        )
    if workers > 1 and engine.state.keeps_state and not engine.state.is_shared:
        raise ServeError(
            f"policies with `confirm`, limits, history or learned behavior need one worker: each of {workers} would "
            "keep its own counts and history, and would accept an approval that another worker has spent",
            "omit `--workers`, or share a store: `--store sqlite:///store.db`",
        )


# ── The supervisor ────────────────────────────────────────────────────────────────────────────


class WorkerTarget(Protocol):
    """The main function of a worker, which runs until a signal stops it or the other end of the pipe `lifeline` closes.
    Reload messages arrive on its `line`. `place` is the number of the worker, from 0, which its replacement inherits.
    """

    def __call__(self, *, lifeline: int, line: WorkerChannel, place: int) -> object: ...


class SupervisorCalls:
    """Requests for a reload, which wake the supervisor. A signal handler may call `ask`."""

    def __init__(self, attempts: ReloadScheduler | None) -> None:
        self._attempts = attempts
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self.told = ReloadStatus()

    def ask(self) -> None:
        with suppress(BlockingIOError):  # the pipe is already full of requests
            os.write(self._writer, b".")

    @property
    def pause(self) -> float | None:
        return None if self._attempts is None else self._attempts.pause

    def candidate(self) -> Candidate | None:
        with suppress(BlockingIOError):
            if os.read(self.reader, 4_096) and self._attempts is not None:
                self._attempts.ask()
        return None if self._attempts is None else self._attempts.candidate()


class StopInterrupt(BaseException):
    """The exception for SIGTERM or SIGINT, which ends the workers at any point of the supervisor's work."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    process: ForkProcess
    line: WorkerChannel


@dataclass(frozen=True, slots=True)
class StopPlan:
    """The plan for stopping all workers, which have `seconds` to end. `listeners` are closed after every worker has
    closed its copy, so that later clients are refused instead of waiting.
    """

    board: WorkerBoard
    listeners: Sequence[socket.socket]
    seconds: float

    def close(self, crew: Sequence[WorkerProcess]) -> bool:
        """Close the listeners if no worker accepts connections any more, and return whether they are closed."""
        closed = all(self.board.has_closed(place) or one.process.exitcode is not None for place, one in enumerate(crew))
        if closed:
            for listener in self.listeners:
                listener.close()
        return closed


def supervise(
    work: WorkerTarget,
    workers: int,
    started: Callable[[], None],
    stopping: StopPlan,
    reloading: ReloadableEngine,
    calls: SupervisorCalls,
) -> int | None:
    """Run `workers` processes and replace those that die, until SIGTERM or SIGINT.

    A second signal ends them immediately and is returned. Raises ServeError if processes cannot be forked.
    """
    if threading.active_count() > 1:
        raise ServeError("workers cannot be forked from a process that has threads", "use `policyengine serve`")
    # Only the supervisor holds `held`: when it ends, for whatever reason, the workers read the end of `lifeline`.
    lifeline, held = os.pipe()
    crew: list[WorkerProcess] = []
    before = {one: signal.signal(one, raise_stop) for one in STOP_SIGNALS}
    try:
        for place in range(workers):
            crew.append(start_worker(work, lifeline, held, place))
        started()
        watch_workers(crew, lambda place: start_worker(work, lifeline, held, place), reloading, calls)
    except StopInterrupt:
        return stop_workers(crew, stopping)
    finally:
        stop_workers(crew, replace(stopping, seconds=0))  # after other errors
        reloading.gate.close()
        os.close(lifeline)
        os.close(held)
        for one, handler in before.items():
            signal.signal(one, handler)


def raise_stop(number: int, frame: FrameType | None) -> None:
    raise StopInterrupt(number)


def start_worker(work: WorkerTarget, lifeline: int, held: int, place: int) -> WorkerProcess:
    here, there = WorkerChannel.pair()
    process = get_context("fork").Process(
        target=run_worker, args=(work, lifeline, held, here, there, place), daemon=True
    )
    process.start()
    there.close()
    return WorkerProcess(process, here)


def run_worker(
    work: WorkerTarget, lifeline: int, held: int, elsewhere: WorkerChannel, line: WorkerChannel, place: int
) -> None:
    os.close(held)
    elsewhere.close()
    for signal_number in STOP_SIGNALS:
        signal.signal(signal_number, signal.SIG_DFL)
    work(lifeline=lifeline, line=line, place=place)


def watch_workers(
    crew: list[WorkerProcess],
    another: Callable[[int], WorkerProcess],
    reloading: ReloadableEngine,
    calls: SupervisorCalls,
) -> NoReturn:
    """Replace workers that die, one at a time and after a pause, because the cause may also kill the next worker.
    Reload all workers when a reload is requested.
    """
    while True:
        wait([*(one.process.sentinel for one in crew), calls.reader], calls.pause)
        for place, one in enumerate(crew):
            if one.process.exitcode is not None:
                crew[place] = replace_worker(one, partial(another, place))
        candidate = calls.candidate()
        together = ReloadCoordinator(reloading, [one.line for one in crew])
        if candidate is not None:
            together.take(candidate)
        elif calls.told != reloading.reloads:
            together.drop()
        calls.told = reloading.reloads
        for worker in crew:
            if worker.line in together.lost and worker.process.exitcode is None:
                worker.process.kill()


def replace_worker(worker: WorkerProcess, another: Callable[[], WorkerProcess]) -> WorkerProcess:
    process = worker.process
    LOGGER.error(
        "worker %d ended with status %d; another one replaces it", process.pid, process.exitcode,
        extra={"event": "worker_ended", "worker": process.pid, "status": process.exitcode},
    )  # fmt: skip
    worker.line.close()
    time.sleep(RESTART_PAUSE_SECONDS)
    return another()


def stop_workers(crew: list[WorkerProcess], stopping: StopPlan) -> int | None:
    """Let all workers end within the time of the plan; return the signal that cut this time short, if any."""
    hurried: list[int] = []

    def hurry(number: int, frame: FrameType | None) -> None:
        hurried.append(number)
        for member in crew:
            member.process.kill()

    for signal_number in STOP_SIGNALS:
        signal.signal(signal_number, hurry)
    stopping.board.stop()
    for worker in crew:
        worker.process.terminate()
    latest, closed = time.monotonic() + stopping.seconds, False
    while (left := latest - time.monotonic()) > 0 and (still := [one for one in crew if one.process.exitcode is None]):
        closed = closed or stopping.close(crew)
        wait([one.process.sentinel for one in still], left if closed else min(left, POLL_SECONDS))
    for process in [worker.process for worker in crew]:
        if process.exitcode is None:
            process.kill()
        process.join()
    return hurried[0] if hurried else None
