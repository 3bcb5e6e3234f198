"""A database as SQLAlchemy sees it: its tables, and how a row of each is read. It is only ever read."""

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
from policyengine.diagnostics.model import suggest
from policyengine.entities.columns import CellError, Declarations, remembering, within
from policyengine.entities.database_config import DatabaseMap, EntityMap, Join
from policyengine.entities.errors import EntitiesError
from policyengine.entities.merge import Numbered
from policyengine.extras import install_command
from policyengine.runtime.entities import EntityData
from policyengine.runtime.structure_checks import quoted
from policyengine.runtime.values import LARGEST_INT, Invalid, Unknown, coerce_id
from policyengine.typesystem import EntityRef

_LOG = logging.getLogger("policyengine")
ROWS = 5_000  # that are fetched at once when all are
LONGEST_WHY = 300
INTEGERS, UUIDS = (20, 21, 23), 2950  # as PostgreSQL numbers its types
Of = Mapping[str, Sequence[object]]  # by id, the elements that a table of elements holds


class Database:
    """One database: how to connect to it, and what to call it where others can read it."""

    def __init__(self, database: DatabaseMap, declared: Declarations) -> None:
        self.map, self.declared = database, declared
        try:
            self.url = sa.make_url(database.url or "")
        except (sa.exc.ArgumentError, ValueError):
            hint = "`sqlite:///path` or `postgresql://user@host/database`"
            raise EntitiesError("the database", "", "this is no URL of a database", hint, code="E187") from None
        host = f"{self.url.host or ''}{f':{self.url.port}' if self.url.port else ''}"
        self.kind = self.url.get_backend_name()
        self.shown = f"{self.kind}://{host}/{self.url.database or ''}"

    def engine(self, seconds: float) -> sa.Engine:
        """Makes connections on which nothing takes longer. Raises EntitiesError."""
        match self.kind:
            case "sqlite" if self.url.database:
                where = f"file:{quote(self.url.database)}?mode=ro"
                make = lambda: sqlite3.connect(where, uri=True, timeout=seconds, check_same_thread=False)  # noqa: E731
                return sa.create_engine("sqlite://", creator=make, poolclass=sa.NullPool)
            case "postgresql":
                return self._postgresql(seconds)
            case _:
                hint = "`sqlite:///path` or `postgresql://user@host/database`"
                raise self.error("this database is not known here", hint)

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
        """In the words of the database, without statement, values and password."""
        told = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        first = told.splitlines()[0][:LONGEST_WHY]
        return first.replace(str(self.url.password), "***") if self.url.password else first

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        """For what is done at the start. Raises EntitiesError."""
        try:
            with self.engine(self.map.load_timeout).connect() as connection:
                if self.kind == "postgresql":  # all tables as they are at one moment
                    connection = connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, UnicodeError) as error:
            raise self.error(self.why(error), "see that it runs, and that it may be read from here") from None

    def tables(self) -> list[Table]:
        """All that is mapped, once it is seen to be there. Raises EntitiesError."""
        with self.connected() as connection:
            return [Table.found(self, one, connection) for one in self.map.entities]

    def whole(self, table: Table) -> Numbered:
        """Every row of a table. Raises EntitiesError."""
        with self.connected() as connection:
            joined = {join: elements_of(connection, join, None) for join in table.joins}
            with connection.execution_options(yield_per=ROWS).execute(table.statement) as result:
                for number, row in enumerate(result.mappings()):
                    try:
                        yield number, table.read(row, joined)
                    except ColumnError as error:
                        member, hint = f"{table.map.shown}[{number}]", error.hint
                        raise EntitiesError(
                            self.shown, member, error.message, hint, code="E183", column=error.column
                        ) from None


class ColumnError(CellError):
    """A CellError that knows its column."""

    def __init__(self, message: str, hint: str | None, column: str) -> None:
        super().__init__(message, hint)
        self.column = column


