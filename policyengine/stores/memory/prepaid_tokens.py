"""Receipts in memory for rate tokens that confirms paid, so that the allow that uses the approval is not charged for
these tokens again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from policyengine.stores.transition import MAX_RECEIPTS_PER_RATE

MAX_RECEIPTS = 100_000  # maximum receipts; beyond it, the oldest receipt is dropped, and its charge is repeated


class PrepaidTokens(NamedTuple):
    tokens: int
    until: int


class PrepaymentReceipts:
    """The receipts for prepaid tokens, by rate and key, and then by their confirms; oldest first. Not thread-safe: the
    store holds the lock."""

    def __init__(self) -> None:
        # The first key of a plain dict is searched among all keys that were deleted before it; the receipts of a payer
        # are few.
        self._paid: OrderedDict[Any, dict[str, PrepaidTokens]] = OrderedDict()
        self._many = 0

    def __len__(self) -> int:
        return self._many

    def tokens(self, payer: Any, name: str, now: int) -> int:
        of_payer = self._paid.get(payer)
        paid = None if of_payer is None else of_payer.get(name)
        return paid.tokens if paid is not None and paid.until > now else 0

    def put(self, payer: Any, name: str, paid: PrepaidTokens) -> None:
        self.drop(payer, name)
        of_payer = self._paid.setdefault(payer, {})
        of_payer[name] = paid
        self._many += 1
        if len(of_payer) > MAX_RECEIPTS_PER_RATE:
            self.drop(payer, next(iter(of_payer)))
        elif self._many > MAX_RECEIPTS:
            first = next(iter(self._paid))
            self.drop(first, next(iter(self._paid[first])))

    def drop(self, payer: Any, name: str) -> None:
        of_payer = self._paid.get(payer)
        if of_payer is None:
            return
        self._many -= of_payer.pop(name, None) is not None
        if not of_payer:
            del self._paid[payer]

    def forget(self, now: int) -> None:
        """Drop expired receipts."""
        over = [(payer, name) for payer, of in self._paid.items() for name, paid in of.items() if paid.until <= now]
        for payer, name in over:
            self.drop(payer, name)
