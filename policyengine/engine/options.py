"""Options of engines, said once for every way to make one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from policyengine.clock import Clock
from policyengine.stores.base import Store

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog


class EngineOptions(TypedDict, total=False):
    """Keyword arguments of `Engine` and of everything that makes one.

    `clock` gives the current time, timezone-aware; `ids` makes a decision's id from it. With a `log` each decision is
    written there before it is returned. `store` keeps what decisions spend: the memory of this process, unless another
    one is given (`docs/stores.md`).
    """

    clock: Clock
    ids: Callable[[datetime], str]
    log: DecisionLog | None
    store: Store | None