@dataclass(frozen=True, slots=True)
class Table:
    """Where the entities of one type are: the statement that reads all of them, and how a row is read."""

    map: EntityMap
    statement: sa.Select[Any]
    id: sa.ColumnElement[Any]
    id_kind: type
    types: Mapping[str, typesystem.Type]
    above: typesystem.Type
    readers: Mapping[str, Callable[[object], object]]
    climbing: Callable[[object], object]
    joins: Mapping[Join, type]  # what the ids of whom they are elements are there

    @classmethod
    def found(cls, database: Database, one: EntityMap, connection: sa.Connection) -> Table:
        declaration = database.declared[one.type]
        sources = [*one.attributes.values(), *one.parents]
        columns = dict.fromkeys([one.id, *(source for source in sources if isinstance(source, str))])
        kept = looked_at(database, one, connection, columns)
        source: Any
        if one.table is not None:
            source = table_of(one.table, columns)
        else:
            source = sa.text(str(one.query)).columns(*(sa.column(name) for name in columns)).subquery("rows")
        joins = {
            join: present(database, one.type, join.table, connection, [join.id, join.value])
            for join in dict.fromkeys(source for source in sources if isinstance(source, Join))
        }
        types = {one_field.name: one_field.type for one_field in declaration.fields}
        statement = sa.select(*(source.c[name] for name in columns))
        readers = {name: remembering(types[name], name) for name in one.attributes}
        above = within(declaration)
        climbing = remembering(above, "in")
        return cls(one, statement, source.c[one.id], kept, types, above, readers, climbing, joins)

    def read(self, row: Mapping[Any, Any], joined: Mapping[Join, Of], *, strict: bool = True) -> EntityData:
        """Raises ColumnError; unless `strict` an attribute that is wrong is unknown."""
        ref = self.ref(row[self.map.id])
        found: dict[str, object] = {}
        for name, source in self.map.attributes.items():
            try:
                value = self._value(ref, name, row, source, joined)
            except CellError as error:
                if strict:
                    column = source if isinstance(source, str) else source.value
                    raise ColumnError(f"{quoted(str(ref))}: {error.message}", error.hint, column) from None
                value = Invalid(error.message)
                wrong_once(self.map.type, name, error.message)
            if value is not None:
                found[name] = value
        return EntityData(ref, found, self._parents(ref, row, joined))

    def ref(self, cell: object) -> EntityRef:
        """Raises ColumnError."""
        text = str(cell) if isinstance(cell, int | UUID) and not isinstance(cell, bool) else cell
        known = coerce_id(text, "id") if isinstance(text, str) else None
        if not isinstance(known, str):
            why = "there is none" if cell is None or cell == "" else "it is no text, number or UUID"
            if isinstance(known, Unknown) and text:
                why = min(cause.why for cause in known.causes)
            raise ColumnError(f"the id of a {self.map.type}: {why}", "each row has an id of its own", self.map.id)
        return EntityRef(self.map.type, known)

    def _value(
        self, ref: EntityRef, name: str, row: Mapping[Any, Any], source: str | Join, joined: Mapping[Join, Of]
    ) -> object:
        if isinstance(source, str):
            return self.readers[name](row[source])
        return self.readers[name](self._elements(ref, source, joined, self.types[name]))

    def _parents(self, ref: EntityRef, row: Mapping[Any, Any], joined: Mapping[Join, Of]) -> tuple[EntityRef, ...]:
        found: dict[EntityRef, None] = {}
        for source in self.map.parents:
            column = source if isinstance(source, str) else source.value
            try:
                cell = row[source] if isinstance(source, str) else self._elements(ref, source, joined, self.above)
                one = self.climbing((cell,) if isinstance(cell, int | UUID) else cell)
            except CellError as error:
                raise ColumnError(f"{quoted(str(ref))}: {error.message}", error.hint, column) from None
            found |= dict.fromkeys(one if isinstance(one, tuple) else ())
        return tuple(found)

    def _elements(
        self, ref: EntityRef, join: Join, joined: Mapping[Join, Of], type_: typesystem.Type
    ) -> tuple[object, ...]:
        cells = joined[join].get(ref.id, ())
        if join.type is None:
            return tuple(cells)
        known = isinstance(type_, typesystem.Set | typesystem.List) and isinstance(type_.element, typesystem.Ref)
        if not known or join.type not in type_.element.entities:  # type: ignore[union-attr]
            raise CellError(f"nothing here is a `{join.type}`", "correct `type`, or leave it out")
        return tuple(None if cell is None else {"type": join.type, "id": str(cell)} for cell in cells)


