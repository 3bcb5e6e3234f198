"""Counter of failed decisions and credentials."""

from __future__ import annotations

from threading import Lock


class FailureCounter:
    """A counter that threads may share."""

    def __init__(self) -> None:
        self.count, self._lock = 0, Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1
