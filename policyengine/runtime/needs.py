"""The external inputs that a decision needs, by name. The caller of the decision fetches them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Request
from policyengine.typesystem import EntityRef


class Needs(Struct, frozen=True):
    """The state on which the decision of a question depends: whether `approvals` (ids) were spent, the events in
    `windows`, and the rows of the entities `rows`. While rows are missing, only rows are requested. `started` is the
    decision in progress, if it can be continued.
    """

    request: Request
    approvals: frozenset[str] = frozenset()
    windows: frozenset[WindowKey] = frozenset()
    rows: frozenset[EntityRef] = frozenset()
    started: Any = None
