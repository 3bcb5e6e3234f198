"""The schema of a PostgreSQL store: its tables, its version, and what a new server may have lost."""

from __future__ import annotations

from typing import Final

from policyengine.stores.base import StoreError, StoreLossError
from policyengine.stores.postgres.session import PostgresSession
from policyengine.stores.sql import approvals, behavior, credential_marks, halts, history, idempotency, state

SCHEMA_VERSION: Final = 1
OLDEST_SERVER: Final = 140_000
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
FOUND: Final = "SELECT to_regclass('store') IS NOT NULL"
RAISE_CHANGES: Final = f"SELECT setval('changes', greatest(nextval('changes'), {NOW}))"


def prepare_schema(session: PostgresSession, schema: str, *, creates: bool) -> None:
    """Check the server and the schema, and with `creates` create a missing schema. Raises StoreError."""
    if session.server_version < OLDEST_SERVER:
        raise StoreError(f"the server is PostgreSQL {session.server_version // 10_000}, and 14 is the oldest supported")
    if not session.execute(FOUND).fetchone()[0]:
        if not creates:
            raise StoreLossError(f"the tables in the schema `{schema}` were removed while in use")
        create_schema(session, schema)
    session.execute(DURABLE)
    version, server, current = session.execute(CHECK).fetchone() or (0, "", "")
    if version != SCHEMA_VERSION:
        newer = "newer" if version > SCHEMA_VERSION else "other"
        raise StoreError(f"the schema `{schema}` was written by a {newer} version of policyengine")
    if current and server != current:
        forget_lost_past(session, current)


def create_schema(session: PostgresSession, schema: str) -> None:
    """Create the tables, unless another process does so at the same time."""
    session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    session.execute("SELECT pg_advisory_xact_lock(?)", (CREATION_LOCK,))
    if not session.execute(FOUND).fetchone()[0]:
        if not session.execute("SELECT to_regnamespace(?) IS NOT NULL", (quote_name(schema),)).fetchone()[0]:
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
