"""The protocol of approval stores, which keep the requested approvals and their answers, and the store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from threading import Lock
from typing import NamedTuple, Protocol

from msgspec import msgpack

from policyengine.stores.memory.capacity import CapacityAlarm

MAX_ROWS = 100_000  # maximum rows of a memory store
MAX_LISTED_ROWS = 1_000
FORGOTTEN_PER_OPENING = 4  # maximum ended rows to delete for each new row, so that no call takes long


class ApprovalRow(NamedTuple):
    """A stored approval. Times are microseconds since 1970 by the clock of the caller.

    `value` is the encoded approval. Until `live`, a request with the same `binding` gets this row instead of opening
    another, and the row counts in the quotas `counts`. The row is deleted after `until`.
    """

    id: str
    binding: str
    value: bytes
    live: int
    until: int
    counts: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return msgpack.encode(self)


class ApprovalQuota(NamedTuple):
    """The maximum number of live rows that count under a name."""

    name: str
    most: int


class AdmissionResult(NamedTuple):
    """The result of opening an approval: the row, which is another one if it was already open, or the name of the quota
    that has no room."""

    row: ApprovalRow | None
    exceeded: str = ""


class ApprovalStore(Protocol):
    """The approvals that engines share. Each method is atomic and may raise StoreError."""

    def open(self, row: ApprovalRow, quotas: Sequence[ApprovalQuota], now: int, replaces: str = "") -> AdmissionResult:
        """Add a row. If the newest row with the same binding is live and is not the row `replaces`, return that row and
        add nothing. If a quota has no room, add nothing.
        """
        ...

    def save(self, row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        """Replace the row `before` with a row of the same id; return False and change nothing if it has changed or was
        deleted."""
        ...

    def find(self, id: str, now: int) -> ApprovalRow | None:
        """Return a row by its id."""
        ...

    def bound(self, bindings: Sequence[str], now: int) -> list[ApprovalRow]:
        """Return the newest row of each binding that has one."""
        ...

    def rows(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        """Return live rows that count under a name, at most MAX_LISTED_ROWS, the longest-lived first, without the first
        `skip` rows."""
        ...

    def ended(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        """Return rows that still count under a name but are no longer live, at most MAX_LISTED_ROWS, in the order in
        which they ended, without the first `skip` rows. After `open`, the names of its quotas no longer count such
        rows."""
        ...


def decode_row(encoded: bytes) -> ApprovalRow:
    """Decode a row. Raises ValueError."""
    return msgpack.decode(encoded, type=ApprovalRow)


class MemoryApprovals:
    """Approvals in the memory of this process, which are lost when it ends."""

    def __init__(self, most: int = MAX_ROWS, fullness: CapacityAlarm | None = None) -> None:
        self._most, self._fullness = most, CapacityAlarm() if fullness is None else fullness
        self._lock = Lock()
        self._rows: dict[str, ApprovalRow] = {}  # in the order of their opening
        self._newest: dict[str, str] = {}  # by binding
        self._ends: list[tuple[int, str]] = []  # a heap of `until` and id; a saved row may have an earlier entry, too
        self._counts: dict[str, set[str]] = {}  # the ids that count in a quota, also those that are no longer live

    def open(self, row: ApprovalRow, quotas: Sequence[ApprovalQuota], now: int, replaces: str = "") -> AdmissionResult:
        with self._lock:
            newest = self._rows.get(self._newest.get(row.binding, ""))
            if newest is not None and newest.live > now and newest.id != replaces:
                return AdmissionResult(newest)
            for quota in quotas:
                if self._count_live(quota.name, now) >= quota.most:
                    return AdmissionResult(None, quota.name)
            self._forget(now)
            if len(self._rows) >= self._most:
                raise self._fullness.refusal(f"it already holds {self._most:,} approvals, its maximum")
            self._rows[row.id], self._newest[row.binding] = row, row.id
            heappush(self._ends, (row.until, row.id))
            self._count(row)
            return AdmissionResult(row)

    def save(self, row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        with self._lock:
            if self._rows.get(row.id) != before:
                return False
            self._rows[row.id] = row
            if row.until != before.until:
                heappush(self._ends, (row.until, row.id))
            self._discount(before)
            self._count(row)
            return True

    def find(self, id: str, now: int) -> ApprovalRow | None:
        row = self._rows.get(id)
        return None if row is None or row.until <= now else row

    def bound(self, bindings: Sequence[str], now: int) -> list[ApprovalRow]:
        found = (self.find(self._newest.get(binding, ""), now) for binding in dict.fromkeys(bindings))
        return [row for row in found if row is not None]

    def rows(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        with self._lock:
            known = [row for id in self._counts.get(name, ()) if (row := self._rows.get(id)) and row.live > now]
        known.sort(key=lambda row: (row.live, row.id), reverse=True)
        return known[skip : skip + MAX_LISTED_ROWS]

    def ended(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        with self._lock:
            rows = (self._rows.get(id) for id in self._counts.get(name, ()))
            known = [row for row in rows if row is not None and row.live <= now < row.until]
        known.sort(key=lambda row: (row.live, row.id))
        return known[skip : skip + MAX_LISTED_ROWS]

    def _count_live(self, name: str, now: int) -> int:
        """Return how many live rows count under a name. Remove the other rows from the name."""
        ids = self._counts.get(name, set())
        ids -= {id for id in ids if id not in self._rows or self._rows[id].live <= now}
        return len(ids)

    def _count(self, row: ApprovalRow) -> None:
        for name in row.counts:
            self._counts.setdefault(name, set()).add(row.id)

    def _discount(self, row: ApprovalRow) -> None:
        for name in row.counts:
            ids = self._counts.get(name, set())
            ids.discard(row.id)
            if not ids:
                self._counts.pop(name, None)

    def _forget(self, now: int) -> None:
        """Delete some ended rows, in the order in which they ended; if the store is full, as many as needed to make
        room."""
        forgotten = 0
        while self._ends and self._ends[0][0] <= now:
            if forgotten >= FORGOTTEN_PER_OPENING and len(self._rows) < self._most:
                return
            forgotten += 1
            until, id = heappop(self._ends)
            row = self._rows.get(id)
            if row is not None and row.until == until:
                del self._rows[id]
                self._discount(row)
                if self._newest.get(row.binding) == id:
                    del self._newest[row.binding]
