"""Sends the lines of a log to one sink, at least once: the cursor moves only after the receiver has accepted lines.

Of several processes that share a log, only the process that holds the lock of the sink sends.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time

from policyengine.audit.seal.sealed_files import SealError
from policyengine.audit.sinks.cursor import FILE_MODE, CursorError, measure_lag, read_cursor
from policyengine.audit.sinks.log_follower import LineRange, LogFollower
from policyengine.audit.sinks.targets import OnLag, SinkTarget
from policyengine.audit.sinks.transport import LinesRefusedError, SinkError, SinkLine, Transport, read_sink_line
from policyengine.log_throttle import LogThrottle
from policyengine.plurals import pluralize

_LOG = logging.getLogger("policyengine")
MAX_LINES, MAX_BYTES = 500, 262_144  # maximum size of a batch
MAX_REFUSALS = 20  # refused parts of a batch after which the receiver counts as failing
IDLE_SECONDS = 1.0  # between two checks for new lines
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 60.0
MAX_RETRY_AFTER_SECONDS = 300.0
SURVEY_SECONDS = 5.0  # between two surveys of rotated files
LOCK_SUFFIX = ".lock"


class SinkSender:
    """The sender of one process for one sink. `connect` opens its transport. With `spool`, the log is a spool that is
    kept within the bound by skipping its oldest lines, unless the sink denies. `clock` returns monotonic seconds, `now`
    seconds since 1970, and `draw` a random number between two numbers.

    `sent` and `lost` count lines of this process, and `failures` counts its failed steps.
    """

    def __init__(
        self,
        target: SinkTarget,
        connect: Callable[[], Transport],
        log: Path,
        folder: Path,
        *,
        on_lag: OnLag,
        spool: bool = False,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.target, self._connect, self.on_lag = target, connect, on_lag
        self._log, self._folder, self._spool = log, folder, spool
        self._clock, self._now, self._draw = clock, now, draw
        self.sent = self.lost = self.failures = 0
        self._reset()

    def _reset(self) -> None:
        self._lock, self._follower, self._transport = -1, None, None
        self._throttle = LogThrottle.every(clock=self._clock)
        self._retry_at, self._surveyed = 0.0, 0.0
        self._fails = 0  # consecutive failures
        self._known_lost = 0  # lost lines that were counted and logged
        self._accepted: SinkLine | None = None  # a line that the receiver accepted

    _follower: LogFollower | None
    _transport: Transport | None

    @property
    def name(self) -> str:
        """The name of the sink."""
        return self.target.name

    def after_fork(self) -> None:
        """Leave the lock and the connection to the parent process, and reset the counts."""
        lock, follower = self._lock, self._follower
        self._reset()
        self.sent = self.lost = self.failures = 0
        if follower is not None:
            follower.close()
        if lock >= 0:
            os.close(lock)

    def close(self) -> None:
        """Close the connection and the files, and release the lock."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        self._close_follower()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close_follower(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()

    # ── Steps ─────────────────────────────────────────────────────────────────────────────────

    def step(self) -> float:
        """Send one batch if this process holds the lock. Return the seconds until the next step; 0 if there may be more
        lines. A failure is not raised, but counted and logged, and the batch is sent again after a pause."""
        try:
            if not self._holds_lock():
                return IDLE_SECONDS
            if self._follower is None:
                self._follower = self._follow()
            self._keep_bound(self._follower)
            left = self._retry_at - self._clock()
            if left > 0:
                return min(left, IDLE_SECONDS)
            found = self._follower.read(MAX_LINES, MAX_BYTES)
            self._count_lost(self._follower, "files of the log were deleted before they were sent")
            if found is None:
                return IDLE_SECONDS
            self._pass(self._follower, found)
        except (SinkError, CursorError, SealError, OSError) as error:
            return self._fail(error)
        except Exception as error:  # a defect must not end the thread
            return self._fail(error, exc_info=True)
        self._succeed()
        return 0.0

    def _follow(self) -> LogFollower:
        """Return a follower that continues at the cursor. Raises OSError, CursorError."""
        cursor = read_cursor(self._folder, self.name)
        self._known_lost = 0 if cursor is None else cursor.lost
        return LogFollower(self._log, self._folder, self.name, self._now)

    def _pass(self, follower: LogFollower, found: LineRange) -> None:
        """Send the lines, and move the cursor past them. Raises SinkError, CursorError."""
        lines = [line for raw in found.lines if (line := read_sink_line(raw)) is not None]
        if self._transport is None:
            self._transport = self._connect()
        accepts = partial(self._accepts_another_line, self._transport, follower, found)
        dropped, why = deliver(self._transport, lines, accepts) if lines else (0, "")
        if lines and not dropped:
            self._accepted = min(lines, key=lambda line: len(line.raw))
        follower.commit(found, len(lines) - dropped, dropped + found.lost)
        self.sent += len(lines) - dropped
        self._count_lost(follower, why or "a line is too long")

    def _accepts_another_line(self, transport: Transport, follower: LogFollower, refused: LineRange) -> bool:
        """Send again a line that the receiver accepted; without such a line, send the shortest of the refused lines and
        the lines after them. Return whether the receiver accepts the line. Raises SinkError."""
        shortest = sorted([*refused.lines, *follower.peek(refused)], key=len) if self._accepted is None else ()
        line = next((line for raw in shortest if (line := read_sink_line(raw)) is not None), self._accepted)
        try:
            if line is None or transport.send([line]):
                return False
        except LinesRefusedError:
            return False
        self._accepted = line
        return True

    def _keep_bound(self, follower: LogFollower) -> None:
        """Count the lines that a deletion of files would lose, and skip the oldest lines of a spool that is full.
        Raises OSError, CursorError, SealError.
        """
        if self._surveyed and self._clock() - self._surveyed < (IDLE_SECONDS if self._spool else SURVEY_SECONDS):
            return
        self._surveyed = self._clock()
        follower.survey()
        while (
            self._spool and self.on_lag is OnLag.CONTINUE and measure_lag(self._log, follower.cursor) > self.target.lag
        ):
            if not follower.skip_file():
                break
        self._count_lost(follower, "the spool is full")

    # ── Failures ──────────────────────────────────────────────────────────────────────────────

    def _fail(self, error: Exception, *, exc_info: bool = False) -> float:
        self.failures += 1
        self._fails += 1
        if not isinstance(error, SinkError):
            self._close_follower()
        why = describe(error)
        if self._fails == 1 or exc_info:
            _LOG.warning(
                "the sink `%s` fails: %s; records wait, and are sent again later", self.name, why,
                extra={"event": "sink_fails", "sink": self.name, "reason": why}, exc_info=exc_info,
            )  # fmt: skip
        longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._fails - 1, 16))
        pause = self._draw(longest / 2, longest)
        if isinstance(error, SinkError) and error.retry_after is not None:
            pause = max(pause, min(error.retry_after, MAX_RETRY_AFTER_SECONDS))
        self._retry_at = self._clock() + pause
        return min(pause, IDLE_SECONDS)

    def _succeed(self) -> None:
        if self._fails:
            _LOG.warning(
                "the sink `%s` works again after %s", self.name, pluralize(self._fails, "failure"),
                extra={"event": "sink_works", "sink": self.name, "failures": self._fails},
            )  # fmt: skip
        self._fails, self._retry_at = 0, 0.0

    def _count_lost(self, follower: LogFollower, why: str) -> None:
        """Add the lines that were lost since the last call to the count, and log them."""
        lost, self._known_lost = follower.cursor.lost - self._known_lost, follower.cursor.lost
        if not lost:
            return
        self.lost += lost
        lines = self._throttle.admit("lost", lost)
        if lines:
            _LOG.error(
                "the sink `%s` has lost %s: %s", self.name, pluralize(lines, "record"), why,
                extra={"event": "sink_lost", "sink": self.name, "count": lines, "reason": why},
            )  # fmt: skip

    def lag(self) -> int:
        """Return how many bytes of the log this sink has not sent, in any process. Raises OSError, CursorError."""
        return measure_lag(self._log, read_cursor(self._folder, self.name))

    def _holds_lock(self) -> bool:
        if self._lock < 0:
            self._lock = lock_file(self._folder / f"{self.name}{LOCK_SUFFIX}")
        return self._lock >= 0


