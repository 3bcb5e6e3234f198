"""Options of engines, declared once for every constructor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from policyengine.clock import Clock
from policyengine.stores.base import Store

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog


class EngineOptions(TypedDict, total=False):
    """Keyword arguments of `Engine` and of its constructors.

    `clock` returns the current time, timezone-aware; `ids` creates a decision's id from it. With a `log`, each decision
    is logged before it is returned. `store` keeps what decisions spend; the default is the memory of this process
    (`docs/stores.md`).
    """

    clock: Clock
    ids: Callable[[datetime], str]
    log: DecisionLog | None
    store: Store | None
