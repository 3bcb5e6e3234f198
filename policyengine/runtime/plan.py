"""What a decision needs from outside, by name: the drivers fetch it, and only they do."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.runtime.request import Request


@dataclass(frozen=True, slots=True)
class Needs:
    """A question that state can still change: which of the `approvals` (ids) were spent already."""

    request: Request
    approvals: frozenset[str] = frozenset()
