"""The external inputs that a decision needs, by name. The decision does not fetch them; its caller does."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Request
from policyengine.typesystem import EntityRef


class Needs(Struct, frozen=True):
    """A question whose decision depends on state. It needs to know which `approvals` (ids) were spent, the events in
    `windows`, and the entities `rows`. While rows are missing, the others are not requested yet. `started` is the
    decision in progress, if it can be continued.
    """

    request: Request
    approvals: frozenset[str] = frozenset()
    windows: frozenset[WindowKey] = frozenset()
    rows: frozenset[EntityRef] = frozenset()
    started: Any = None
