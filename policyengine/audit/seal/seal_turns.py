"""Turns of the thread of a sealer: it works while a thread that writes decisions waits for it.

Otherwise both would take the interpreter from each other at every system call, which costs more than the work.
"""

from __future__ import annotations

from threading import Event

TURN_SECONDS = 0.002  # how long a writer waits for the thread
ASK_SECONDS = 0.005  # how long the thread waits for a writer


class SealTurns:
    """The turns in which the thread of a sealer works while a writer waits for it."""

    def __init__(self) -> None:
        self.is_wanted = self._is_over = False
        self._called, self._ended = Event(), Event()

    # ── For the thread ────────────────────────────────────────────────────────────────────────

    def wait(self, seconds: float) -> bool:
        """Wait so long. Return False if the thread must stop."""
        if not self._is_over:
            self._called.wait(seconds)
            self._called.clear()
        return not self._is_over

    def begin(self) -> None:
        """Begin a turn: wait for a writer that waits for this thread, but only shortly, because there may be none."""
        self.is_wanted = True
        self.wait(ASK_SECONDS)
        self.is_wanted = False

    def end(self) -> None:
        """Let the writer proceed."""
        self._ended.set()

    def rest(self, seconds: float) -> None:
        """Let writers proceed for so long."""
        self.end()
        self.wait(seconds)
        self.begin()

    # ── For writers ───────────────────────────────────────────────────────────────────────────

    def give(self) -> None:
        """Give the thread its turn, and wait until it ends, but not for a disk that does not answer."""
        self._ended.clear()
        self._called.set()
        self._ended.wait(TURN_SECONDS)

    def stop(self) -> None:
        """Stop the thread after its turn."""
        self._is_over = True
        self._called.set()
