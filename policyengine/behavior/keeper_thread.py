"""The background thread of a process that learns models, and saves or loads learned behavior."""

from __future__ import annotations

import logging
import os
import weakref
from threading import Event, Lock, Thread
from typing import Any, Protocol

from policyengine.stores.base import StoreError

_LOG = logging.getLogger("policyengine")


class BehaviorKeeper(Protocol):
    def keep(self) -> None:
        """Learn a model if one is due, and save or load changes."""
        ...


class KeeperThread:
    """A thread that calls `keep` at its start and after each pause, until it is closed or the `keeper` is no longer
    referenced. A forked process starts its own thread."""

    def __init__(self, keeper: BehaviorKeeper, seconds: float) -> None:
        self._keeper: weakref.ref[Any] = weakref.ref(keeper)
        self._seconds, self._lock = seconds, Lock()
        self._process, self._stop = 0, Event()
        self._thread: Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread was started in this process."""
        return self._process == os.getpid()

    def start(self) -> None:
        """Start the thread, unless this process has already started it."""
        with self._lock:
            if self.is_running:
                return
            self._process, self._stop = os.getpid(), Event()
        arguments = self._keeper, self._stop, self._seconds
        self._thread = Thread(target=keep_periodically, args=arguments, name="behavior", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, and wait until its current call of `keep` ends."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            thread.join(self._seconds)
        self._process = 0


def keep_periodically(keeper: weakref.ref[Any], stop: Event, seconds: float) -> None:
    pause, failing = 0.0, False
    while not stop.wait(pause):
        pause = seconds
        found = keeper()
        if found is None:
            return
        try:
            found.keep()
            failing = False
        except StoreError:  # the circuit breaker logs the error
            pass
        except Exception:  # a defect must not end the thread
            if not failing:
                _LOG.exception("learning, saving or loading behavior failed", extra={"event": "behavior_fails"})
            failing = True
        del found
