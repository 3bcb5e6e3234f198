"""Reads entities from a database: tables loaded whole, or rows looked up by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa

from policyengine.entities.cells import CellError, EntityDeclarations, copy_declarations
from policyengine.entities.database_config import DatabaseConfig
from policyengine.entities.lookup import RowLookupError
from policyengine.entities.merge import RowCollector, RowOrigin
from policyengine.entities.sql import Database, SqlTable, load_elements, to_column_keys, warn_once
from policyengine.entities.store import NO_ANSWER, RowResult
from policyengine.entities.worker_pool import WorkerPool, WorkerTimeoutError
from policyengine.typesystem import EntityRef

LOOKUP_BATCH_SIZE = 500  # maximum ids in one statement
PROBE_IDS = ("0", str(UUID(int=0)))  # ids that match no row; for each type of id column, one of them is valid
Answer = TypeVar("Answer")


def open_database(database: DatabaseConfig, declared: EntityDeclarations, gathering: RowCollector) -> None:
    """Load the tables that are read whole, and prepare the lookups of the others. Raises EntitiesError."""
    opened = Database(database, declared)
    tables = opened.tables()
    for table in tables:
        if not table.map.lookup:
            gathering.add(RowOrigin(opened.shown, table.map.shown), opened.whole(table))
    looked_up = {table.map.type: table for table in tables if table.map.lookup}
    if looked_up:
        gathering.looked_up(SqlRowSource(opened, looked_up))


class SqlRowSource:
    """Entities of a database that are looked up when a decision needs them. It can be pickled: another process opens
    its own connections."""

    def __init__(self, database: Database, tables: Mapping[str, SqlTable] | None = None) -> None:
        self.database = database
        self.types = frozenset(one.type for one in database.map.entities if one.lookup)
        self._tables = tables
        engine = database.engine(self.timeout)

        def connect() -> sa.Connection:
            return engine.connect().execution_options(isolation_level="AUTOCOMMIT")

        # Connections to a SQLite file are not kept, because another file may replace it and opening a file is cheap.
        self._hands = WorkerPool(connect, database.map.connections, keep=database.kind != "sqlite")

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen_database, (self.database.map, copy_declarations(self.database.declared))

    @property
    def identity(self) -> object:
        return self.database.map

    @property
    def shown(self) -> str:
        return self.database.shown

    @property
    def attributes(self) -> Mapping[str, frozenset[str]]:
        return {one.type: frozenset(one.attributes) for one in self.database.map.entities if one.lookup}

    @property
    def timeout(self) -> float:
        return self.database.map.timeout

    @property
    def ttl(self) -> float:
        return self.database.map.ttl

    @property
    def most(self) -> int:
        return self.database.map.most

    def fetch(self, refs: Sequence[EntityRef], seconds: float) -> Mapping[EntityRef, RowResult]:
        """Return the rows of these entities. Raises RowLookupError."""
        return self._run_pooled(lambda connection: self._fetch_rows(connection, refs), seconds)

    def probe(self, seconds: float) -> None:
        """Query each table and join table once, as a decision would. Raises RowLookupError."""

        def look(connection: sa.Connection) -> None:
            for table in self._inspect_tables(connection).values():
                connection.execute(
                    table.statement.where(table.id.in_(to_column_keys(PROBE_IDS, table.id_kind)))
                ).close()
                for join, kind in table.joins.items():
                    load_elements(connection, join, to_column_keys(PROBE_IDS, kind))

        self._run_pooled(look, seconds)

    def _run_pooled(self, work: Callable[[sa.Connection], Answer], seconds: float) -> Answer:
        """Run the work on a pooled connection. Raises RowLookupError."""
        try:
            return self._hands.ask(work, seconds)
        except WorkerTimeoutError as error:
            raise RowLookupError(str(error)) from None
        except sa.exc.DataError as error:  # the error concerns these rows only
            raise RowLookupError(self.database.why(error), lasts=False) from None
        except Exception as error:
            raise RowLookupError(self.database.why(error)) from None

    def _fetch_rows(self, connection: sa.Connection, refs: Sequence[EntityRef]) -> Mapping[EntityRef, RowResult]:
        found: dict[EntityRef, RowResult] = {}
        for type_, table in self._inspect_tables(connection).items():
            ids = [ref.id for ref in refs if ref.type == type_]
            for begin in range(0, len(ids), LOOKUP_BATCH_SIZE):
                self._of_table(connection, table, ids[begin : begin + LOOKUP_BATCH_SIZE], found)
        return found

    def _inspect_tables(self, connection: sa.Connection) -> Mapping[str, SqlTable]:
        """Return the tables, inspected at the first use in each process."""
        if self._tables is None:
            looked_up = [one for one in self.database.map.entities if one.lookup]
            self._tables = {one.type: SqlTable.found(self.database, one, connection) for one in looked_up}
        return self._tables

    def _of_table(
        self, connection: sa.Connection, table: SqlTable, ids: Sequence[str], found: dict[EntityRef, RowResult]
    ) -> None:
        statement = table.statement.where(table.id.in_(to_column_keys(ids, table.id_kind)))
        rows = connection.execute(statement).mappings().all()
        kinds_of = table.joins.items() if rows else ()
        joined = {join: load_elements(connection, join, to_column_keys(ids, kind)) for join, kind in kinds_of}
        for row in rows:
            ref = table.ref(row[table.map.id])
            try:
                known: RowResult = table.read(row, joined, strict=False)
            except CellError as error:
                warn_once(table.map.type, "in", error.message)
                known = NO_ANSWER
            if ref in found:
                warn_once(table.map.type, table.map.id, "several rows have the same id")
                known = NO_ANSWER
            found[ref] = known


def reopen_database(database: DatabaseConfig, declared: EntityDeclarations) -> SqlRowSource:
    """Return the row source of a database in another process, without connecting. Raises EntitiesError for an invalid
    URL.
    """
    return SqlRowSource(Database(database, declared))
