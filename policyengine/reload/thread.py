"""The reload thread of one process: it waits for requests (such as SIGHUP) or file changes, and swaps the engine."""

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

MAX_JOIN_SECONDS = 2.0  # seconds to wait for the thread when stopping; its result is no longer needed then
_LOG = logging.getLogger("policyengine")


class ReloadThread:
    """Reloads in a thread. A signal handler may call `ask` at any time."""

    def __init__(self, reloading: ReloadableEngine, attempts: ReloadScheduler) -> None:
        self._reloading, self._attempts = reloading, attempts
        self._calls: SimpleQueue[bool] = SimpleQueue()  # safe inside a signal handler, unlike locks

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
        """Wait for a request or for the next check; return False if the thread must stop. Several requests are handled
        as one."""
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
    """Reload on SIGHUP and on schedule, for the duration of the block."""
    reloader = ReloadThread(reloading, attempts)
    with reloader.running(), handle_sighup(reloading, reloader.ask):
        yield


@contextmanager
def handle_sighup(reloading: ReloadableEngine, ask: Callable[[], None]) -> Iterator[None]:
    """Reopen the log and request a reload on SIGHUP."""
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
