"""Remembers which sign-ins were completed, so that the answer of an identity provider counts once."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256

MAX_SPENT_STATES = 10_000


class SpentStates:
    """The states of completed sign-ins. A state is forgotten after its sign-in would have expired anyway; the number is
    bounded by the throttle of sign-ins.
    """

    def __init__(self) -> None:
        self._spent: OrderedDict[bytes, int] = OrderedDict()

    def spend(self, state: str, until: int, now: int) -> bool:
        """Return whether the state was unused, and mark it as used."""
        while self._spent and (next(iter(self._spent.values())) <= now or len(self._spent) >= MAX_SPENT_STATES):
            self._spent.popitem(last=False)
        key = sha256(state.encode("utf-8", "surrogatepass")).digest()
        if key in self._spent:
            return False
        self._spent[key] = until
        return True
