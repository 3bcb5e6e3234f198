"""The connections of a process to one PostgreSQL database, and its errors."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import psycopg

from policyengine.stores.base import StoreError, StoreLossError, WriteRefusedError
from policyengine.stores.postgres.session import (
    DISK_FULL,
    NO_SCHEMA,
    NO_TABLE,
    READ_ONLY,
    PostgresError,
    PostgresSession,
    connect,
)

MAX_IDLE_SECONDS = 1.0  # seconds after which the server may have closed an idle connection
ERROR_KINDS = {READ_ONLY: WriteRefusedError, DISK_FULL: WriteRefusedError, NO_TABLE: StoreLossError,
               NO_SCHEMA: StoreLossError}  # fmt: skip


class PostgresPool:
    """A pool of connections, one for each thread that calls at the same time. It tries the `hosts` in order, each for
    `seconds`; `prepare` checks a new connection. A transaction is never run twice, because it is unknown whether the
    first run took effect."""

    def __init__(self, hosts: Sequence[str], seconds: float, prepare: Callable[[PostgresSession], None]) -> None:
        self._hosts, self._seconds, self._prepare = hosts, seconds, prepare
        self._free: deque[tuple[PostgresSession, float]] = deque()
        self._process = os.getpid()

    @contextmanager
    def session(self) -> Iterator[PostgresSession]:
        """Yield a connection without a transaction. Raises StoreError."""
        with translate_errors():
            session = self._take()
            try:
                yield session
            except BaseException as error:
                # Another host of the URL may have become the primary, so the next call connects again.
                session.is_broken |= isinstance(error, PostgresError) and error.code == READ_ONLY
                self._recover(session)
                raise
            self._free.append((session, monotonic()))

    def close(self) -> None:
        while self._free:
            self._free.pop()[0].close()

    def open(self) -> PostgresSession:
        """Open another connection. Raises StoreError and PostgresError."""
        errors = []
        for host in self._hosts:
            try:
                session = connect(host, self._seconds)
            except PostgresError as error:
                errors.append(error)
                continue
            try:
                self._prepare(session)
            except BaseException:
                session.close()
                raise
            return session
        raise PostgresError("; ".join(dict.fromkeys(map(str, errors))))

    def _take(self) -> PostgresSession:
        if self._process != os.getpid():
            # Inherited connections belong to the parent process; libpq does not close them here.
            self._inherited, self._free, self._process = self._free, deque(), os.getpid()
        try:
            session, used = self._free.pop()
        except IndexError:
            return self.open()
        if monotonic() - used > MAX_IDLE_SECONDS and session.is_gone:
            session.close()
            self.close()
            return self.open()
        return session

    def _recover(self, session: PostgresSession) -> None:
        """Keep a connection on which a transaction failed, unless it is broken; then drop all others too, because the
        server may have stopped."""
        try:
            session.recover()
        except psycopg.Error:
            session.is_broken = True
        if session.is_broken:
            session.close()
            self.close()
        else:
            self._free.append((session, monotonic()))


@contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except PostgresError as error:
        raise ERROR_KINDS.get(error.code, StoreError)(str(error)) from error
    except psycopg.Error as error:
        raise StoreError(str(error).strip().partition("\n")[0]) from error
