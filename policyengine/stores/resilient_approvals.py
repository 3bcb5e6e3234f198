"""A wrapper around the approvals of a store that may fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from policyengine.stores.approvals import AdmissionResult, ApprovalQuota, ApprovalRow, ApprovalStore
from policyengine.stores.circuit_breaker import StoreBreaker
from policyengine.stores.clock_skew import ClockSkew

T = TypeVar("T")


class ResilientApprovals:
    """Approvals of a store that may fail. Calls raise StoreError while the store does not answer, or while the clocks
    differ too much, even if only the answer reveals the difference.
    """

    def __init__(
        self,
        approvals: ApprovalStore,
        reads: StoreBreaker,
        writes: StoreBreaker,
        agree: Callable[[], None],
        skew: ClockSkew,
    ) -> None:
        self._approvals, self._reads, self._writes = approvals, reads, writes
        self._agree, self._skew = agree, skew

    def open(self, row: ApprovalRow, quotas: Sequence[ApprovalQuota], now: int, replaces: str = "") -> AdmissionResult:
        return self._call(lambda: self._approvals.open(row, quotas, now, replaces), self._writes)

    def save(self, row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        return self._call(lambda: self._approvals.save(row, before, now), self._writes)

    def find(self, id: str, now: int) -> ApprovalRow | None:
        return self._call(lambda: self._approvals.find(id, now), self._reads)

    def bound(self, bindings: Sequence[str], now: int) -> list[ApprovalRow]:
        return self._call(lambda: self._approvals.bound(bindings, now), self._reads)

    def rows(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        return self._call(lambda: self._approvals.rows(name, now, skip), self._reads)

    def ended(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        return self._call(lambda: self._approvals.ended(name, now, skip), self._reads)

    def _call(self, ask: Callable[[], T], breaker: StoreBreaker) -> T:
        self._agree()
        with breaker:
            answer = ask()
        self._skew.check()
        return answer
