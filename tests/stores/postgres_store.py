"""The store in a PostgreSQL database, as tests use it."""

from __future__ import annotations

from policyengine.stores.postgres.store import PostgresStore
from tests.entities.postgres import Postgres


class VirtualPostgresStore(PostgresStore):
    """A store at the times that a test gives it."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        super().__init__(server.local, virtual=True, patience=20.0)

    def again(self) -> VirtualPostgresStore:
        """Open the store again, as another process does."""
        return VirtualPostgresStore(self._server)

    def content(self) -> object:
        """Return everything in the tables."""
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'policyengine' ORDER BY 1"
        with self.step(writes=False) as session:
            return {name: sorted(session.execute(f"SELECT * FROM {name}").fetchall())
                    for (name,) in session.execute(tables).fetchall()}  # fmt: skip
