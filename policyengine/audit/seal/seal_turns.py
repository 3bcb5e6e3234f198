"""Synchronizes the thread of a sealer with threads that write decisions: the sealer works in turns, while a writer
waits.

Otherwise both threads would take the interpreter from each other at every system call, which costs more than the work.
"""

from __future__ import annotations

from threading import Event

TURN_SECONDS = 0.002  # maximum time that a writer waits for the sealer's thread
ASK_SECONDS = 0.005  # maximum time that the sealer's thread waits for a writer


class SealTurns:
    """The turns in which the thread of a sealer works while a writer waits for it."""

    def __init__(self) -> None:
        self.is_wanted = self._is_over = False
        self._called, self._ended = Event(), Event()

    # ── For the thread ────────────────────────────────────────────────────────────────────────

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds`, or until a writer calls. Return False if the thread must stop."""
        if not self._is_over:
            self._called.wait(seconds)
            self._called.clear()
        return not self._is_over

    def begin(self) -> None:
        """Begin a turn: wait up to ASK_SECONDS for a writer to call. The turn begins even if no writer calls."""
        self.is_wanted = True
        self.wait(ASK_SECONDS)
        self.is_wanted = False

    def end(self) -> None:
        """End the turn, so that the writer continues."""
        self._ended.set()

    def rest(self, seconds: float) -> None:
        """Let writers continue for `seconds`, and begin the next turn."""
        self.end()
        self.wait(seconds)
        self.begin()

    # ── For writers ───────────────────────────────────────────────────────────────────────────

    def give(self) -> None:
        """Give the sealer's thread a turn and wait until it ends, at most TURN_SECONDS, because a disk may not
        answer."""
        self._ended.clear()
        self._called.set()
        self._ended.wait(TURN_SECONDS)

    def stop(self) -> None:
        """Stop the thread after its turn."""
        self._is_over = True
        self._called.set()
