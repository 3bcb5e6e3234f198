"""The spool of webhooks: messages in a SQLite file until their receivers have accepted them.

Processes may share a spool. A message is leased to one process while it is sent, so that another process sends it after
a `kill -9`. The spool is bounded by count and bytes; if it is full, the oldest messages are dropped.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from time import time
from typing import NamedTuple

from policyengine.stores.base import StoreError, StoreLossError
from policyengine.stores.sqlite.file import MEMORY, SqliteFile

MAX_MESSAGES = 10_000
MAX_SPOOL_BYTES = 32 * 1024 * 1024  # maximum bytes of all message bodies together
PATIENCE_SECONDS = 2.0  # maximum seconds to wait for other processes
APPLICATION_ID = 0x70_65_77_68  # marks the file, so that no other database is taken for a spool
TABLES = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE IF NOT EXISTS message (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, webhook TEXT NOT NULL, kind TEXT NOT NULL,
  body BLOB NOT NULL, due REAL NOT NULL, until REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  why TEXT NOT NULL DEFAULT '', UNIQUE (webhook, id)
);
CREATE INDEX IF NOT EXISTS message_due ON message (webhook, due);
"""
DAMAGED_SUFFIX = ".damaged"
_INHERITED: list[sqlite3.Connection] = []  # connections of a parent process


class SpoolError(Exception):
    """The error for a spool that cannot be used; the message says why."""


class SpoolDamagedError(SpoolError):
    """The error for a file that is not a database, or is damaged."""


class SpoolMessage(NamedTuple):
    """A message in the spool. `due` is the time of the next attempt, `until` the time of the last attempt, in seconds
    since 1970.
    """

    id: str
    webhook: str
    kind: str
    body: bytes
    due: float
    until: float
    attempts: int = 0
    number: int = 0


class SpoolState(NamedTuple):
    """The messages of a webhook that wait, the time of the oldest next attempt, and the last failure."""

    waiting: int
    due: float
    why: str


