"""Reads `[directory]` of a TOML file: which tables of a database hold which entities, and the limits of its queries."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policyengine.bounded_files import MAX_SETTINGS_BYTES, read_bounded
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.entities.cells import EntityDeclarations
from policyengine.entities.errors import EntitiesError
from policyengine.runtime.structure_checks import quote_input
from policyengine.time_formats import parse_duration

SECTION = "directory"
ENTITY_KEYS = ("table", "query", "id", "attributes", "in", "lookup")
JOIN_KEYS = ("table", "id", "value", "type")
JOIN = 'as in `{ table = "memberships", id = "user", value = "team" }`'


@dataclass(frozen=True, slots=True)
class JoinTable:
    """A table with one row for each element of a set or list: `id` is the column of the owner, `value` the column of
    the element. `type` is the entity type of the elements if `value` does not contain it.
    """

    table: str
    id: str
    value: str
    type: str | None = None


@dataclass(frozen=True, slots=True)
class EntityTableConfig:
    """The table or query with the rows of one entity type. `parents` is the source of memberships (`in`)."""

    type: str
    table: str | None
    query: str | None
    id: str
    attributes: Mapping[str, str | JoinTable]
    parents: tuple[str | JoinTable, ...]
    lookup: bool

    @property
    def shown(self) -> str:
        return self.table or f"{self.type} query"


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """The configuration of one database; times are in seconds. `timeout` is the maximum time that one decision waits,
    `ttl` the maximum age of a cached row, and `most` the maximum number of cached rows. `refresh` is the interval at
    which tables that were loaded whole are loaded again (0: never).
    """

    file: str
    entities: tuple[EntityTableConfig, ...]
    url: str | None = None
    timeout: float = 0.5
    ttl: float = 30.0
    most: int = 100_000
    connections: int = 4
    refresh: float = 0.0
    load_timeout: float = 60.0

    def at(self, url: str) -> DatabaseConfig:
        return replace(self, url=url)


def read_database_config(path: Path) -> DatabaseConfig:
    """Read the `[directory]` table of a TOML file. Raises EntitiesError."""
    name = str(path)
    try:
        given = tomllib.loads(read_bounded(path, MAX_SETTINGS_BYTES).decode())
    except OSError as error:
        raise EntitiesError(name, "", (error.strerror or "cannot be read").lower(), code="E180") from error
    except UnicodeDecodeError:
        raise EntitiesError(name, "", "not valid UTF-8", "save the file as UTF-8", code="E186") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        raise EntitiesError(
            name, "", message[:1].lower() + message[1:], "this is not valid TOML", code="E186"
        ) from None
    section = given.get(SECTION)
    if not isinstance(section, dict):
        hint = 'map each entity to a table, as in `[directory.user]`, `table = "users"`, `id = "login"`'
        raise EntitiesError(name, SECTION, "the table `[directory]` is missing", hint, code="E186")
    return DatabaseConfigReader(name).database(section)


OPTIONS: Mapping[str, Callable[[DatabaseConfigReader, str, object], Any]] = {
    "url": lambda mapped, key, value: mapped.text(key, value),
    "timeout": lambda mapped, key, value: mapped.seconds(key, value, 0.001, 60),
    "load_timeout": lambda mapped, key, value: mapped.seconds(key, value, 0.001, 3600),
    "ttl": lambda mapped, key, value: mapped.seconds(key, value, 0, 86_400),
    "refresh": lambda mapped, key, value: mapped.seconds(key, value, 1, 86_400),
    "most": lambda mapped, key, value: mapped.count(key, value, 1, 10_000_000),
    "connections": lambda mapped, key, value: mapped.count(key, value, 1, 64),
}


@dataclass(frozen=True, slots=True)
class DatabaseConfigReader:
    """A reader of one `[directory]` table; its errors name the key."""

    file: str

    def database(self, section: Mapping[str, Any]) -> DatabaseConfig:
        options: dict[str, Any] = {}
        entities = []
        for key, value in section.items():
            if isinstance(value, dict):
                entities.append(self.entity(key, value))
            elif key in OPTIONS:
                options[key] = OPTIONS[key](self, key, value)
            else:
                raise self.unknown(key, OPTIONS)
        if not entities:
            raise self.wrong("", "no entity is mapped", 'as in `[directory.user]`, `table = "users"`')
        return DatabaseConfig(self.file, tuple(entities), **options)

    def entity(self, type_: str, given: Mapping[str, Any]) -> EntityTableConfig:
        self.known(type_, given, ENTITY_KEYS)
        table, query = (self.maybe(f"{type_}.{key}", given.get(key)) for key in ("table", "query"))
        if (table is None) == (query is None):
            raise self.wrong(type_, "an entity needs either a `table` or a `query`", f'as in `table = "{type_}s"`')
        lookup = given.get("lookup", False)
        if not isinstance(lookup, bool):
            raise self.wrong(f"{type_}.lookup", "`lookup` must be `true` or `false`")
        parents = given.get("in", [])
        return EntityTableConfig(
            type_,
            table,
            query,
            self.text(f"{type_}.id", given.get("id", "id")),
            self.attributes(type_, given.get("attributes", [])),
            tuple(self.source(f"{type_}.in", one) for one in (parents if isinstance(parents, list) else [parents])),
            lookup,
        )

    def attributes(self, type_: str, given: object) -> dict[str, str | JoinTable]:
        key = f"{type_}.attributes"
        if isinstance(given, list):
            return {self.text(key, one): self.text(key, one) for one in given}
        if isinstance(given, dict):
            return {name: self.source(f"{key}.{name}", one) for name, one in given.items()}
        raise self.wrong(key, "attributes must be a list of columns, or a table of attributes and their columns")

    def source(self, key: str, given: object) -> str | JoinTable:
        if not isinstance(given, dict):
            return self.text(key, given)
        self.known(key, given, JOIN_KEYS)
        table, id_, value = (self.text(f"{key}.{name}", given.get(name)) for name in ("table", "id", "value"))
        return JoinTable(table, id_, value, self.maybe(f"{key}.type", given.get("type")))

    def maybe(self, key: str, value: object) -> str | None:
        return None if value is None else self.text(key, value)

    def text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not value:
            hint = JOIN if ".in" in key or ".attributes" in key else None
            raise self.wrong(key, f"`{key.rpartition('.')[2]}` must be a quoted string", hint)
        return value

    def seconds(self, key: str, value: object, least: float, most: float) -> float:
        duration = parse_duration(value) if isinstance(value, str) else None
        seconds = -1.0 if duration is None else duration.total_seconds()
        if not least <= seconds <= most:
            raise self.wrong(key, f"`{key}` is not a valid duration here", 'as in `"500ms"`, `"30s"`, `"5m"`')
        return seconds

    def count(self, key: str, value: object, least: int, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"`{key}` must be a whole number from {least} to {most:,}")
        return value

    def known(self, key: str, given: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for name in given:
            if name not in keys:
                raise self.unknown(f"{key}.{name}", keys)

    def unknown(self, key: str, keys: Mapping[str, Any] | tuple[str, ...]) -> EntitiesError:
        name = key.rpartition(".")[2]
        hint = did_you_mean(name, keys) or f"known keys: {', '.join(f'`{one}`' for one in keys)}"
        return self.wrong(key, f"unknown key `{quote_input(name)}`", hint)

    def wrong(self, key: str, message: str, hint: str | None = None) -> EntitiesError:
        return EntitiesError(self.file, f"{SECTION}.{key}".rstrip("."), message, hint, code="E186")


def check_declared(database: DatabaseConfig, declared: EntityDeclarations) -> None:
    """Check that the policy declares each mapped entity and attribute. Raises EntitiesError."""
    mapped = DatabaseConfigReader(database.file)
    for entity in database.entities:
        declaration = declared.get(entity.type)
        if declaration is None:
            hint = did_you_mean(entity.type, declared)
            error = mapped.wrong(entity.type, f"the policy declares no entity `{quote_input(entity.type)}`", hint)
            error.code = "E185"
            raise error
        names = [field.name for field in declaration.fields]
        for name in entity.attributes:
            if name not in names:
                hint = did_you_mean(name, names) or f"known: {', '.join(f'`{n}`' for n in names) or 'none'}"
                message = f"`{entity.type}` has no attribute `{quote_input(name)}`"
                raise mapped.wrong(f"{entity.type}.attributes.{name}", message, hint)
        if entity.parents and not declaration.parents:
            message = f"the policy declares no parent of `{entity.type}`"
            raise mapped.wrong(
                f"{entity.type}.in", message, f"declare `entity {entity.type} {{ … }} in …`, or remove `in`"
            )
