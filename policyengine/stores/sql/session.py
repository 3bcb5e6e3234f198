"""The connection to a database during one transaction, and statements that SQLite and PostgreSQL both understand.

Statements are written for SQLite; the PostgreSQL session replaces their placeholders. A session of PostgreSQL sends
statements without waiting, and waits once an answer is read, so statements run before the first answer is read take one
round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

# A comment for SQLite, where only one process writes at a time. PostgreSQL leaves out rows that another process is
# changing, so that processes that delete expired rows never wait for each other.
SKIP_LOCKED: Final = "/* skip locked */"


class SqlCursor(Protocol):
    """The answer to a statement."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class SqlSession(Protocol):
    """A connection during one transaction."""

    def execute(self, statement: str, parameters: Any = ..., /) -> SqlCursor: ...

    def executemany(self, statement: str, rows: Iterable[Any], /) -> object: ...


# Reads an answer that was requested earlier.
Pending: TypeAlias = Callable[[], int]


# Locks rows by their keys, each under the name that a function returns, and returns the keys that were not locked by
# other processes.
RowLock: TypeAlias = Callable[[Sequence[str], Callable[[str], str]], Iterable[str]]


def all_rows(keys: Sequence[str], name: Callable[[str], str]) -> Sequence[str]:
    """Lock no rows, because the transaction excludes all others."""
    return keys


class SqlTransactions(Protocol):
    """Runs the transactions of a store."""

    def step(self, writes: bool = True, locks: Iterable[str] = ()) -> AbstractContextManager[SqlSession]:
        """Run a transaction, completely or not at all. No other transaction with one of the same `locks` runs at the
        same time."""
        ...

    def lock(self, session: SqlSession, locks: Iterable[str]) -> None:
        """Lock further names in a transaction. Their order must be the same in all transactions."""
        ...

    def change_number(self, session: SqlSession, clock: Pending) -> Pending:
        """Number a change of histories. The number is higher than all earlier numbers, even if data were lost; calling
        the result reads it."""
        ...

    def clock(self, session: SqlSession, now: int, *, moves: bool, error: int = 0, measures: bool = True) -> Pending:
        """Read the store's clock, in microseconds, and with `moves` advance it, so that it never runs backwards. `now`
        is the time of the caller, which is up to `error` too early. Calling the result returns the time and, if it
        `measures`, measures the skew."""
        ...


def upsert(table: str, keys: Sequence[str], values: Sequence[str]) -> str:
    """Return the statement that inserts a row, or replaces the row with the same keys."""
    columns, places = ", ".join((*keys, *values)), ", ".join("?" * (len(keys) + len(values)))
    changes = ", ".join(f"{column} = excluded.{column}" for column in values)
    change = f"UPDATE SET {changes}" if changes else "NOTHING"
    return f"INSERT INTO {table} ({columns}) VALUES ({places}) ON CONFLICT ({', '.join(keys)}) DO {change}"


def delete_some(table: str, key: str, condition: str, order: str = "") -> str:
    """Return the statement that deletes the rows with a condition, at most as many as its last parameter. PostgreSQL
    could run a subquery several times, and delete more."""
    rows = f"SELECT {key} FROM {table} WHERE {condition}{f' ORDER BY {order}' if order else ''} LIMIT ? {SKIP_LOCKED}"
    return f"DELETE FROM {table} WHERE ({key}) IN (WITH old AS MATERIALIZED ({rows}) SELECT {key} FROM old)"
