"""What a decision needs from outside, by name: the drivers fetch it, and only they do."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Request


@dataclass(frozen=True, slots=True)
class Needs:
    """A question that state can still change: which of the `approvals` (ids) were spent already, and what happened in
    these `windows`."""

    request: Request
    approvals: frozenset[str] = frozenset()
    windows: frozenset[WindowKey] = frozenset()
