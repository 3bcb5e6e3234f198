"""The evidence that two callers move as one."""

from __future__ import annotations

from typing import NamedTuple


class LockstepPair(NamedTuple):
    """Two callers that move as one. `common` counts their common runs, and `expected` is the number expected by chance;
    `q_value` is the expected share of pairs that are found by chance. `slot` and `lag` are in milliseconds: requests
    are at the same time within half a slot, and `lag` is the median time from the first caller to the second. There was
    enough evidence from `confirmed` on, in milliseconds since 1970."""

    first: int
    second: int
    common: int
    expected: float
    q_value: float
    slot: int
    lag: int
    confirmed: int
