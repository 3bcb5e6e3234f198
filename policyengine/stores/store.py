"""What a store is: it keeps what decisions spend, and answers all that one of them asks in one atomic step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import Settled


class StoreError(Exception):
    """A store that could not be asked, or did not answer; the text says why. Nothing of the step was done."""


class Store(Protocol):
    """State that decisions share. Times are microseconds since 1970; a store's own clock never runs back.

    Each method may raise StoreError.
    """

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        """Which of these approvals an allow has used."""
        ...

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> Settled | None:
        """All that a decision does, or nothing where a limit does not admit it: then only what counts denials is
        charged. None when another decision was quicker, and this one must be made again. To `peek` changes nothing.
        """
        ...

    def finish(self, decision: str, now: int, *, refund: bool = False) -> bool:
        """A decision's request is over: places it held are free, and with `refund` what it added to budgets is given
        back. False where nothing is known of it, or it is over already."""
        ...
