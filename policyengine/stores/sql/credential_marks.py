"""Credential marks in SQL tables, shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Collection

from policyengine.clock import MICROSECONDS_PER_SECOND
from policyengine.stores.credential_marks import LINGER_SECONDS
from policyengine.stores.sql.session import Pending, SqlSession, SqlTransactions, delete_some
from policyengine.stores.transition import digest_parts

EVICTION_BATCH_SIZE = 4  # maximum ended rows to delete for each new row, so that no caller waits long
TABLES = """
CREATE TABLE IF NOT EXISTS marked (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marked_until ON marked (until);
CREATE TABLE IF NOT EXISTS revoked (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS revoked_until ON revoked (until);
CREATE TABLE IF NOT EXISTS revocations (one INTEGER PRIMARY KEY CHECK (one = 1), many INTEGER NOT NULL);
"""
INSERT_MARK = (
    "INSERT INTO marked VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until = excluded.until WHERE marked.until <= ?"
)
INCREMENT_REVOCATIONS = (
    "INSERT INTO revocations VALUES (1, 1) ON CONFLICT (one) DO UPDATE SET many = revocations.many + 1"
)
INSERT_REVOCATION = (
    "INSERT INTO revoked VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until = excluded.until "
    "WHERE revoked.until < excluded.until"
)


class SqlMarks:
    """Credential marks in SQL tables, stored under hashes of their names. `version` returns the number of revocations
    without waiting; None if the database is on another machine."""

    def __init__(self, transactions: SqlTransactions, version: Callable[[], int] | None) -> None:
        self._transactions, self._version, self.remote = transactions, version, version is None

    @property
    def version(self) -> int:
        """A number that changes with each revocation. Raises StoreError."""
        return 0 if self._version is None else self._version()

    def once(self, name: str, until: int, now: int) -> bool:
        with self._transactions.step(True) as asked:
            clock = self._clock(asked, now, moves=True)
            marked = asked.execute(INSERT_MARK, (digest_parts(name), until, now))
            _forget(asked, "marked", 1, now)
            clock()
            return marked.rowcount == 1

    def marked(self, name: str, now: int) -> bool:
        with self._transactions.step(False) as asked:
            clock = self._clock(asked, now, moves=False)
            found = asked.execute("SELECT until FROM marked WHERE name = ?", (digest_parts(name),))
            clock()
            row = found.fetchone()
            return row is not None and row[0] > now

    def revoke(self, names: Collection[str], until: int, now: int, *, by_operator: bool = False) -> None:
        with self._transactions.step(True, ("revocations",)) as asked:
            clock = self._clock(asked, now, moves=True)
            asked.executemany(INSERT_REVOCATION, [(digest_parts(name), until) for name in names])
            asked.execute(INCREMENT_REVOCATIONS)
            _forget(asked, "revoked", len(names), now)
            clock()

    def revoked(self, names: Collection[str], now: int) -> frozenset[str]:
        known = "SELECT 1 FROM revoked WHERE name = ? AND until > ?"
        with self._transactions.step(False) as asked:
            clock = self._clock(asked, now, moves=False)
            found = {one: asked.execute(known, (digest_parts(one), now)) for one in names}
            clock()
            return frozenset(one for one, cursor in found.items() if cursor.fetchone())

    def _clock(self, asked: SqlSession, now: int, *, moves: bool) -> Pending:
        return self._transactions.clock(
            asked, now * MICROSECONDS_PER_SECOND, moves=moves, error=MICROSECONDS_PER_SECOND
        )


def _forget(asked: SqlSession, table: str, new: int, now: int) -> None:
    old = delete_some(table, "name", "until <= ?", "until")
    asked.execute(old, (now - LINGER_SECONDS, new * EVICTION_BATCH_SIZE))
