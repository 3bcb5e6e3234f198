"""Approvals in SQL tables, shared by processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine.stores.approvals import (
    FORGOTTEN_PER_OPENING,
    MAX_LISTED_ROWS,
    AdmissionResult,
    ApprovalQuota,
    ApprovalRow,
    decode_row,
)
from policyengine.stores.sql.session import SKIP_LOCKED, SqlCursor, SqlSession, SqlTransactions, upsert

TABLES = """
CREATE TABLE IF NOT EXISTS approval (
  serial INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, binding TEXT NOT NULL, row BLOB NOT NULL, live INTEGER NOT NULL,
  until INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS approval_binding ON approval (binding, serial);
CREATE INDEX IF NOT EXISTS approval_until ON approval (until);
CREATE TABLE IF NOT EXISTS approval_count (
  name TEXT NOT NULL, id TEXT NOT NULL, live INTEGER NOT NULL, PRIMARY KEY (name, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS approval_count_id ON approval_count (id);
"""
NEWEST = "SELECT row FROM approval WHERE binding = ? AND until > ? ORDER BY serial DESC LIMIT 1"
LIVE = "SELECT count(*) FROM approval_count WHERE name = ? AND live > ?"
COUNTED = (
    "SELECT row FROM approval_count AS counted JOIN approval USING (id) WHERE name = ? AND counted.live > ?"
    " ORDER BY counted.live DESC, id DESC LIMIT ? OFFSET ?"
)
NO_LONGER_LIVE = (
    "SELECT row FROM approval_count AS counted JOIN approval USING (id) WHERE name = ? AND counted.live <= ?"
    " AND until > ? ORDER BY counted.live, id LIMIT ? OFFSET ?"
)
ENDED = f"SELECT id FROM approval WHERE until <= ? ORDER BY until LIMIT {FORGOTTEN_PER_OPENING} {SKIP_LOCKED}"
INSERT_ROW = "INSERT INTO approval (id, binding, row, live, until) VALUES (?, ?, ?, ?, ?)"
UPDATE_ROW = "UPDATE approval SET row = ?, live = ?, until = ? WHERE id = ? AND row = ?"
UPSERT_COUNT = upsert("approval_count", ("name", "id"), ("live",))


class SqlApprovals:
    """Approvals in SQL tables. Each change reads the store's clock and advances it, so that a clock that was set back
    is detected."""

    def __init__(self, transactions: SqlTransactions) -> None:
        self._transactions = transactions

    def open(self, row: ApprovalRow, quotas: Sequence[ApprovalQuota], now: int, replaces: str = "") -> AdmissionResult:
        locks = row_locks(row._replace(counts=(*row.counts, *(quota.name for quota in quotas))))
        with self._transactions.step(True, locks) as asked:
            clock = self._transactions.clock(asked, now, moves=True)
            same, ended = select_newest(asked, row.binding, now), asked.execute(ENDED, (now,))
            counts = [asked.execute(LIVE, (quota.name, now)) for quota in quotas]
            clock()
            newest = read_approval(same)
            if newest is not None and newest.live > now and newest.id != replaces:
                return AdmissionResult(newest)
            for quota, count in zip(quotas, counts, strict=True):
                if count.fetchone()[0] >= quota.most:
                    return AdmissionResult(None, quota.name)
            for (id,) in ended.fetchall():  # only some, so that no caller waits long
                asked.execute("DELETE FROM approval WHERE id = ?", (id,))
                asked.execute("DELETE FROM approval_count WHERE id = ?", (id,))
            asked.execute(INSERT_ROW, (row.id, row.binding, row.encode(), row.live, row.until))
            save_counts(asked, row)
            return AdmissionResult(row)

    def save(self, row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        locks = row_locks(row._replace(counts=(*row.counts, *before.counts)))
        with self._transactions.step(True, locks) as asked:
            clock = self._transactions.clock(asked, now, moves=True)
            change = (row.encode(), row.live, row.until, row.id, before.encode())
            changed = asked.execute(UPDATE_ROW, change)
            clock()
            if changed.rowcount == 1:
                asked.execute("DELETE FROM approval_count WHERE id = ?", (row.id,))
                save_counts(asked, row)
            return changed.rowcount == 1

    def find(self, id: str, now: int) -> ApprovalRow | None:
        with self._transactions.step(False) as asked:
            clock = self._transactions.clock(asked, now, moves=False)
            found = asked.execute("SELECT row FROM approval WHERE id = ? AND until > ?", (id, now))
            clock()
            return read_approval(found)

    def bound(self, bindings: Sequence[str], now: int) -> list[ApprovalRow]:
        with self._transactions.step(False) as asked:
            clock = self._transactions.clock(asked, now, moves=False)
            found = [select_newest(asked, binding, now) for binding in dict.fromkeys(bindings)]
            clock()
            return [row for one in found if (row := read_approval(one)) is not None]

    def rows(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        with self._transactions.step(False) as asked:
            clock = self._transactions.clock(asked, now, moves=False)
            found = asked.execute(COUNTED, (name, now, MAX_LISTED_ROWS, skip))
            clock()
            return [decode_row(raw) for (raw,) in found.fetchall()]

    def ended(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        with self._transactions.step(False) as asked:
            clock = self._transactions.clock(asked, now, moves=False)
            found = asked.execute(NO_LONGER_LIVE, (name, now, now, MAX_LISTED_ROWS, skip))
            clock()
            return [decode_row(raw) for (raw,) in found.fetchall()]


def row_locks(row: ApprovalRow) -> Iterator[str]:
    """Yield the names that a change of a row locks: its binding, and the quotas in which it counts."""
    yield f"binding {row.binding}"
    yield from (f"approvals {name}" for name in row.counts)


def select_newest(asked: SqlSession, binding: str, now: int) -> SqlCursor:
    return asked.execute(NEWEST, (binding, now))


def read_approval(found: SqlCursor) -> ApprovalRow | None:
    raw = found.fetchone()
    return None if raw is None else decode_row(raw[0])


def save_counts(asked: SqlSession, row: ApprovalRow) -> None:
    asked.executemany(UPSERT_COUNT, [(name, row.id, row.live) for name in row.counts])
