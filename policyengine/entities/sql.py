"""Reads a database through SQLAlchemy, and converts the rows of its tables to entities. Connections are read-only."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa

from policyengine import typesystem
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.entities.cells import CellError, EntityDeclarations, make_cell_parser, membership_type
from policyengine.entities.database_config import DatabaseConfig, EntityTableConfig, JoinTable
from policyengine.entities.errors import EntitiesError
from policyengine.entities.merge import NumberedRows
from policyengine.install_hints import install_command
from policyengine.runtime.entities import EntityData
from policyengine.runtime.structure_checks import quote_input
from policyengine.runtime.values import MAX_INT, Invalid, Unknown, coerce_id
from policyengine.typesystem import EntityRef

_LOG = logging.getLogger("policyengine")
ROWS_PER_FETCH = 5_000  # rows to fetch together when a table is loaded whole
MAX_ERROR_LENGTH = 300
INTEGERS, UUIDS = (20, 21, 23), 2950  # type numbers in PostgreSQL
ElementsById = Mapping[str, Sequence[object]]  # the values of a join table, by owner id


class Database:
    """One database: its connections, and its name without credentials."""

    def __init__(self, database: DatabaseConfig, declared: EntityDeclarations) -> None:
        self.map, self.declared = database, declared
        try:
            self.url = sa.make_url(database.url or "")
        except (sa.exc.ArgumentError, ValueError):
            hint = "write `sqlite:///path` or `postgresql://user@host/database`"
            raise EntitiesError("the database", "", "this is not a database URL", hint, code="E187") from None
        host = f"{self.url.host or ''}{f':{self.url.port}' if self.url.port else ''}"
        self.kind = self.url.get_backend_name()
        self.shown = f"{self.kind}://{host}/{self.url.database or ''}"

    def engine(self, seconds: float) -> sa.Engine:
        """Return an engine. PostgreSQL ends a statement after `seconds`; SQLite only limits the wait for a lock. Raises
        EntitiesError.
        """
        match self.kind:
            case "sqlite" if self.url.database:
                where = f"file:{quote(self.url.database)}?mode=ro"
                make = lambda: sqlite3.connect(where, uri=True, timeout=seconds, check_same_thread=False)  # noqa: E731
                return sa.create_engine("sqlite://", creator=make, poolclass=sa.NullPool)
            case "postgresql":
                return self._postgresql(seconds)
            case _:
                hint = "use `sqlite:///path` or `postgresql://user@host/database`"
                raise self.error("this kind of database is not supported", hint)

    def _postgresql(self, seconds: float) -> sa.Engine:
        milliseconds = math.ceil(seconds * 1_000)
        own = self.url.query.get("options", "")
        options = f"{own if isinstance(own, str) else ' '.join(own)} -c statement_timeout={milliseconds}"
        manner = {
            "connect_timeout": max(2, math.ceil(seconds)),
            "tcp_user_timeout": max(2_000, 2 * milliseconds),
            "options": f"{options} -c default_transaction_read_only=on".strip(),
            "application_name": "policyengine",
        }
        url = self.url.set(drivername="postgresql+psycopg").difference_update_query(["options"])
        try:
            return sa.create_engine(url, poolclass=sa.NullPool, connect_args=manner)
        except ImportError:
            hint = install_command("sql")
            raise self.error("the package `psycopg` is not installed", hint) from None

    def error(self, message: str, hint: str | None = None, member: str = "", code: str = "E187") -> EntitiesError:
        return EntitiesError(self.shown, member, message, hint, code=code)

    def why(self, error: BaseException) -> str:
        """Return the database's own error message, without the statement, its values and the password."""
        told = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        first = told.splitlines()[0][:MAX_ERROR_LENGTH]
        return first.replace(str(self.url.password), "***") if self.url.password else first

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        """Open a connection for loading at startup. Raises EntitiesError."""
        try:
            with self.engine(self.map.load_timeout).connect() as connection:
                if self.kind == "postgresql":  # all tables in one consistent snapshot
                    connection = connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, UnicodeError) as error:
            raise self.error(
                self.why(error),
                "check that the database is reachable, and that the user in the URL may read its tables",
            ) from None

    def tables(self) -> list[SqlTable]:
        """Return all mapped tables after checking that they exist. Raises EntitiesError."""
        with self.connected() as connection:
            return [SqlTable.found(self, one, connection) for one in self.map.entities]

    def whole(self, table: SqlTable) -> NumberedRows:
        """Yield every row of a table with its number. Raises EntitiesError."""
        with self.connected() as connection:
            joined = {join: load_elements(connection, join, None) for join in table.joins}
            with connection.execution_options(yield_per=ROWS_PER_FETCH).execute(table.statement) as result:
                for number, row in enumerate(result.mappings()):
                    yield number, self._read_row(table, number, row, joined)

    def _read_row(
        self, table: SqlTable, number: int, row: Mapping[Any, Any], joined: Mapping[JoinTable, ElementsById]
    ) -> EntityData:
        """Return the entity of a row. Raises EntitiesError with the place of the row."""
        try:
            return table.read(row, joined)
        except ColumnError as error:
            member = f"{table.map.shown}[{number}]"
            raise EntitiesError(
                self.shown, member, error.message, error.hint, code="E183", column=error.column
            ) from None


