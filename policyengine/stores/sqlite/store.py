"""The store in a SQLite file, shared by processes of one machine; it survives restarts and `kill -9`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import random
from threading import local
from time import monotonic, sleep
from typing import Any

from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import CommitRequest, StoreError, WriteRefusedError
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.sql import approvals, credential_marks, halts, history, idempotency, state
from policyengine.stores.sql.session import Pending, SqlSession
from policyengine.stores.sql.store import SqlStore
from policyengine.stores.sqlite.file import SqliteFile

PROBE = 8_192  # bytes; more than a page, so that the file must be able to grow
WRITE_REFUSAL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)
PATIENCE = 1.0  # maximum seconds that a process waits for other writers
BEGIN_TO_WRITE = ("BEGIN IMMEDIATE",)
BEGIN_TO_READ = ("BEGIN", "SELECT now FROM clock")  # only the SELECT can be blocked by a lock
SCHEMA_VERSION = 3  # version 1 had no history, and version 2 no receipts
CLOCK_TABLES = """
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), now INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (1, 0);
CREATE TABLE IF NOT EXISTS changes (one INTEGER PRIMARY KEY CHECK (one = 1), serial INTEGER NOT NULL);
INSERT OR IGNORE INTO changes VALUES (1, 0);
"""
NEXT_CHANGE = "UPDATE changes SET serial = max(serial + 1, ?) RETURNING serial"
PROBE_TABLE = "CREATE TABLE IF NOT EXISTS probe (process INTEGER PRIMARY KEY, room BLOB NOT NULL);\n"


class AutoCloseConnection(sqlite3.Connection):
    """A connection that is closed when it is no longer referenced, but only in the process that opened it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.process = os.getpid()
        super().__init__(*given, **options)

    def __del__(self) -> None:
        if self.process == os.getpid():
            with suppress(sqlite3.Error):
                self.close()


class SqliteStore(SqlStore):
    """A store in a SQLite file. Each step is one transaction. Committed steps survive a crash of the process; the last
    steps before a power failure may be lost. The store's clock is the latest time that a process gave it. If the file
    is removed or replaced, the store stops using it, because other processes would count in another file. Raises
    StoreError if the file cannot be used."""

    def __init__(self, path: Path | str, *, patience: float = PATIENCE, max_skew: int = MAX_SKEW_MICROSECONDS) -> None:
        self.path, self._patience = str(path), patience
        super().__init__(ClockSkew(max_skew), self._revocations)
        self._own = local()
        self._file = SqliteFile.of(self.path)
        self.ping()

    def ping(self) -> None:
        """Check that the database answers. Raises StoreError."""
        with self.step(writes=False) as asked:
            asked.execute("SELECT now FROM clock").fetchone()

    def probe(self) -> None:
        """Write with a new connection, which checks that the file can be opened for writing and has room. Raises
        StoreError."""
        self._file.check()
        self._file.check_mode()
        with self._translate_errors(), closing(self._open_connection()) as connection:
            self._patiently(connection, BEGIN_TO_WRITE)
            connection.execute("INSERT OR REPLACE INTO probe VALUES (?, zeroblob(?))", (os.getpid(), PROBE))
            connection.execute("COMMIT")
            connection.execute("DELETE FROM probe WHERE process = ?", (os.getpid(),))

    def about(self) -> str:
        """Return the version of SQLite."""
        return f"SQLite {sqlite3.sqlite_version}"

    def lock(self, session: SqlSession, locks: Iterable[str]) -> None:
        """Lock nothing: a writer has locked the whole file."""

    def has_table(self, session: SqlSession, name: str) -> bool:
        return session.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[ChargeResult | None]:
        """Commit several decisions in one transaction."""
        return self._commit_all(asked, now)

    def _revocations(self) -> int:
        """Return the number of revocations with one statement, because nearly every decision needs it. Raises
        StoreError.
        """
        try:
            row = self._connection().execute("SELECT many FROM revocations").fetchone()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Close the connection of this thread."""
        mine, self._own.connection = getattr(self._own, "connection", None), None
        if mine is not None and self._own.process == os.getpid():
            mine.close()

    # ── Time ──────────────────────────────────────────────────────────────────────────────────

    def clock(self, session: SqlSession, now: int, *, moves: bool, error: int = 0, measures: bool = True) -> Pending:
        """Read the store's clock, which is the latest time that a process gave it, and on request advance it."""
        (latest,) = session.execute("SELECT now FROM clock").fetchone()
        found = max(latest, now, self._latest if measures else 0)
        if moves and found > latest:
            session.execute("UPDATE clock SET now = ?", (found,))
        if measures:
            self.skew.between(now, found, now + error)
            self._latest = max(self._latest, found)
        return lambda: found

    def change_number(self, session: SqlSession, clock: Pending) -> Pending:
        (serial,) = session.execute(NEXT_CHANGE, (clock(),)).fetchone()
        return lambda: int(serial)

    # ── Connections ───────────────────────────────────────────────────────────────────────────

    @contextmanager
    def step(self, writes: bool = True, locks: Iterable[str] = ()) -> Iterator[sqlite3.Connection]:
        """Run a transaction, completely or not at all. A writer locks the file at the beginning, so that it does not
        fail later.
        """
        with self._translate_errors():
            connection = self._begin(BEGIN_TO_WRITE if writes else BEGIN_TO_READ)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = (
                WriteRefusedError if getattr(error, "sqlite_errorcode", 0) & 0xFF in WRITE_REFUSAL_CODES else StoreError
            )
            raise kind(f"`{self.path}`: {error}") from error

    def _begin(self, words: Sequence[str]) -> sqlite3.Connection:
        connection = self._connection()
        self._patiently(connection, words)
        return connection

    def _patiently(self, connection: sqlite3.Connection, words: Sequence[str]) -> None:
        """Run the statements; while the file is locked, retry at random intervals for a limited time. SQLite's own
        retries are not used, because their growing intervals would let later callers overtake earlier ones.
        """
        until = monotonic() + self._patience
        while True:
            try:
                for word in words:
                    connection.execute(word)
                return
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > until:
                    raise
            sleep(random() / 1_000)

    def _connection(self) -> sqlite3.Connection:
        """Return the connection of this thread in this process. Raises StoreError."""
        self._file.check()
        mine: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if mine is not None and self._own.process == os.getpid():
            return mine
        self._own.inherited = mine  # closing the connection would release locks of the parent
        self._own.connection, self._own.process = self._open_connection(), os.getpid()
        return self._own.connection  # type: ignore[no-any-return]

    def _open_connection(self) -> sqlite3.Connection:
        # Each thread has its own connection. After a thread has ended, another thread may release its connection, which
        # closes it.
        connection = sqlite3.connect(
            self._file.uri,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
            factory=AutoCloseConnection,
            uri=self._file.id is not None,
        )
        self._patiently(connection, ("PRAGMA journal_mode = WAL",))  # SQLite does not wait for the lock of a new file
        connection.execute("PRAGMA synchronous = NORMAL")
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout > SCHEMA_VERSION:
            raise StoreError(f"`{self.path}`: it was written by a newer version of policyengine")
        if layout < SCHEMA_VERSION:
            tables = state.TABLES + CLOCK_TABLES + history.TABLES
            connection.executescript(f"BEGIN IMMEDIATE; {tables}PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        beside = (idempotency.TABLES, credential_marks.TABLES, halts.TABLES, approvals.TABLES, PROBE_TABLE)
        connection.executescript("".join(beside))
        connection.execute("PRAGMA busy_timeout = 0")
        return connection
