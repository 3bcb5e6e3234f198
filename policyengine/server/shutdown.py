"""Graceful shutdown: the server first reports that it is stopping but still answers, then refuses connections, and then
exits.

Clients need a moment to notice that the server stops. During the first half of the time, connections are therefore
still accepted, each connection ends with its next answer, and silent connections are closed. The second half is for
answers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from time import monotonic, sleep

from policyengine.server.connections.connection_table import ClientConnection, CloseReason, ConnectionStage

DRAIN_SECONDS = 10.0  # seconds that a shutdown may take, by default
MAX_DRAIN_SECONDS = 3_600.0
QUIET_SECONDS = 0.5  # seconds without connections, after which new connections are refused
SILENT_SECONDS = 1.0  # seconds without data, after which a connection is closed
SETTLE_SECONDS = 0.2  # seconds between refusing new connections and having received all accepted ones
LOGGER = logging.getLogger("policyengine")
EXIT_MESSAGE = "the process ended while threads were working: their answers are lost"


class Drain:
    """The state of a shutdown. `begun` is the time of its start, or None; `delay` is the minimum time in seconds during
    which new connections are accepted. After `quiet_seconds` without connections, new ones are refused; a connection
    is closed after `idle_seconds` without a request."""

    def __init__(
        self,
        seconds: float = DRAIN_SECONDS,
        delay: float = 0.0,
        clock: Callable[[], float] = monotonic,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        idle_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.seconds, self.delay, self._clock = seconds, delay, clock
        self._quiet_seconds, self._idle_seconds = quiet_seconds, idle_seconds
        self._at_begin: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self.begun: float | None = None
        self._refusing: float | None = None  # the time since which new connections are refused
        # For each connection, the time when it last began to send, and the time since which it has been silent.
        self._silent: dict[ClientConnection, tuple[float, float]] = {}
        self._busy: float | None = None  # the last time when there was a connection
        self._answered = 0

    def begin(self) -> None:
        if self.begun is None:
            self.begun = self._clock()

    def follow(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Register functions for the event loop of the server: `begin` is called soon after the shutdown has begun,
        `end` when its time is over and requests are unanswered."""
        self._at_begin.append(begin)
        self._at_end.append(end)

    def announce_begin(self) -> None:
        """Call the functions for the start of the shutdown, once. The caller is not a signal handler, which could
        interrupt them."""
        while self._at_begin:
            self._at_begin.pop(0)()

    def announce_end(self) -> None:
        """Call the functions for the end of the shutdown, once."""
        while self._at_end:
            self._at_end.pop(0)()

    @property
    def passed(self) -> float:
        """Seconds since the start of the shutdown."""
        return 0.0 if self.begun is None else self._clock() - self.begun

    @property
    def left(self) -> float:
        """Seconds until the time for the shutdown is over; before it begins, its whole time."""
        return self.seconds if self.begun is None else max(self.begun + self.seconds - self._clock(), 0.0)

    @property
    def half_over(self) -> bool:
        """Whether the time for new connections is over."""
        return self.passed >= max(self.seconds / 2, self.delay)

    def quiet(self, connections: Collection[ClientConnection], answered: int) -> bool:
        """Return whether clients have stopped connecting. The caller asks several times a second; `answered` is its
        running count of answers.
        """
        if self.begun is None:
            self._answered = answered
            return False
        now = self._clock()
        if connections or answered != self._answered:
            self._busy, self._answered = now, answered
        waits = self._busy is not None and now - self._busy < self._quiet_seconds
        return not waits and self.passed >= self.delay

    def refuse(self) -> bool:
        """Refuse new connections from now on. Return False if they were refused before."""
        first = self._refusing is None
        if self._refusing is None:
            self._refusing = self._clock()
        return first

    @property
    def settled(self) -> bool:
        """Whether enough time has passed since the server began to refuse connections that all accepted connections
        have been handed to it.
        """
        return self._refusing is not None and self._clock() - self._refusing >= min(SETTLE_SECONDS, self.seconds / 4)

    def close_silent(self, connections: Collection[ClientConnection]) -> None:
        now = self._clock()
        silent = {}
        for connection in list(connections):
            if connection.stage not in (ConnectionStage.HEAD, ConnectionStage.IDLE):
                continue
            known = self._silent.get(connection)
            silent[connection] = (
                known if known is not None and known[0] == connection.began else (connection.began, now)
            )
            most = SILENT_SECONDS if connection.stage is ConnectionStage.HEAD else self._idle_seconds
            if now - silent[connection][1] < most or connection.has_unread_bytes:
                continue
            if connection.stage is ConnectionStage.HEAD:
                connection.drop(CloseReason.HEAD)
            else:
                connection.shutdown()
        self._silent = silent


# ── The process ────────────────────────────────────────────────────────────────────────────────


def limit_exit_time(seconds: float, code: int) -> None:
    """End the process with `code` if threads are still working `seconds` after the interpreter starts to exit, and log
    a warning with the handlers that are installed now."""
    given = (seconds, code, tuple(LOGGER.handlers))
    begin = threading.Thread(target=exit_after, args=given, name="policyengine-exit", daemon=True).start
    threading._register_atexit(begin)  # type: ignore[attr-defined]  # `atexit` runs only after all threads ended


def exit_after(seconds: float, code: int, handlers: Sequence[logging.Handler]) -> None:
    sleep(seconds)
    record = LOGGER.makeRecord(
        LOGGER.name, logging.WARNING, __file__, 0, EXIT_MESSAGE, (), None, extra={"event": "ended_at_work"}
    )
    for handler in handlers:
        handler.handle(record)
        handler.flush()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(code)
