"""What a decision needs from outside, by name: the drivers fetch it, and only they do."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Request
from policyengine.typesystem import EntityRef


@dataclass(frozen=True, slots=True)
class Needs:
    """A question that state can still change: which of the `approvals` (ids) were spent already, what happened in these
    `windows`, and what the directory says of these `rows`. While rows are missing nothing else is asked for yet."""

    request: Request
    approvals: frozenset[str] = frozenset()
    windows: frozenset[WindowKey] = frozenset()
    rows: frozenset[EntityRef] = frozenset()
