"""Halts in a SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from policyengine.stores.base import StoreError

TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS halts (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, "
    "document BLOB NOT NULL);\n"
)
INSERT_DOCUMENT: Final = (
    "INSERT INTO halts SELECT 1, :number, :document WHERE :after IS NULL OR :after = 0 OR EXISTS (SELECT 1 FROM halts) "
    "ON CONFLICT DO UPDATE SET number = excluded.number, document = excluded.document "
    "WHERE number < excluded.number AND number = coalesce(:after, number)"
)


class SqliteHalts:
    """The document of halts in a SQLite table. `step` runs one transaction, for reading or writing."""

    is_shared = True

    def __init__(self, step: Callable[[bool], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._step = step

    def load(self, known: int) -> tuple[int, bytes]:
        with self._step(False) as asked:
            row = asked.execute("SELECT number FROM halts").fetchone()
            if row is None or row[0] == known:
                return (0, b"") if row is None else (known, b"")
            number, document = asked.execute("SELECT number, document FROM halts").fetchone()
        if not isinstance(number, int) or not isinstance(document, bytes):
            raise StoreError("the row of the halts is damaged")
        return number, document

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        row = {"number": number, "document": document, "after": after}
        with self._step(True) as asked:
            return asked.execute(INSERT_DOCUMENT, row).rowcount > 0
