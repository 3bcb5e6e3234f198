"""The callers of allowed decisions, so that a failure that is reported later is learned about the right caller."""

from __future__ import annotations

from typing import Final

from policyengine.behavior.events import Caller

MAX_REPORTABLE: Final = 100_000  # decisions whose failure can still be reported


class ReportableDecisions:
    """The callers of the latest decisions, at most `most` of them; if there are more, the older half is dropped. It is
    not thread-safe.

    A decision is appended to a list, and only the first report after it adds it to an index, because most decisions are
    never reported, and an entry of an index takes several times as long.
    """

    __slots__ = ("_callers", "_earlier", "_half", "_index", "_keys")

    def __init__(self, most: int = MAX_REPORTABLE) -> None:
        self._half = most // 2
        self._index: dict[str, Caller] = {}
        self._keys: list[str] = []  # the decisions that are not in the index, and their callers
        self._callers: list[Caller] = []
        self._earlier: ReportableDecisions | None = None

    def __len__(self) -> int:
        return len(self._index) + len(self._keys) + (0 if self._earlier is None else len(self._earlier))

    def add(self, decision: str, caller: Caller) -> None:
        """Add a decision by its key."""
        keys = self._keys
        if len(keys) + len(self._index) >= self._half:
            self._drop_older()
            keys = self._keys
        keys.append(decision)
        self._callers.append(caller)

    def take(self, decision: str) -> Caller | None:
        """Remove a decision, and return its caller; None if the decision is unknown."""
        if self._keys:
            self._index.update(zip(self._keys, self._callers, strict=True))
            self._keys, self._callers = [], []
        found = self._index.pop(decision, None)
        return self._earlier.take(decision) if found is None and self._earlier is not None else found

    def _drop_older(self) -> None:
        """Make the decisions since the latest call the older half, and drop the half before them."""
        self._earlier = earlier = ReportableDecisions(0)
        earlier._index, earlier._keys, earlier._callers = self._index, self._keys, self._callers
        self._index, self._keys, self._callers = {}, [], []
