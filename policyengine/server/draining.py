"""How a server ends: first it says so and goes on answering, then it takes nothing new, then it is gone.

Whoever sends questions here needs a moment to learn that he should not. So for half of the time connections are still
accepted, and each ends with its next answer; what does not speak for a while is closed. The other half is for answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import monotonic
from typing import Protocol

DRAIN = 10.0  # seconds, unless somebody says otherwise
LONGEST_DRAIN = 3_600.0
QUIET = 0.5  # seconds without a word after which a connection is closed, and without connections after which it ends


class Connection(Protocol):
    """`heard`, where there is one, is set by what arrives."""

    def shutdown(self) -> None: ...


class Drain:
    """`begun` is when the end began; None while there is none in sight."""

    def __init__(self, seconds: float = DRAIN, clock: Callable[[], float] = monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self.begun: float | None = None
        self._silent: dict[Connection, float] = {}  # since when
        self._busy: float | None = None  # when somebody was last there
        self._answered = 0

    def begin(self) -> None:
        if self.begun is None:
            self.begun = self._clock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds if self.begun is None else max(self.begun + self.seconds - self._clock(), 0.0)

    def over(self, connections: Collection[Connection], answered: int) -> bool:
        """Asked several times a second: whether nothing new is to be taken any more. `answered` counts on."""
        if self.begun is None:
            self._answered = answered
            return False
        now = self._clock()
        self._close_silent(connections, now)
        if connections or answered != self._answered:
            self._busy, self._answered = now, answered
        waits = self._busy is not None and now - self._busy < QUIET
        return not waits or self.left <= self.seconds / 2

    def _close_silent(self, connections: Collection[Connection], now: float) -> None:
        silent = {}
        for one in list(connections):
            if getattr(one, "heard", False):
                one.heard = False  # type: ignore[attr-defined]
                silent[one] = now
            else:
                silent[one] = self._silent.get(one, now)
            if now - silent[one] >= QUIET:
                one.shutdown()
        self._silent = silent