def lock_file(path: Path) -> int:
    """Open and lock a file; return -1 if another process holds it. Raises OSError."""
    import fcntl

    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        return -1
    return opened


def deliver(
    transport: Transport, lines: Sequence[SinkLine], accepts_another: Callable[[], bool] = lambda: False
) -> tuple[int, str]:
    """Send lines; return how many the receiver dropped, and why. A refused batch is divided, so that only the lines
    that the receiver refuses are dropped, and no caller can stop the sink with such a line.

    If the receiver refuses all of the lines, `accepts_another` returns whether it accepts another line. Raises
    SinkError if it does not, or if the receiver fails.
    """
    try:
        dropped = transport.send(lines)
        return dropped, "the receiver dropped them" if dropped else ""
    except LinesRefusedError as error:
        refused, waiting = error, deque(halves(lines))
    dropped, tries, accepts = int(len(lines) == 1), 0, False
    while waiting or not accepts:
        if not accepts and (not waiting or tries >= MAX_REFUSALS):
            if not accepts_another():
                raise SinkError(f"{refused.why} to every request")
            accepts = True
            continue
        part, tries = waiting.popleft(), tries + 1
        try:
            dropped += transport.send(part)
            accepts = True
        except LinesRefusedError as error:
            refused = error
            dropped += len(part) == 1
            waiting.extend(halves(part))
    return dropped, refused.why


def halves(lines: Sequence[SinkLine]) -> list[Sequence[SinkLine]]:
    """Return both halves of several lines; no halves for a single line."""
    middle = len(lines) // 2
    return [lines[:middle], lines[middle:]] if middle else []


def describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the log cannot be read: {(error.strerror or str(error)).lower()}"
    return str(error)
