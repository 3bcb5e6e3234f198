"""Reports how much longer the reading of a large file takes: once on a pipe, and continuously on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from policyengine.cli.output.terminal import is_terminal

MEASURED_SECONDS = 1.0  # seconds of reading, from which the remaining time is estimated
WORTH_TELLING_SECONDS = 3.0
REDRAW_SECONDS = 0.2
CLEAR_LINE = "\r\x1b[K"
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


class ReadingProgress:
    """Receives the number of bytes read so far, of `total`."""

    def __init__(
        self, total: int, hint: str | None, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.hint, self.stream, self._clock = total, hint, stream, clock
        self._live = is_terminal(stream)
        self._start = self._drawn = clock()
        self._told = False

    def __call__(self, done: int) -> None:
        now = self._clock()
        elapsed = now - self._start
        if elapsed < MEASURED_SECONDS or not 0 < done < self.total:
            return
        rest = elapsed * (self.total - done) / done
        if not self._told and rest >= WORTH_TELLING_SECONDS:
            self._told = True
            print(f"reading {format_bytes(self.total)} takes {format_rest(rest)} more", file=self.stream)
            if self.hint:
                print(f"hint: {self.hint}", file=self.stream)
        if self._told and self._live and now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            percent = 100 * done // self.total
            self.stream.write(f"{CLEAR_LINE}{percent:3d} % read, {format_rest(rest)} left")
            self.stream.flush()

    def finish(self) -> None:
        """Remove the line on the terminal."""
        if self._told and self._live:
            self.stream.write(CLEAR_LINE)
            self.stream.flush()


@contextmanager
def show_reading(total: int, hint: str | None) -> Iterator[ReadingProgress]:
    """Show the progress of reading on stderr, if the reading takes a long time."""
    progress = ReadingProgress(total, hint, sys.stderr)
    try:
        yield progress
    finally:
        progress.finish()


def format_bytes(size: int) -> str:
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def format_rest(seconds: float) -> str:
    """Return a rough duration in words."""
    if seconds < 1.5:
        return "about a second"
    if seconds < 90:
        return f"about {round(seconds)} seconds"
    return f"about {round(seconds / 60)} minutes"
