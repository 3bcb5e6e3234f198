"""Limits the log lines that clients or failing servers cause: logs a few lines of each kind per period, and the number
of suppressed lines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

MAX_LINES, WINDOW_SECONDS = 20, 60.0
LOG_INTERVAL_SECONDS = 10.0  # seconds between two lines about a failing component
_LOG = logging.getLogger("policyengine")


@dataclass(slots=True)
class LogWindow:
    began: float
    lines: int = 0
    left_out: int = 0


@dataclass
class LogThrottle:
    """Limits log lines by kind; there are few kinds, and clients cannot choose them. Threads may share it."""

    most: int = MAX_LINES
    window: float = WINDOW_SECONDS
    clock: Callable[[], float] = monotonic
    _windows: dict[str, LogWindow] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @classmethod
    def every(cls, seconds: float = LOG_INTERVAL_SECONDS, clock: Callable[[], float] = monotonic) -> LogThrottle:
        """Return a throttle of one line per kind and period."""
        return cls(1, seconds, clock)

    def tell(self, level: int, kind: str, text: str, **extra: object) -> None:
        """Log a line, unless the period already has the maximum number of lines of its kind. The next line of the kind
        reports how many were suppressed.
        """
        if not _LOG.isEnabledFor(level):
            return
        events = self.admit(kind)
        if events is None:
            return
        left_out = events - 1
        more = f" ({left_out:,} more lines like this were suppressed)" if left_out else ""
        _LOG.log(level, "%s%s", text, more, extra={**extra, **({"left_out": left_out} if left_out else {})})

    def admit(self, kind: str = "", events: int = 1) -> int | None:
        """Return the number of events that a line now represents (these, and those since the last line); None to omit
        the line.
        """
        now = self.clock()
        with self._lock:
            window = self._windows.get(kind)
            if window is None or now - window.began >= self.window:
                left_out = 0 if window is None else window.left_out
                self._windows[kind] = LogWindow(now, 1)
                return events + left_out
            if window.lines >= self.most:
                window.left_out += events
                return None
            window.lines += 1
            return events

    def reset(self, kind: str = "") -> None:
        """Start again for the kind, because its cause has ended: the next line counts as the first."""
        with self._lock:
            self._windows.pop(kind, None)