class ColumnError(CellError):
    """A CellError with its column."""

    def __init__(self, message: str, hint: str | None, column: str) -> None:
        super().__init__(message, hint)
        self.column = column


@dataclass(frozen=True, slots=True)
class SqlTable:
    """The table of one entity type: the statement that reads all rows, and the conversion of a row."""

    map: EntityTableConfig
    statement: sa.Select[Any]
    id: sa.ColumnElement[Any]
    id_kind: type
    types: Mapping[str, typesystem.Type]
    above: typesystem.Type
    readers: Mapping[str, Callable[[object], object]]
    climbing: Callable[[object], object]
    joins: Mapping[JoinTable, type]  # the Python type of the owner ids in each join table

    @classmethod
    def found(cls, database: Database, one: EntityTableConfig, connection: sa.Connection) -> SqlTable:
        declaration = database.declared[one.type]
        sources = [*one.attributes.values(), *one.parents]
        columns = dict.fromkeys([one.id, *(source for source in sources if isinstance(source, str))])
        kept = check_entity_table(database, one, connection, columns)
        source: Any
        if one.table is not None:
            source = table_clause(one.table, columns)
        else:
            source = sa.text(str(one.query)).columns(*(sa.column(name) for name in columns)).subquery("rows")
        joins = {
            join: check_table(database, one.type, join.table, connection, [join.id, join.value])
            for join in dict.fromkeys(source for source in sources if isinstance(source, JoinTable))
        }
        types = {one_field.name: one_field.type for one_field in declaration.fields}
        statement = sa.select(*(source.c[name] for name in columns))
        readers = {name: make_cell_parser(types[name], name) for name in one.attributes}
        above = membership_type(declaration)
        climbing = make_cell_parser(above, "in")
        return cls(one, statement, source.c[one.id], kept, types, above, readers, climbing, joins)

    def read(
        self, row: Mapping[Any, Any], joined: Mapping[JoinTable, ElementsById], *, strict: bool = True
    ) -> EntityData:
        """Return the entity of a row. Raises ColumnError; without `strict`, an invalid attribute is unknown instead."""
        ref = self.ref(row[self.map.id])
        found: dict[str, object] = {}
        for name, source in self.map.attributes.items():
            try:
                value = self._value(ref, name, row, source, joined)
            except CellError as error:
                if strict:
                    column = source if isinstance(source, str) else source.value
                    raise ColumnError(f"{quote_input(str(ref))}: {error.message}", error.hint, column) from None
                value = Invalid(error.message)
                warn_once(self.map.type, name, error.message)
            if value is not None:
                found[name] = value
        return EntityData(ref, found, self._parents(ref, row, joined))

    def ref(self, cell: object) -> EntityRef:
        """Return the entity reference for an id cell. Raises ColumnError."""
        text = str(cell) if isinstance(cell, int | UUID) and not isinstance(cell, bool) else cell
        known = coerce_id(text, "id") if isinstance(text, str) else None
        if not isinstance(known, str):
            why = "it is missing" if cell is None or cell == "" else "it is not a string, a number or a UUID"
            if isinstance(known, Unknown) and text:
                why = min(cause.why for cause in known.causes)
            raise ColumnError(f"the id of a {self.map.type}: {why}", "give each row its own id", self.map.id)
        return EntityRef(self.map.type, known)

    def _value(
        self,
        ref: EntityRef,
        name: str,
        row: Mapping[Any, Any],
        source: str | JoinTable,
        joined: Mapping[JoinTable, ElementsById],
    ) -> object:
        if isinstance(source, str):
            return self.readers[name](row[source])
        return self.readers[name](self._elements(ref, source, joined, self.types[name]))

    def _parents(
        self, ref: EntityRef, row: Mapping[Any, Any], joined: Mapping[JoinTable, ElementsById]
    ) -> tuple[EntityRef, ...]:
        found: dict[EntityRef, None] = {}
        for source in self.map.parents:
            column = source if isinstance(source, str) else source.value
            try:
                cell = row[source] if isinstance(source, str) else self._elements(ref, source, joined, self.above)
                one = self.climbing((cell,) if isinstance(cell, int | UUID) else cell)
            except CellError as error:
                raise ColumnError(f"{quote_input(str(ref))}: {error.message}", error.hint, column) from None
            found |= dict.fromkeys(one if isinstance(one, tuple) else ())
        return tuple(found)

    def _elements(
        self, ref: EntityRef, join: JoinTable, joined: Mapping[JoinTable, ElementsById], type_: typesystem.Type
    ) -> tuple[object, ...]:
        cells = joined[join].get(ref.id, ())
        if join.type is None:
            return tuple(cells)
        known = isinstance(type_, typesystem.SetType | typesystem.ListType) and isinstance(
            type_.element, typesystem.RefType
        )
        if not known or join.type not in type_.element.entities:  # type: ignore[union-attr]
            raise CellError(f"the attribute cannot hold a `{join.type}`", "correct or remove `type`")
        return tuple(None if cell is None else {"type": join.type, "id": str(cell)} for cell in cells)


