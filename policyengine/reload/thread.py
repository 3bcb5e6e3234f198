"""Reloading in one process: a thread that waits to be asked, by SIGHUP say, or looks at files, and swaps the engine."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread, current_thread, main_thread
from types import FrameType

from policyengine.hangup_signal import take_hangup
from policyengine.reload.candidate import RefusalKind, ReloadRefusedError
from policyengine.reload.reloadable_engine import ReloadableEngine
from policyengine.reload.scheduler import ReloadScheduler

MAX_JOIN_SECONDS = 2.0  # seconds that a stop waits for it: what is being checked then is for nobody
_LOG = logging.getLogger("policyengine")


class ReloadThread:
    """`ask` may be called by a handler of signals, whatever this process is doing."""

    def __init__(self, reloading: ReloadableEngine, attempts: ReloadScheduler) -> None:
        self._reloading, self._attempts = reloading, attempts
        self._calls: SimpleQueue[bool] = SimpleQueue()  # unlike locks it may be used inside of a handler

    def ask(self) -> None:
        self._calls.put(True)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = Thread(target=self._run, name="reloading", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._calls.put(False)
            thread.join(MAX_JOIN_SECONDS)
            self._reloading.gate.close()

    def _run(self) -> None:
        while self._goes_on():
            try:
                candidate = self._attempts.candidate()
                if candidate is not None:
                    self._reloading.replace(self._reloading.engine_of(candidate))
            except ReloadRefusedError as refused:
                self._reloading.refuse(refused)
            except Exception:
                _LOG.exception("reloading failed", extra={"event": "reload_failed"})
                self._reloading.refuse(
                    ReloadRefusedError("reloading failed; the operator's log says why", reason=RefusalKind.FAILURE)
                )

    def _goes_on(self) -> bool:
        """Until something is to be done; False for the end. Who asked several times is served once."""
        try:
            calls = [self._calls.get(timeout=self._attempts.pause)]
            while not self._calls.empty():
                calls.append(self._calls.get_nowait())
        except Empty:
            return True
        if False in calls:
            return False
        self._attempts.ask()
        return True


@contextmanager
def reload_on_request(reloading: ReloadableEngine, attempts: ReloadScheduler) -> Iterator[None]:
    """While it lasts policies are read anew: on SIGHUP, and when it is time."""
    reloader = ReloadThread(reloading, attempts)
    with reloader.running(), handle_sighup(reloading, reloader.ask):
        yield


@contextmanager
def handle_sighup(reloading: ReloadableEngine, ask: Callable[[], None]) -> Iterator[None]:
    """SIGHUP says that the log was moved away, or that there are other policies."""
    if not hasattr(signal, "SIGHUP") or current_thread() is not main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        log = reloading.current.log
        if log is not None:
            log.reopen()
        ask()

    before = signal.signal(signal.SIGHUP, heard)
    if take_hangup():
        ask()
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
