"""A pool of threads that wait for a database, so that callers wait only for a bounded time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Generic, Protocol, TypeVar

Answer = TypeVar("Answer")
MAX_STUCK_THREADS = 16  # maximum stuck threads to replace
MAX_QUEUED_JOBS = 256


class WorkerTimeoutError(Exception):
    """The error for a job that did not finish in time."""


class Closable(Protocol):
    def close(self) -> None: ...


Connection = TypeVar("Connection", bound=Closable)


@dataclass(slots=True, eq=False)
class WorkerJob(Generic[Connection]):
    work: Callable[[Connection], object]
    done: Event = field(default_factory=Event)
    taken: bool = False
    given_up: bool = False
    answer: object = None
    error: BaseException | None = None


class WorkerPool(Generic[Connection]):
    """Threads with one connection each, started when first needed and separately in every process. A stuck thread is
    replaced; if it continues and is no longer needed, it ends."""

    def __init__(self, connect: Callable[[], Connection], size: int, *, keep: bool = True) -> None:
        self._connect, self._size, self._keep = connect, size, keep
        self._begin()

    def _begin(self) -> None:
        """Start without threads, because threads do not survive a fork and connections must not."""
        self._process = os.getpid()
        self._guard = Lock()
        self._jobs: SimpleQueue[WorkerJob[Connection]] = SimpleQueue()
        self._working = self._idle = self._stuck = 0

    def ask(self, work: Callable[[Connection], Answer], seconds: float) -> Answer:
        """Return the result of the work within `seconds`. Raises the errors of the work, or WorkerTimeoutError."""
        if os.getpid() != self._process:
            self._begin()
        if self._jobs.qsize() >= MAX_QUEUED_JOBS:
            raise WorkerTimeoutError("too many callers are already waiting for an answer")
        job: WorkerJob[Connection] = WorkerJob(work)
        self._jobs.put(job)
        self._hire()
        if not job.done.wait(seconds) and self._give_up(job):
            raise WorkerTimeoutError(f"no answer within {seconds * 1_000:,.0f} ms")
        if job.error is not None:
            raise job.error
        answer: Answer = job.answer  # type: ignore[assignment]
        return answer

    def _hire(self) -> None:
        with self._guard:
            if self._working >= self._size or self._idle >= self._jobs.qsize() > 0:
                return
            self._working += 1
        Thread(target=self._work, name="policyengine directory", daemon=True).start()

    def _give_up(self, job: WorkerJob[Connection]) -> bool:
        """Give up a job; return False if it is already done. The thread of the job may be stuck, so another thread may
        replace it."""
        with self._guard:
            if job.done.is_set():
                return False
            job.given_up = True
            if job.taken and self._stuck < MAX_STUCK_THREADS:
                self._stuck += 1
                self._working -= 1
            return True

    def _work(self) -> None:
        connection: Connection | None = None
        stays = True
        while stays:
            job = self._next()
            if job.taken:
                connection = self._do(job, connection)
                stays = self._finish(job)
                if not self._keep:
                    close_connection(connection)
                    connection = None
        close_connection(connection)

    def _next(self) -> WorkerJob[Connection]:
        with self._guard:
            self._idle += 1
        job = self._jobs.get()
        with self._guard:
            self._idle -= 1
            job.taken = not job.given_up
        return job

    def _finish(self, job: WorkerJob[Connection]) -> bool:
        """Finish a job; return whether its thread continues. While the thread was stuck, another thread may have
        replaced it.
        """
        with self._guard:
            job.done.set()
            if not job.given_up or not self._stuck:
                return True
            self._stuck -= 1
            if self._working >= self._size:
                return False
            self._working += 1
            return True

    def _do(self, job: WorkerJob[Connection], connection: Connection | None) -> Connection | None:
        """Do a job and return the connection, or None if the connection broke. If a connection broke after its last
        use, it is replaced, and the job is tried once more.
        """
        for fresh in (connection is None, True):
            try:
                connection = connection or self._connect()
                job.answer, job.error = job.work(connection), None
                break
            except BaseException as error:
                job.error = error
                close_connection(connection)
                connection = None
                if fresh or job.given_up:
                    break
        return connection


def close_connection(connection: Closable | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except Exception:
            return  # another thread has replaced this thread
