"""Counts the recent requests in a log that a halt would have denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyengine.audit.query.log_tail import DECISION, read_log_tail
from policyengine.halts.places import parse_place
from policyengine.runtime.halts import ArmedHalt, Halt, RequestNames, covers_request
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError

MAX_COUNTED = 50_000


@dataclass(frozen=True, slots=True)
class HaltedCount:
    """The numbers of requests since a time: all, those that the halt covers, and those of them that were allowed."""

    since: str
    total: int
    covered: int
    allowed: int


@dataclass(frozen=True, slots=True)
class HaltedRequestSearch:
    """A search for the number of requests since a time that a halt covers. `urls` are the URLs of the issuers of the
    policies. The halt names no package, because only the policies know which packages open an endpoint."""

    log: Path
    halt: Halt
    urls: Mapping[str, str | None]
    since: str

    def answer(self) -> HaltedCount:
        """Count the requests in the last lines of the log, at most MAX_COUNTED. Raises OSError."""
        halt = self.halt
        armed = ArmedHalt(halt, None if halt.place is None else parse_place(halt.place))
        total = covered = allowed = 0
        since = self.since
        tail = read_log_tail(self.log)
        for tree, kind in tail.trees():
            time = str(tree.get("time", ""))
            if kind != DECISION or time < self.since:
                continue
            if total == MAX_COUNTED:
                return HaltedCount(since, total, covered, allowed)
            since, total = time, total + 1
            if self._covers(armed, tree):
                covered += 1
                allowed += tree["decision"].get("outcome") == "allow"
        return HaltedCount(self.since if tail.complete else since, total, covered, allowed)

    def _covers(self, armed: ArmedHalt, tree: dict[str, Any]) -> bool:
        """Return whether the halt covers the request of a record; a request that cannot be read is not counted."""
        try:
            request = Request.from_mapping(tree["request"])
        except (RequestError, LookupError, TypeError):
            return False
        return covers_request(armed, request, RequestNames(request), self.urls, lambda: ())
