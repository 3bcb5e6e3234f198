"""Approvals in a SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from policyengine.stores.approvals import (
    FORGOTTEN_PER_OPENING,
    MAX_LISTED_ROWS,
    AdmissionResult,
    ApprovalQuota,
    ApprovalRow,
    decode_row,
)

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
COUNTED = (
    "SELECT row FROM approval_count AS counted JOIN approval USING (id) WHERE name = ? AND counted.live > ?"
    " ORDER BY counted.live DESC, id DESC LIMIT ? OFFSET ?"
)
ENDED = f"SELECT id FROM approval WHERE until <= ? ORDER BY until LIMIT {FORGOTTEN_PER_OPENING}"


class SqliteApprovals:
    """Approvals in SQLite. `step` runs one transaction, for reading or writing; `looked` reads the store's clock, and
    on request advances it, so that a clock that was set back is detected."""

    def __init__(
        self,
        step: Callable[[bool], AbstractContextManager[sqlite3.Connection]],
        looked: Callable[[sqlite3.Connection, int, bool], None],
    ) -> None:
        self._step, self._looked = step, looked

    def open(self, row: ApprovalRow, quotas: Sequence[ApprovalQuota], now: int, replaces: str = "") -> AdmissionResult:
        with self._step(True) as asked:
            self._looked(asked, now, True)
            newest = newest_row(asked, row.binding, now)
            if newest is not None and newest.live > now and newest.id != replaces:
                return AdmissionResult(newest)
            full = next((quota.name for quota in quotas if count_live(asked, quota.name, now) >= quota.most), None)
            if full is not None:
                return AdmissionResult(None, full)
            forget_ended(asked, now)
            added = (row.id, row.binding, row.encode(), row.live, row.until)
            asked.execute("INSERT INTO approval (id, binding, row, live, until) VALUES (?, ?, ?, ?, ?)", added)
            save_counts(asked, row)
            return AdmissionResult(row)

    def save(self, row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        change = "UPDATE approval SET row = ?, live = ?, until = ? WHERE id = ? AND row = ?"
        with self._step(True) as asked:
            self._looked(asked, now, True)
            told = asked.execute(change, (row.encode(), row.live, row.until, row.id, before.encode()))
            if told.rowcount == 1:
                asked.execute("DELETE FROM approval_count WHERE id = ?", (row.id,))
                save_counts(asked, row)
            return told.rowcount == 1

    def find(self, id: str, now: int) -> ApprovalRow | None:
        with self._step(False) as asked:
            self._looked(asked, now, False)
            found = asked.execute("SELECT row FROM approval WHERE id = ? AND until > ?", (id, now)).fetchone()
            return None if found is None else decode_row(found[0])

    def bound(self, bindings: Sequence[str], now: int) -> list[ApprovalRow]:
        with self._step(False) as asked:
            self._looked(asked, now, False)
            found = [newest_row(asked, binding, now) for binding in dict.fromkeys(bindings)]
            return [row for row in found if row is not None]

    def rows(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        with self._step(False) as asked:
            self._looked(asked, now, False)
            return [decode_row(found) for (found,) in asked.execute(COUNTED, (name, now, MAX_LISTED_ROWS, skip))]


def newest_row(asked: sqlite3.Connection, binding: str, now: int) -> ApprovalRow | None:
    found = asked.execute(NEWEST, (binding, now)).fetchone()
    return None if found is None else decode_row(found[0])


def count_live(asked: sqlite3.Connection, name: str, now: int) -> int:
    known = "SELECT count(*) FROM approval_count WHERE name = ? AND live > ?"
    (many,) = asked.execute(known, (name, now)).fetchone()
    return int(many)


def save_counts(asked: sqlite3.Connection, row: ApprovalRow) -> None:
    counted = [(name, row.id, row.live) for name in row.counts]
    asked.executemany("INSERT OR REPLACE INTO approval_count VALUES (?, ?, ?)", counted)


def forget_ended(asked: sqlite3.Connection, now: int) -> None:
    """Delete some ended rows, so that no caller waits long."""
    for (id,) in asked.execute(ENDED, (now,)).fetchall():
        asked.execute("DELETE FROM approval_count WHERE id = ?", (id,))
        asked.execute("DELETE FROM approval WHERE id = ?", (id,))