def keys_of(ids: Iterable[str], kind: type) -> list[object]:
    """The ids as their column compares them, without those that it cannot hold."""
    return [key for id_ in ids if (key := key_of(id_, kind)) is not None]


def key_of(id_: str, kind: type) -> object | None:
    if "\0" in id_:
        return None
    try:
        found = kind(id_)
    except ValueError:
        return None
    return None if isinstance(found, int) and not -LARGEST_INT <= found <= LARGEST_INT else found


def table_of(name: str, columns: Iterable[str]) -> sa.TableClause:
    schema, _, bare = name.rpartition(".")
    return sa.table(bare, *(sa.column(column) for column in columns), schema=schema or None)


def looked_at(database: Database, one: EntityMap, connection: sa.Connection, columns: Iterable[str]) -> type:
    """What ids are there, once all columns are seen to be there. Raises EntitiesError."""
    if one.table is not None:
        return present(database, one.type, one.table, connection, columns)
    try:
        result = connection.execute(sa.text(f"select * from ({one.query}) as rows where 1 = 0"))
    except sa.exc.DBAPIError as error:
        raise database.error(database.why(error), "the `query` is one `select`", f"{one.type}.query") from None
    return among(database, f"{one.type}.query", result, columns)


def present(database: Database, type_: str, table: str, connection: sa.Connection, columns: Iterable[str]) -> type:
    schema, _, bare = table.rpartition(".")
    inspector = sa.inspect(connection)
    if not inspector.has_table(bare, schema=schema or None):
        names = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
        meant = suggest(bare, names)
        hint = f"did you mean `{meant}`?" if meant else None
        raise database.error(f"there is no table `{quoted(table)}`", hint, type_)
    star = sa.select(sa.text("*")).select_from(table_of(table, ())).where(sa.text("1 = 0"))
    return among(database, table, connection.execute(star), columns)


def among(database: Database, member: str, result: sa.CursorResult[Any], columns: Iterable[str]) -> type:
    names = list(result.keys())
    columns = list(columns)
    for column in columns:
        if column not in names:
            meant = suggest(column, names)
            hint = f"did you mean `{meant}`?" if meant else f"there are {', '.join(f'`{one}`' for one in names[:12])}"
            error = database.error(f"there is no column `{quoted(column)}`", hint, member)
            error.column = column
            raise error
    code = result.cursor.description[names.index(columns[0])][1]
    return int if code in INTEGERS else UUID if code == UUIDS else str


def elements_of(connection: sa.Connection, join: Join, ids: Sequence[object] | None) -> Of:
    """What a table of elements holds: of all, or of some."""
    table = table_of(join.table, [join.id, join.value])
    found: dict[str, list[object]] = defaultdict(list)
    statement = sa.select(table.c[join.id], table.c[join.value])
    if ids is not None:
        statement = statement.where(table.c[join.id].in_(ids))
    for id_, value in connection.execute(statement):
        found[str(id_)].append(value)
    return found


_TOLD: set[tuple[str, str]] = set()


def wrong_once(type_: str, name: str, why: str) -> None:
    """What a row holds that policies cannot read is unknown: said once of each column, not for each row."""
    if (type_, name) not in _TOLD:
        _TOLD.add((type_, name))
        _LOG.warning("a %s that was looked up has something wrong in `%s`, which is unknown: %s", type_, name, why)
