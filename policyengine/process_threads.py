"""Threads that each process starts when it first needs them, because the threads of a parent process do not survive a
fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread, current_thread
from time import monotonic
from typing import TypeAlias

ThreadRun: TypeAlias = Callable[[Event], None]


class ProcessThreads:
    """The threads of one name. `runs` returns what each of them runs until the event is set, and `report` reports that
    they cannot be started. Call `forget` in the child process after a fork."""

    def __init__(
        self,
        name: str,
        runs: Callable[[], Iterable[ThreadRun]],
        report: Callable[[RuntimeError], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name, self._runs, self._report, self._clock = name, runs, report, clock
        self.forget()

    def forget(self) -> None:
        """Leave the threads and the lock to the parent process."""
        self._process, self._stop, self._guard = 0, Event(), Lock()
        self._threads: list[Thread] = []

    def wake(self) -> None:
        """Start the threads, unless this process has started them. A failure is reported, not raised."""
        if self._process == os.getpid():
            return
        with self._guard:
            if self._process != os.getpid():
                self._start()

    def _start(self) -> None:
        self._process, self._stop = os.getpid(), Event()
        self._threads = [Thread(target=run, args=(self._stop,), name=self._name, daemon=True) for run in self._runs()]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:  # no more threads
            self._report(error)

    def stop(self, seconds: float, waiting: Iterable[Event] = ()) -> bool:
        """End the threads within `seconds`; `waiting` are events for which they may wait. Return False, and do nothing,
        if this process has not started them."""
        if self._process != os.getpid():
            return False
        until = self._clock() + seconds
        self._stop.set()
        for event in waiting:
            event.set()
        for thread in self._threads:
            if thread is not current_thread() and thread.ident is not None:  # some may not have been started
                thread.join(max(0.0, until - self._clock()))
        self._process, self._threads = 0, []
        return True
