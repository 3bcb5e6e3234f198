"""Records approvals that expired without an answer, once over all processes that share a store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from threading import Lock
from typing import TYPE_CHECKING

from msgspec import structs

from policyengine.approvals.model import (
    ALL_APPROVALS,
    KEPT_MICROSECONDS,
    UNRECORDED_APPROVALS,
    ApprovalDamagedError,
    ApprovalRequest,
    ApprovalState,
    read_row,
)
from policyengine.stores.approvals import MAX_LISTED_ROWS, ApprovalRow
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.engine.decider import Decider

MAX_RECORDED = 20  # maximum approvals to record in one call, so that no call takes long
# Between two reads of the approvals that other processes have opened. Each pause is shortened at random, so that
# processes that start together do not read together.
READ_AGAIN_MICROSECONDS = 300_000_000
MIN_READ_AGAIN_SHARE = 0.75


class ExpiryRecorder:
    """The approvals that may expire, as far as this process knows: those that it opened, and those that waited in the
    store, or had expired without a record, when it last read them all. Most calls of `sweep` only compare two numbers.
    `record` writes the expiry to the log, and returns False if it must be tried again.
    """

    def __init__(
        self,
        decider: Decider,
        record: Callable[[ApprovalRequest], bool],
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._decider, self._record, self._draw = decider, record, draw
        self._lock = Lock()
        self._due: list[tuple[int, str]] = []  # a heap: when an approval expires, and its id
        self._ids: set[str] = set()
        self._is_complete, self._read_at, self._read_again = False, 0, READ_AGAIN_MICROSECONDS

    def track(self, approval: ApprovalRequest) -> None:
        """Remember an approval that this process has opened."""
        self._push(approval.expires, approval.id)

    def adopt(self, other: ExpiryRecorder) -> None:
        """Remember the approvals that another recorder of this process knows."""
        with other._lock:
            due = tuple(other._due)
        for expires, id in due:
            self._push(expires, id)

    def follow(self, now: int) -> None:
        """Do the same as `sweep`, for a timer. From time to time, also read the waiting approvals in the store again,
        so that the expiries of approvals that an ended process had opened are recorded, too.
        """
        try:
            if not 0 <= now - self._read_at < self._read_again:
                self._read_all(now)
        except StoreError:
            return
        self.sweep(now)

    def sweep(self, now: int) -> None:
        """Record the approvals that have expired, if any. If the store does not answer, the next call continues."""
        try:
            if not self._is_complete:
                self._read_all(now)
        except StoreError:  # the circuit breaker logs it
            return
        for expires, id in self._pop_due(now):
            try:
                row = self._decider.store.approvals.find(id, now)
                is_noted = row is None or self.note(row, now)
            except StoreError:
                is_noted = False
            if not is_noted:
                return self._push(expires, id)

    def note(self, row: ApprovalRow, now: int) -> bool:
        """Record the expiry of an approval that was just read, unless another process has done so. Return False
        if the log cannot be written. A damaged row is ignored. Raises StoreError.
        """
        try:
            approval = read_row(row)
        except ApprovalDamagedError:
            return True
        if approval.expiry_recorded or approval.state(now) is not ApprovalState.EXPIRED:
            return True
        if len(approval.votes) == approval.count:  # it was approved, and not used in time
            return True
        recorded = structs.replace(approval, expiry_recorded=True).to_row()
        if recorded.until <= now:  # it expired long ago, while no process ran
            recorded = recorded._replace(until=now + KEPT_MICROSECONDS)
        if not self._decider.store.approvals.save(recorded, row, now) or self._record(approval):
            return True
        self._decider.store.approvals.save(row, recorded, now)
        return False

    def _push(self, expires: int, id: str) -> None:
        with self._lock:
            if id not in self._ids:
                self._ids.add(id)
                heappush(self._due, (expires, id))

    def _pop_due(self, now: int) -> Iterator[tuple[int, str]]:
        for _ in range(MAX_RECORDED):
            with self._lock:
                if not self._due or self._due[0][0] > now:
                    return
                expires, id = heappop(self._due)
                self._ids.discard(id)
            yield expires, id

    def _read_all(self, now: int) -> None:
        """Remember the approvals in the store that wait, and those that expired while no process recorded it."""
        store = self._decider.store.approvals
        for read, name in ((store.rows, ALL_APPROVALS), (store.ended, UNRECORDED_APPROVALS)):
            skip = 0
            while len(rows := read(name, now, skip)) > 0:
                for row in rows:  # the row of a waiting approval lives until it expires
                    self._push(row.live, row.id)
                skip += MAX_LISTED_ROWS
                if len(rows) < MAX_LISTED_ROWS:
                    break
        self._is_complete, self._read_at = True, now
        self._read_again = round(READ_AGAIN_MICROSECONDS * self._draw(MIN_READ_AGAIN_SHARE, 1.0))
