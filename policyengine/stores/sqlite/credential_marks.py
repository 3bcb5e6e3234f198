"""Credential marks in a SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from policyengine.stores.base import StoreError
from policyengine.stores.credential_marks import LINGER_SECONDS
from policyengine.stores.transition import digest_parts

EVICTION_BATCH_SIZE = 4  # maximum ended rows to delete for each new row, so that no caller waits long
TABLES = """
CREATE TABLE IF NOT EXISTS marked (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marked_until ON marked (until);
CREATE TABLE IF NOT EXISTS revoked (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS revoked_until ON revoked (until);
CREATE TABLE IF NOT EXISTS revocations (one INTEGER PRIMARY KEY CHECK (one = 1), many INTEGER NOT NULL);
"""
INSERT_MARK = "INSERT INTO marked VALUES (?, ?) ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?"
INCREMENT_REVOCATIONS = "INSERT INTO revocations VALUES (1, 1) ON CONFLICT DO UPDATE SET many = many + 1"
INSERT_REVOCATION = "INSERT INTO revoked VALUES (?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)"


class SqliteMarks:
    """Credential marks in SQLite, stored under hashes of their names. `step` runs one transaction, for reading or
    writing; `connection` returns the connection of this thread. `looked` reads the store's clock, and on request
    advances it, so that a clock that was set back is detected.
    """

    remote = False

    def __init__(
        self,
        step: Callable[[bool], AbstractContextManager[sqlite3.Connection]],
        connection: Callable[[], sqlite3.Connection],
        looked: Callable[[sqlite3.Connection, int, bool], None],
    ) -> None:
        self._step, self._connection, self._looked = step, connection, looked

    @property
    def version(self) -> int:
        """A number that changes with each revocation, read with one statement, because nearly every decision needs it.
        Raises StoreError.
        """
        try:
            row = self._connection().execute("SELECT many FROM revocations").fetchone()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        return 0 if row is None else int(row[0])

    def once(self, name: str, until: int, now: int) -> bool:
        with self._step(True) as asked:
            self._looked(asked, now, True)
            first = asked.execute(INSERT_MARK, (digest_parts(name), until, now)).rowcount == 1
            _forget(asked, "marked", 1, now)
            return first

    def marked(self, name: str, now: int) -> bool:
        with self._step(False) as asked:
            self._looked(asked, now, False)
            row = asked.execute("SELECT until FROM marked WHERE name = ?", (digest_parts(name),)).fetchone()
            return row is not None and row[0] > now

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        with self._step(True) as asked:
            self._looked(asked, now, True)
            asked.executemany(INSERT_REVOCATION, [(digest_parts(name), until) for name in names])
            asked.execute(INCREMENT_REVOCATIONS)
            _forget(asked, "revoked", len(names), now)

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        known = "SELECT 1 FROM revoked WHERE name = ? AND until > ?"
        with self._step(False) as asked:
            self._looked(asked, now, False)
            return frozenset(one for one in names if asked.execute(known, (digest_parts(one), now)).fetchone())


def _forget(asked: sqlite3.Connection, table: str, new: int, now: int) -> None:
    old = f"SELECT name FROM {table} WHERE until <= ? ORDER BY until LIMIT ?"
    asked.execute(f"DELETE FROM {table} WHERE name IN ({old})", (now - LINGER_SECONDS, new * EVICTION_BATCH_SIZE))
