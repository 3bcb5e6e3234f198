"""The callers in a shared store whose stored behavior is damaged: this process counts them, and logs each once."""

from __future__ import annotations

import logging
from collections.abc import Collection
from threading import Lock
from typing import Final

_LOG = logging.getLogger("policyengine")
MAX_LOGGED: Final = 100  # damaged callers at a time that are logged; all are counted


class DamagedCallers:
    """The keys of the damaged callers that this process knows. It is thread-safe."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._lock = Lock()

    @property
    def count(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        """Add a caller, and log it if it is new."""
        with self._lock:
            if key in self._keys:
                return
            self._keys.add(key)
            is_logged = len(self._keys) <= MAX_LOGGED
        if is_logged:
            _LOG.error(
                "the learned behavior of a caller in the store is damaged, and its facts are unknown until it is "
                "forgotten: `behavior forget %s`", key, extra={"event": "behavior_damaged", "key": key},
            )  # fmt: skip

    def discard(self, key: str) -> None:
        """Remove a caller that can be read again."""
        if self._keys:
            with self._lock:
                self._keys.discard(key)

    def replace(self, keys: Collection[str]) -> None:
        """Replace the callers with those that were found when all callers of the store were read."""
        with self._lock:
            self._keys.intersection_update(keys)
        for key in keys:
            self.add(key)
