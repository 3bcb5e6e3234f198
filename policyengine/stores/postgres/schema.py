"""The schema of a PostgreSQL store: its tables, its version, and what a new server may have lost."""

from __future__ import annotations

from typing import Final

from policyengine.stores.base import StoreError, StoreLossError, StoreMissingError
from policyengine.stores.postgres.session import NO_TABLE, PostgresError, PostgresSession
from policyengine.stores.sql import approvals, behavior, credential_marks, halts, history, idempotency, state

SCHEMA_VERSION: Final = 1
OLDEST_SERVER: Final = 140_000
CREATION_SECONDS: Final = 30  # a new table waits for the disk
CREATION_LOCK: Final = 7_237_128  # an advisory lock while the schema is created
OWN_TABLES: Final = """
CREATE TABLE IF NOT EXISTS store (
  one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, server TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS probe (process TEXT PRIMARY KEY, room BLOB NOT NULL);
CREATE SEQUENCE IF NOT EXISTS tick;
CREATE SEQUENCE IF NOT EXISTS changes;
"""
TABLES: Final = (
    *"".join(
        (
            OWN_TABLES,
            state.TABLES,
            history.TABLES,
            idempotency.TABLES,
            credential_marks.TABLES,
            halts.TABLES,
            approvals.TABLES,
        )
    ).split(";\n")[:-1],
    *behavior.TABLES,
)
NOW: Final = "(extract(epoch from clock_timestamp()) * 1000000)::int8"
SERVER: Final = "CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
CHECK: Final = f"SELECT version, server, {SERVER} FROM store"
DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
# These read the catalog itself: the cache that resolves names may not yet know the tables of another process.
FOUND: Final = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = ? AND tablename = 'store')"
SCHEMA_FOUND: Final = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = ?)"
CREATABLE: Final = (
    "SELECT CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :schema) "
    "THEN has_schema_privilege(quote_ident(:schema), 'CREATE') "
    "ELSE has_database_privilege(current_database(), 'CREATE') END"
)
RAISE_CHANGES: Final = f"SELECT setval('changes', greatest(nextval('changes'), {NOW}))"


def prepare_schema(session: PostgresSession, schema: str, *, creates: bool, in_use: bool = False) -> None:
    """Check the server and the schema, and with `creates` create a missing schema, unless it is `in_use`. Raises
    StoreError."""
    if session.server_version < OLDEST_SERVER:
        raise StoreError(f"the server is PostgreSQL {session.server_version // 10_000}, and 14 is the oldest supported")
    if not session.execute(FOUND, (schema,)).fetchone()[0]:
        if in_use:
            raise StoreLossError(f"the tables in the schema `{schema}` were removed while in use")
        if not session.execute(CREATABLE, {"schema": schema}).fetchone()[0]:
            raise StoreError(f"permission denied to create the tables in the schema `{schema}`")
        if not creates:
            raise StoreMissingError(f"the database has no schema `{schema}` of policyengine")
        create_schema(session, schema)
    version, server, current = read_version(session, schema)
    if version != SCHEMA_VERSION:
        newer = "a newer" if version > SCHEMA_VERSION else "another"
        raise StoreError(f"the schema `{schema}` was written by {newer} version of policyengine")
    if current and server != current:
        forget_lost_past(session, current)


def read_version(session: PostgresSession, schema: str) -> tuple[int, str, str]:
    """Return the version of the schema, the server that wrote to it last, and this server. Raises StoreError."""
    session.execute(DURABLE)
    try:
        version, server, current = session.execute(CHECK).fetchone() or (0, "", "")
    except PostgresError as error:
        if error.code != NO_TABLE:
            raise
        raise StoreError(f"permission denied for schema {schema}") from None
    return version, server, current


def create_schema(session: PostgresSession, schema: str) -> None:
    """Create the tables, unless another process does so at the same time."""
    with session.waiting(CREATION_SECONDS):
        session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        for timeout in ("lock_timeout", "statement_timeout"):
            session.execute(f"SET LOCAL {timeout} = '{CREATION_SECONDS}s'")
        session.execute("SELECT pg_advisory_xact_lock(?)", (CREATION_LOCK,))
        if not session.execute(FOUND, (schema,)).fetchone()[0]:
            if not session.execute(SCHEMA_FOUND, (schema,)).fetchone()[0]:
                session.execute(f"CREATE SCHEMA {quote_name(schema)}")
            for statement in TABLES:
                session.execute(statement)
            session.execute(f"INSERT INTO store SELECT 1, {SCHEMA_VERSION}, {SERVER}")
            session.execute(RAISE_CHANGES)
        session.execute("COMMIT")
        session.drain()


def forget_lost_past(session: PostgresSession, current: str) -> None:
    """Begin all histories again, because a replica that became the primary may lack the last changes."""
    session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    session.execute("SELECT pg_advisory_xact_lock(?)", (CREATION_LOCK,))
    if session.execute("SELECT 1 FROM store WHERE server <> ?", (current,)).fetchone():
        session.execute(f"UPDATE begun SET after = greatest(after, {NOW} - 1)")
        session.execute("UPDATE store SET server = ?", (current,))
        session.execute(RAISE_CHANGES)
    session.execute("COMMIT")
    session.drain()


def quote_name(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