def to_column_keys(ids: Iterable[str], kind: type) -> list[object]:
    """Return the ids as values of their column type, without ids that a column of this type cannot hold."""
    return [key for id_ in ids if (key := to_column_key(id_, kind)) is not None]


def to_column_key(id_: str, kind: type) -> object | None:
    if "\0" in id_:
        return None
    try:
        found = kind(id_)
    except ValueError:
        return None
    return None if isinstance(found, int) and not -MAX_INT <= found <= MAX_INT else found


def table_clause(name: str, columns: Iterable[str]) -> sa.TableClause:
    schema, _, bare = name.rpartition(".")
    return sa.table(bare, *(sa.column(column) for column in columns), schema=schema or None)


def check_entity_table(
    database: Database, one: EntityTableConfig, connection: sa.Connection, columns: Iterable[str]
) -> type:
    """Check that the table and its columns exist, and return the Python type of its ids. Raises EntitiesError."""
    if one.table is not None:
        return check_table(database, one.type, one.table, connection, columns)
    try:
        result = connection.execute(sa.text(f"select * from ({one.query}) as rows where 1 = 0"))
    except sa.exc.DBAPIError as error:
        raise database.error(database.why(error), "`query` must be a single `select`", f"{one.type}.query") from None
    return check_columns(database, f"{one.type}.query", result, columns)


def check_table(database: Database, type_: str, table: str, connection: sa.Connection, columns: Iterable[str]) -> type:
    schema, _, bare = table.rpartition(".")
    inspector = sa.inspect(connection)
    if not inspector.has_table(bare, schema=schema or None):
        names = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
        hint = did_you_mean(bare, names)
        raise database.error(f"there is no table `{quote_input(table)}`", hint, type_)
    star = sa.select(sa.text("*")).select_from(table_clause(table, ())).where(sa.text("1 = 0"))
    return check_columns(database, table, connection.execute(star), columns)


def check_columns(database: Database, member: str, result: sa.CursorResult[Any], columns: Iterable[str]) -> type:
    names = list(result.keys())
    columns = list(columns)
    for column in columns:
        if column not in names:
            hint = did_you_mean(column, names) or f"columns: {', '.join(f'`{one}`' for one in names[:12])}"
            error = database.error(f"there is no column `{quote_input(column)}`", hint, member)
            error.column = column
            raise error
    code = result.cursor.description[names.index(columns[0])][1]
    return int if code in INTEGERS else UUID if code == UUIDS else str


def load_elements(connection: sa.Connection, join: JoinTable, ids: Sequence[object] | None) -> ElementsById:
    """Return the values of a join table by owner id: for all owners, or for the given ids."""
    table = table_clause(join.table, [join.id, join.value])
    found: dict[str, list[object]] = defaultdict(list)
    statement = sa.select(table.c[join.id], table.c[join.value])
    if ids is not None:
        statement = statement.where(table.c[join.id].in_(ids))
    for id_, value in connection.execute(statement):
        found[str(id_)].append(value)
    return found


_reported_columns: set[tuple[str, str]] = set()


def warn_once(type_: str, name: str, why: str) -> None:
    """Log that an attribute of a looked-up row is invalid and therefore unknown, once for each attribute, not for each
    row."""
    if (type_, name) not in _reported_columns:
        _reported_columns.add((type_, name))
        _LOG.warning("a looked-up %s has an invalid `%s`, which is therefore unknown: %s", type_, name, why)
