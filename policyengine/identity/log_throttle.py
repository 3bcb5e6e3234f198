"""Lines in the log that strangers cause: of each kind a few within a minute, and how many more there were."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

MAX_LINES, WINDOW_SECONDS = 20, 60.0  # lines of a kind, and seconds
_LOG = logging.getLogger("policyengine")


@dataclass(slots=True)
class LogWindow:
    began: float
    told: int = 0
    left_out: int = 0


@dataclass
class LogThrottle:
    """Threads may share one. Kinds are few, and none is named by a stranger."""

    most: int = MAX_LINES
    window: float = WINDOW_SECONDS
    clock: Callable[[], float] = monotonic
    _counts: dict[str, LogWindow] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def tell(self, level: int, kind: str, text: str, **extra: object) -> None:
        """One line, unless there were too many of the kind; the first one after that says how many were left out."""
        if not _LOG.isEnabledFor(level):
            return
        left_out = self._counted(kind)
        if left_out is None:
            return
        more = f" ({left_out:,} more lines like this were left out)" if left_out else ""
        _LOG.log(level, "%s%s", text, more, extra={**extra, **({"left_out": left_out} if left_out else {})})

    def _counted(self, kind: str) -> int | None:
        """None for one too many."""
        now = self.clock()
        with self._lock:
            count = self._counts.get(kind)
            if count is None or now - count.began >= self.window:
                left_out = 0 if count is None else count.left_out
                self._counts[kind] = LogWindow(now, 1)
                return left_out
            if count.told >= self.most:
                count.left_out += 1
                return None
            count.told += 1
            return 0
