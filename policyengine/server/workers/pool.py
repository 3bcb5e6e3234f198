"""Several processes that answer on the same listeners: forked, replaced when one dies, and stopped together.

They share what was loaded before they were forked: the same policies, and what decisions spend only by a store beside
them.
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
from policyengine.reload import Candidate, Reloading, Reloads
from policyengine.reload.watch import Attempts
from policyengine.server.listeners import ServeError
from policyengine.server.workers.board import WorkerBoard
from policyengine.server.workers.reload import Crew, Line

MOST_WORKERS = 64
PAUSE = 0.5  # seconds before a worker is replaced
LOOK = 0.05  # seconds between two looks whether workers have closed their listeners
STOPPING = (signal.SIGTERM, signal.SIGINT)
LOGGER = logging.getLogger("policyengine")


def check_workers(engine: Engine, workers: int) -> None:
    """Raises ServeError."""
    if not 1 <= workers <= MOST_WORKERS:
        raise ServeError(f"{workers} workers are not possible", f"from 1 to {MOST_WORKERS}")
    if workers > 1 and not hasattr(os, "fork"):
        raise ServeError("there are no several workers on this system", "serve with one")
    if workers > 1 and engine.identity is not None and not engine.remote:
        raise ServeError(
            f"credentials are verified by one worker: of {workers}, each would take a proof that another has seen, and "
            "know nothing of what another revoked",
            "leave `--workers` out, or share a store: `--store sqlite:///store.db`",
        )
    if workers > 1 and engine.keeps and not engine.shares:
        raise ServeError(
            f"policies with `confirm`, limits or history are served by one worker: of {workers}, each would count and "
            "remember for itself, and accept an approval that another has spent",
            "leave `--workers` out, or share a store: `--store sqlite:///store.db`",
        )


# ── The one that watches ──────────────────────────────────────────────────────────────────────


class Work(Protocol):
    """What a worker does until it is told to stop, or until the other end of the pipe `lifeline` is closed. Over its
    `line` it is told by which policies to decide. `place` is which one it is, from 0: who replaces it has the same."""

    def __call__(self, *, lifeline: int, line: Line, place: int) -> object: ...


class Calls:
    """What the one that watches is called for, besides workers that die. A handler of signals may `ask`."""

    def __init__(self, attempts: Attempts | None) -> None:
        self._attempts = attempts
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self.told = Reloads()

    def ask(self) -> None:
        with suppress(BlockingIOError):  # then it is full of calls
            os.write(self._writer, b".")

    @property
    def pause(self) -> float | None:
        return None if self._attempts is None else self._attempts.pause

    def candidate(self) -> Candidate | None:
        with suppress(BlockingIOError):
            if os.read(self.reader, 4_096) and self._attempts is not None:
                self._attempts.ask()
        return None if self._attempts is None else self._attempts.candidate()


class Stopped(BaseException):
    """SIGTERM or SIGINT came: the workers are to end, whatever was being done."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


@dataclass(frozen=True, slots=True)
class Worker:
    process: ForkProcess
    line: Line


@dataclass(frozen=True, slots=True)
class StopPlan:
    """What is needed to stop all workers: they have `seconds` to end, and `listeners` are closed when all of them have
    closed theirs, so that who comes then is refused and does not wait in vain."""

    board: WorkerBoard
    listeners: Sequence[socket.socket]
    seconds: float

    def close(self, crew: Sequence[Worker]) -> bool:
        """Whether nobody accepts connections any more."""
        closed = all(self.board.has_closed(place) or one.process.exitcode is not None for place, one in enumerate(crew))
        if closed:
            for listener in self.listeners:
                listener.close()
        return closed


def supervise(
    work: Work, workers: int, started: Callable[[], None], stopping: StopPlan, reloading: Reloading, calls: Calls
) -> int | None:
    """Let `workers` processes do the work and replace those that die, until SIGTERM or SIGINT.

    A second signal ends them at once, and is returned.
    Raises ServeError where processes cannot be forked.
    """
    if threading.active_count() > 1:
        raise ServeError("workers cannot be forked from a process that has threads", "use `policyengine serve`")
    # Only this process holds `held`: when it is gone, however it ended, the workers read the end of `lifeline`.
    lifeline, held = os.pipe()
    crew: list[Worker] = []
    before = {one: signal.signal(one, stop) for one in STOPPING}
    try:
        for place in range(workers):
            crew.append(begin(work, lifeline, held, place))
        started()
        keep(crew, lambda place: begin(work, lifeline, held, place), reloading, calls)
    except Stopped:
        return end(crew, stopping)
    finally:
        end(crew, replace(stopping, seconds=0))  # where something else went wrong
        reloading.gate.close()
        os.close(lifeline)
        os.close(held)
        for one, handler in before.items():
            signal.signal(one, handler)


def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def begin(work: Work, lifeline: int, held: int, place: int) -> Worker:
    here, there = Line.pair()
    process = get_context("fork").Process(target=live, args=(work, lifeline, held, here, there, place), daemon=True)
    process.start()
    there.close()
    return Worker(process, here)


def live(work: Work, lifeline: int, held: int, elsewhere: Line, line: Line, place: int) -> None:
    os.close(held)
    elsewhere.close()
    for one in STOPPING:
        signal.signal(one, signal.SIG_DFL)
    work(lifeline=lifeline, line=line, place=place)


def keep(crew: list[Worker], another: Callable[[int], Worker], reloading: Reloading, calls: Calls) -> NoReturn:
    """Replace whoever dies, one after the other and none at once: what kills them may well kill the next. And give all
    of them other policies when it is time."""
    while True:
        wait([*(one.process.sentinel for one in crew), calls.reader], calls.pause)
        for place, one in enumerate(crew):
            if one.process.exitcode is not None:
                crew[place] = replaced(one, partial(another, place))
        candidate = calls.candidate()
        together = Crew(reloading, [one.line for one in crew])
        if candidate is not None:
            together.take(candidate)
        elif calls.told != reloading.reloads:
            together.drop()
        calls.told = reloading.reloads
        for one in crew:
            if one.line in together.lost and one.process.exitcode is None:
                one.process.kill()


def replaced(worker: Worker, another: Callable[[], Worker]) -> Worker:
    process = worker.process
    LOGGER.error(
        "worker %d ended with status %d; another takes its place", process.pid, process.exitcode,
        extra={"event": "worker_ended", "worker": process.pid, "status": process.exitcode},
    )  # fmt: skip
    worker.line.close()
    time.sleep(PAUSE)
    return another()


def end(crew: list[Worker], stopping: StopPlan) -> int | None:
    """Let all end, within that time. The signal that cut it short, if one came meanwhile."""
    hurried: list[int] = []

    def hurry(number: int, frame: FrameType | None) -> None:
        hurried.append(number)
        for one in crew:
            one.process.kill()

    for one in STOPPING:
        signal.signal(one, hurry)
    stopping.board.stop()
    for worker in crew:
        worker.process.terminate()
    latest, closed = time.monotonic() + stopping.seconds, False
    while (left := latest - time.monotonic()) > 0 and (still := [one for one in crew if one.process.exitcode is None]):
        closed = closed or stopping.close(crew)
        wait([one.process.sentinel for one in still], left if closed else min(left, LOOK))
    for process in [worker.process for worker in crew]:
        if process.exitcode is None:
            process.kill()
        process.join()
    return hurried[0] if hurried else None
