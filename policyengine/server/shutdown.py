"""How a server ends: first it says so and goes on answering, then it takes nothing new, then it is gone.

Whoever sends questions here needs a moment to learn that he should not. So for half of the time connections are still
accepted, and each ends with its next answer; what does not speak for a while is closed. The other half is for answers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from time import monotonic, sleep

from policyengine.server.connections.connection_table import ClientConnection, CloseReason, ConnectionStage

DRAIN_SECONDS = 10.0  # seconds, unless somebody says otherwise
MAX_DRAIN_SECONDS = 3_600.0
QUIET_SECONDS = 0.5  # seconds without connections after which nobody new is let in
SILENT_SECONDS = 1.0  # seconds without a word after which a connection is closed
SETTLE_SECONDS = 0.2  # seconds from when nobody new is let in until all that were are here
LOGGER = logging.getLogger("policyengine")
EXIT_MESSAGE = "ended while threads were at work: nobody gets their answers"


class Drain:
    """`begun` is when the end began; None while there is none in sight. `delay` is for how long at least others are let
    in then."""

    def __init__(
        self, seconds: float = DRAIN_SECONDS, delay: float = 0.0, clock: Callable[[], float] = monotonic
    ) -> None:
        self.seconds, self.delay, self._clock = seconds, delay, clock
        self.begun: float | None = None
        self._refusing: float | None = None  # since when nobody new is let in
        self._silent: dict[
            ClientConnection, tuple[float, float]
        ] = {}  # when it last spoke, and since when that is known
        self._busy: float | None = None  # when somebody was last there
        self._answered = 0

    def begin(self) -> None:
        if self.begun is None:
            self.begun = self._clock()

    @property
    def passed(self) -> float:
        """Seconds since it began."""
        return 0.0 if self.begun is None else self._clock() - self.begun

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds if self.begun is None else max(self.begun + self.seconds - self._clock(), 0.0)

    @property
    def half_over(self) -> bool:
        """Whether the time for those who still come is over."""
        return self.passed >= max(self.seconds / 2, self.delay)

    def quiet(self, connections: Collection[ClientConnection], answered: int) -> bool:
        """Asked several times a second: whether nobody comes any more. `answered` counts on."""
        if self.begun is None:
            self._answered = answered
            return False
        now = self._clock()
        if connections or answered != self._answered:
            self._busy, self._answered = now, answered
        waits = self._busy is not None and now - self._busy < QUIET_SECONDS
        return not waits and self.passed >= self.delay

    def refuse(self) -> bool:
        """From now on nobody new is let in. False where that is so already."""
        first = self._refusing is None
        if self._refusing is None:
            self._refusing = self._clock()
        return first

    @property
    def settled(self) -> bool:
        """Whether all that were let in are here."""
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
            if now - silent[connection][1] < SILENT_SECONDS or connection.has_unread_bytes:
                continue
            if connection.stage is ConnectionStage.HEAD:
                connection.drop(CloseReason.HEAD)
            else:
                connection.shutdown()
        self._silent = silent


# ── The process ────────────────────────────────────────────────────────────────────────────────


def limit_exit_time(seconds: float, code: int) -> None:
    """When the interpreter ends, and threads are still at work after that time, it ends without them and with that
    `code`. What logs now says so then."""
    given = (seconds, code, tuple(LOGGER.handlers))
    begin = threading.Thread(target=exit_after, args=given, name="policyengine-exit", daemon=True).start
    threading._register_atexit(begin)  # type: ignore[attr-defined]  # `atexit` comes when threads were waited for


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