class WebhookSpool:
    """A spool; `path` is None for a spool in memory. Threads may share it. Raises SpoolError if it cannot be used."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        most: int = MAX_MESSAGES,
        most_bytes: int = MAX_SPOOL_BYTES,
        now: Callable[[], float] = time,
    ) -> None:
        self.path, self._most, self._most_bytes, self._now = path, most, most_bytes, now
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: SqliteFile | None = None
        with self._step():
            pass

    @property
    def is_shared(self) -> bool:
        """Whether other processes can use the spool."""
        return self.path is not None

    def after_fork(self) -> None:
        """Leave the connection to the parent process; a spool in memory begins empty."""
        if self._connection is not None:
            _INHERITED.append(self._connection)  # closing it here would release the locks of the parent process
        self._lock, self._connection = Lock(), None

    def add(self, messages: list[SpoolMessage]) -> dict[str, int]:
        """Add messages, except those that the spool already has. Return how many old messages of each webhook were
        dropped to make room. Raises SpoolError.
        """
        rows = [(one.id, one.webhook, one.kind, one.body, one.due, one.until) for one in messages]
        with self._step() as asked:
            asked.executemany(
                "INSERT OR IGNORE INTO message (id, webhook, kind, body, due, until) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            return self._drop_oldest(asked)

    def _drop_oldest(self, asked: sqlite3.Connection) -> dict[str, int]:
        """Delete the oldest messages until the bounds are kept. Return how many of each webhook were deleted."""
        dropped: Counter[str] = Counter()
        while True:
            count, size = asked.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM message").fetchone()
            if count <= self._most and size <= self._most_bytes:
                return dict(dropped)
            oldest = "SELECT number FROM message ORDER BY number LIMIT ?"
            many = max(1, count - self._most)
            rows = asked.execute(
                f"DELETE FROM message WHERE number IN ({oldest}) RETURNING webhook", (many,)
            ).fetchall()
            dropped.update(str(webhook) for (webhook,) in rows)

    def lease(self, webhook: str, seconds: float) -> SpoolMessage | None:
        """Return the message of a webhook that is due first, and lease it for these seconds, in which no other process
        gets it; None if no message is due. Raises SpoolError."""
        now = self._now()
        with self._step(writes=False) as asked:
            if (
                asked.execute("SELECT 1 FROM message WHERE webhook = ? AND due <= ? LIMIT 1", (webhook, now)).fetchone()
                is None
            ):
                return None
        with self._step() as asked:
            row = asked.execute(
                "SELECT id, webhook, kind, body, due, until, attempts, number FROM message "
                "WHERE webhook = ? AND due <= ? ORDER BY due, number LIMIT 1",
                (webhook, now),
            ).fetchone()
            if row is None:
                return None
            found = read_message(row)
            asked.execute("UPDATE message SET due = ? WHERE number = ?", (now + seconds, found.number))
            return found

    def delete(self, message: SpoolMessage) -> None:
        """Delete a message. Raises SpoolError."""
        with self._step() as asked:
            asked.execute("DELETE FROM message WHERE number = ?", (message.number,))

    def postpone(self, message: SpoolMessage, due: float, why: str) -> None:
        """Let a message wait after a failed attempt. Raises SpoolError."""
        with self._step() as asked:
            asked.execute(
                "UPDATE message SET due = ?, attempts = attempts + 1, why = ? WHERE number = ?",
                (due, why, message.number),
            )

    def states(self) -> dict[str, SpoolState]:
        """Return the state of each webhook with messages. Raises SpoolError."""
        with self._step(writes=False) as asked:
            rows = asked.execute(
                "SELECT webhook, count(*), min(due), max(why) FROM message GROUP BY webhook"
            ).fetchall()
        return {str(name): SpoolState(int(count), float(due), str(why)) for name, count, due, why in rows}

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def _step(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """Run one transaction, or one statement that only reads, for which no other process waits. Raises
        SpoolError."""
        with self._lock:
            try:
                connection = self._connect()
                if not writes:
                    yield connection
                    return
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise
            except (StoreError, SpoolError) as error:
                raise error if isinstance(error, SpoolError) else SpoolError(str(error)) from None
            except sqlite3.OperationalError as error:
                raise SpoolError(f"the spool `{self.path}` fails: {error}") from None
            except (sqlite3.Error, ValueError, TypeError) as error:
                raise SpoolDamagedError(f"the spool `{self.path}` is damaged: {error}") from None

    def _connect(self) -> sqlite3.Connection:
        """Return the connection, opened again if the file was removed or replaced."""
        if self._connection is not None and self._file is not None:
            try:
                self._file.check()
            except StoreLossError:
                self._connection.close()
                self._connection = None
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        file = self._file = SqliteFile.of(MEMORY if self.path is None else str(self.path))
        connection = sqlite3.connect(
            file.uri, uri=file.id is not None, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            (marked,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and marked != APPLICATION_ID:
                raise SpoolError(f"`{self.path}` is another database: name another file for the spool")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(TABLES)
        except BaseException:
            connection.close()
            raise
        return connection


def read_message(row: tuple[object, ...]) -> SpoolMessage:
    """Return the message in a row. Raises ValueError for a damaged row."""
    id, webhook, kind, body, due, until, attempts, number = row
    match (id, webhook, kind, body, due, until, attempts, number):
        case (str(), str(), str(), bytes(), float(), float(), int(), int()):
            return SpoolMessage(id, webhook, kind, body, due, until, attempts, number)
        case _:
            raise ValueError("a message is malformed")


def open_spool(path: Path | None, now: Callable[[], float] = time) -> tuple[WebhookSpool, Path | None]:
    """Open a spool. If its file is damaged, rename the file, begin a new one, and return the new name of the damaged
    file; otherwise return None. Raises SpoolError.
    """
    try:
        return WebhookSpool(path, now=now), None
    except SpoolDamagedError:
        if path is None:
            raise
        aside = set_aside(path)
        return WebhookSpool(path, now=now), aside


def set_aside(path: Path) -> Path:
    """Rename a damaged spool. Raises SpoolError."""
    aside = path.with_name(f"{path.name}{DAMAGED_SUFFIX}")
    try:
        os.replace(path, aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise SpoolError(
            f"`{path}` is damaged, and cannot be renamed: {(error.strerror or str(error)).lower()}"
        ) from None
    return aside
