"""The store in a PostgreSQL database, as tests use it."""

from __future__ import annotations

import os
from time import monotonic

from policyengine.stores.base import StoreError
from policyengine.stores.postgres.store import SCHEMA, PostgresStore
from tests.entities.postgres import Postgres

OBJECTS = (
    "SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = CAST(? AS regnamespace) AND relkind = '{kind}' "
    "AND relname <> 'store'"
)
MAX_IDLE = 4


class VirtualPostgresStore(PostgresStore):
    """A store at the times that a test gives it. It takes the idle connections of the server, and gives its own back:
    on a new connection, PostgreSQL would read its catalog and plan each statement again."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        super().__init__(server.local, virtual=True, patience=20.0)

    def again(self) -> VirtualPostgresStore:
        """Open the store again, as another process does."""
        return VirtualPostgresStore(self._server)

    def ping(self) -> None:
        idle = self._server.take_idle()
        self._pool._free.extend((session, monotonic()) for session in idle)
        try:
            super().ping()
        except StoreError:
            if not idle:
                raise
            self._pool.close()  # another test has closed the connections, or dropped the tables
            super().ping()

    def close(self) -> None:
        if os.getpid() == self._server.owner == self._pool._process:
            while self._pool._free and len(self._server.idle) < MAX_IDLE:
                self._server.idle.append(self._pool._free.pop()[0])
        super().close()

    def empty(self) -> None:
        """Delete all rows, and restart the sequences."""
        with self.step() as session:
            tables, sequences = (session.execute(OBJECTS.format(kind=kind), (SCHEMA,)) for kind in "rS")
            for (name,) in tables.fetchall():
                session.execute(f"DELETE FROM {name}")
            for (name,) in sequences.fetchall():
                session.execute(f"SELECT setval('{name}', 1)")

    def content(self) -> object:
        """Return everything in the tables."""
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'policyengine' ORDER BY 1"
        with self.step(writes=False) as session:
            return {name: sorted(session.execute(f"SELECT * FROM {name}").fetchall())
                    for (name,) in session.execute(tables).fetchall()}  # fmt: skip
