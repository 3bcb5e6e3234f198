"""Halts in a SQL table, shared by processes."""

from __future__ import annotations

from typing import Final

from policyengine.stores.base import StoreError
from policyengine.stores.sql.session import SqlTransactions

TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS halts (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, "
    "document BLOB NOT NULL);\n"
)
SELECT_DOCUMENT: Final = "SELECT number, CASE WHEN number = ? THEN NULL ELSE document END FROM halts"
INSERT_DOCUMENT: Final = (
    "INSERT INTO halts SELECT 1, :number, :document WHERE CAST(:after AS BIGINT) IS NULL OR CAST(:after AS BIGINT) = 0 "
    "OR EXISTS (SELECT 1 FROM halts) ON CONFLICT (one) DO UPDATE SET number = excluded.number, "
    "document = excluded.document WHERE halts.number < excluded.number "
    "AND halts.number = coalesce(CAST(:after AS BIGINT), halts.number)"
)


class SqlHalts:
    """The document of halts in a SQL table."""

    is_shared = True

    def __init__(self, transactions: SqlTransactions) -> None:
        self._transactions = transactions

    def load(self, known: int) -> tuple[int, bytes]:
        with self._transactions.step(False) as asked:
            row = asked.execute(SELECT_DOCUMENT, (known,)).fetchone()
        if row is None or row[0] == known:
            return (0, b"") if row is None else (known, b"")
        number, document = row
        if not isinstance(number, int) or not isinstance(document, bytes):
            raise StoreError("the row of the halts is damaged")
        return number, document

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        row = {"number": number, "document": document, "after": after}
        with self._transactions.step(True, ("halts",)) as asked:
            return asked.execute(INSERT_DOCUMENT, row).rowcount > 0
