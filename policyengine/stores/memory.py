"""State in this process: which approvals an allow has used."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from policyengine.runtime.decision import Effects


class MemoryStore:
    """An approval that was spent stays spent while the process lives: people grant them, so they stay few."""

    def __init__(self) -> None:
        self._spent: set[str] = set()
        self._lock = Lock()

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        return frozenset(self._spent.intersection(approvals))

    def commit(self, effects: Effects) -> bool:
        """Spend all or nothing; False when another decision was quicker, and this one must be made again."""
        if not effects.spends:
            return True
        with self._lock:
            if not self._spent.isdisjoint(effects.spends):
                return False
            self._spent.update(effects.spends)
            return True
