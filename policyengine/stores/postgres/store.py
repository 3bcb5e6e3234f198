"""The store in a PostgreSQL database, shared by the processes of several machines; it survives restarts and crashes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from zlib import crc32

from psycopg.conninfo import make_conninfo

from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import CommitRequest, CommitResult, StoreError
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.postgres.connection import PostgresPool
from policyengine.stores.postgres.schema import NOW, prepare_schema, quote_name
from policyengine.stores.postgres.session import PostgresSession
from policyengine.stores.sql.session import Pending, SqlSession
from policyengine.stores.sql.store import EVICTION_BATCH_SIZE, SqlStore, forget_expired

PATIENCE: Final = 1.0  # seconds to connect, and again to wait for an answer
SCHEMA: Final = "policyengine"
PROBE_BYTES: Final = 8_192  # more than a page, so that the table must be able to grow
BATCH_SIZE: Final = 128  # decisions in one transaction, so that it needs few locks
LINGER_MICROSECONDS: Final = (
    60_000_000  # an expired row is kept for this time, because another process may be reading it
)
LOCK_CLASS: Final = 7_237_127  # the first number of our advisory locks
LOCK: Final = f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, id) FROM unnest(CAST(? AS int4[])) AS id"
TRY_LOCK: Final = f"SELECT id FROM unnest(CAST(? AS int4[])) AS id WHERE pg_try_advisory_xact_lock({LOCK_CLASS}, id)"
TIME: Final = f"greatest(last_value, coalesce(CAST(? AS int8), {NOW}))"
READ_CLOCK: Final = f"SELECT {TIME} FROM tick"
MOVE_CLOCK: Final = f"SELECT setval('tick', {TIME}) FROM tick"
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"  # the default of a session is REPEATABLE READ, for reads


class PostgresStore(SqlStore):
    """A store in one schema of a PostgreSQL database. `parameters` are those of libpq; `hosts` are tried in order.

    A step is one transaction, which locks everything that it reads and writes by name, in the order of the names'
    hashes, so that no two steps wait for each other. With `creates`, a missing schema is created. Times are the
    server's own, and never run backwards. With `virtual`, for tests, the store uses the given times.
    """

    def __init__(
        self,
        parameters: Mapping[str, str | int | None],
        *,
        hosts: Sequence[tuple[str, int]] = (),
        schema: str = SCHEMA,
        patience: float = PATIENCE,
        max_skew: int = MAX_SKEW_MICROSECONDS,
        creates: bool = True,
        virtual: bool = False,
    ) -> None:
        super().__init__(ClockSkew(max_skew), None)
        self._schema, self._virtual = schema, virtual
        self._expired: deque[tuple[int, bool]] = deque(maxlen=1)
        common: dict[str, Any] = {**parameters, **connection_options(schema, patience)}
        places = [{"host": host, "port": port} for host, port in hosts] or [{}]
        infos = [make_conninfo(**{**common, **place}) for place in places]
        self._pool = PostgresPool(infos, patience, self._prepare)
        self._creates, self._in_use = creates, False
        self.ping()
        self._in_use = True

    def _prepare(self, session: PostgresSession) -> None:
        prepare_schema(session, self._schema, creates=self._creates, in_use=self._in_use)

    def ping(self) -> None:
        """Check that the database answers. Raises StoreError."""
        with self.step(writes=False) as asked:
            asked.execute("SELECT version FROM store").fetchone()

    def probe(self) -> None:
        """Write a row, and commit it. Raises StoreError."""
        name = f"{os.uname().nodename if hasattr(os, 'uname') else ''}:{os.getpid()}"
        before = self.skew.clock()
        with self.step() as asked:
            clock = self.clock(asked, before, moves=True)
            asked.execute("INSERT INTO probe VALUES (?, ?) ON CONFLICT (process) DO UPDATE SET room = excluded.room",
                          (name, os.urandom(PROBE_BYTES)))  # fmt: skip
            asked.execute("DELETE FROM probe WHERE process = ?", (name,))
            clock()

    def about(self) -> str:
        """Return the version of the server (`PostgreSQL 17.2`). Raises StoreError."""
        with self._pool.session() as session:
            version = session.server_version
        return f"PostgreSQL {version // 10_000}.{version % 10_000}"

    def has_table(self, session: SqlSession, name: str) -> bool:
        return True

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
        """Commit several decisions in few transactions."""
        results: list[CommitResult] = []
        try:
            for start in range(0, len(asked), BATCH_SIZE):
                results += self._commit_all(asked[start : start + BATCH_SIZE], now)
        except StoreError as error:
            if not results:
                raise
            results += [error] * (len(asked) - len(results))
        return results

    def close(self) -> None:
        self._pool.close()

    # ── Time ──────────────────────────────────────────────────────────────────────────────────

    def clock(self, session: SqlSession, now: int, *, moves: bool, error: int = 0, measures: bool = True) -> Pending:
        """Read the clock of the server, which is its own time, and never earlier than before."""
        given = max(now, self._latest if measures else 0) if self._virtual else None
        before, answer = self.skew.clock(), session.execute(MOVE_CLOCK if moves else READ_CLOCK, (given,))
        known: list[int] = []

        def read() -> int:
            if not known:
                known.append(answer.fetchone()[0])
                if self._virtual and measures:
                    self._latest = max(self._latest, known[0])
                elif measures:
                    self.skew.measure(before, known[0])
            return known[0]

        return read

    def change_number(self, session: SqlSession, clock: Pending) -> Pending:
        answer = session.execute("SELECT nextval('changes')")
        return lambda: int(answer.fetchone()[0])

    # ── Transactions ──────────────────────────────────────────────────────────────────────────

    @contextmanager
    def step(self, writes: bool = True, locks: Iterable[str] = ()) -> Iterator[SqlSession]:
        with self._pool.session() as session:
            if writes:
                session.execute(BEGIN)
                self.lock(session, locks)
            yield session
            if writes:
                session.execute("COMMIT")
            session.drain()

    def lock(self, session: SqlSession, locks: Iterable[str]) -> None:
        ids = sorted({lock_id(name) for name in locks})
        if ids:
            session.execute(LOCK, (encode_ids(ids),))

    def _commit_all(self, asked: Sequence[CommitRequest], now: int) -> list[ChargeResult | None]:
        results = super()._commit_all(asked, now)
        if self._expired:
            with suppress(StoreError, IndexError):
                self._forget(*self._expired.pop())
        return results

    def _forget_later(self, asked: SqlSession, now: int, callers: bool) -> None:
        self._expired.append((now, callers))

    def _forget(self, now: int, callers: bool) -> None:
        """Delete expired rows in another transaction, which waits for no lock. Raises StoreError."""
        with self.step() as asked:
            asked.execute("SET LOCAL synchronous_commit = off")

            def lock(keys: Sequence[str], name: Callable[[str], str]) -> list[str]:
                return self._lock_some(asked, keys, name)

            if lock(["begun"], str):  # alone, and not while another process begins or ends watches
                before = now - LINGER_MICROSECONDS
                forget_expired(asked, before, EVICTION_BATCH_SIZE, lock, callers=callers)

    def _lock_some(self, session: SqlSession, keys: Sequence[str], name: Callable[[str], str]) -> list[str]:
        """Lock keys that no other process has locked, and return them."""
        ids = {key: lock_id(name(key)) for key in keys}
        found = {id for (id,) in session.execute(TRY_LOCK, (encode_ids(ids.values()),))}
        return [key for key, id in ids.items() if id in found]


def lock_id(name: str) -> int:
    return crc32(name.encode("utf-8", "surrogatepass")) - 2**31


def encode_ids(ids: Iterable[int]) -> str:
    return f"{{{','.join(map(str, ids))}}}"


def connection_options(schema: str, patience: float) -> dict[str, str | int]:
    """Return the parameters of each connection. A server ends what takes longer than the client waits, and frees the
    locks of a client that has stopped. Commits are always durable."""
    milliseconds = max(1, round(patience * 1_000))
    settings = {
        "search_path": quote_name(schema).replace("\\", "\\\\").replace(" ", "\\ "),
        "lock_timeout": max(1, milliseconds * 4 // 5),
        "statement_timeout": max(1, milliseconds * 9 // 10),
        "idle_in_transaction_session_timeout": 2 * milliseconds,
        "default_transaction_isolation": "repeatable\\ read",
        "client_min_messages": "error",
        "jit": "off",
    }
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        "client_encoding": "UTF8",
        "application_name": "policyengine",
        "gssencmode": "disable",
    }
