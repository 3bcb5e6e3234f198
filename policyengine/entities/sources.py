"""Reads the sources named by `--entities` into one entity store: JSON, JSON Lines, CSV tables and databases."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from policyengine.entities import csv_files
from policyengine.entities import json_files as files
from policyengine.entities.cells import EntityDeclarations
from policyengine.entities.database_config import DatabaseConfig, check_declared, read_database_config
from policyengine.entities.errors import EntitiesError
from policyengine.entities.merge import RowCollector
from policyengine.entities.store import EntityStore
from policyengine.install_hints import install_command

SourceLocation: TypeAlias = Path | str
SourcesStamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
URL = re.compile(r"[a-z][a-z0-9+]*://")
KINDS = "a file `….json`, `….jsonl`, `….csv` or `….toml`, a folder of `.csv` files, or the URL of a database"


@dataclass(frozen=True, slots=True)
class EntitySources:
    """The sources of entities. `mapping` is the TOML file that maps the tables of a database given as a URL."""

    where: tuple[SourceLocation, ...]
    mapping: Path | None = None

    @classmethod
    def of(cls, given: SourcesArgument) -> EntitySources:
        match given:
            case EntitySources():
                return given
            case str() | Path():
                return cls((given,))
            case _:
                return cls(tuple(given))

    def read(self, declared: EntityDeclarations) -> EntityStore:
        """Read all sources as the policy's entity declarations specify. Raises EntitiesError."""
        gathering = RowCollector()
        with without_garbage_collection():
            for source in self.where:
                _read_source(source, declared, self.mapping, gathering)
            return gathering.directory()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """The JSON sources, whose values are not converted to the declared types. Policies treat a value of another
        type as unknown.
        """
        return tuple(str(one) for one in self.where if str(one).lower().endswith((".json", ".jsonl", ".ndjson")))

    def refresh(self) -> float:
        """Return the interval in seconds at which databases are loaded again; 0: never. Raises EntitiesError."""
        files = [Path(one) for one in self.where if str(one).endswith(".toml")]
        if self.mapping is not None and any(map(is_url, self.where)):
            files.append(self.mapping)
        return min((every for file in files if (every := read_database_config(file).refresh)), default=0.0)

    def stamp(self) -> SourcesStamp:
        """Return the path, identity, size and modification time of each file, without reading it. They change with its
        contents. A missing file has zeros.
        """
        return tuple(_file_stamp(path) for path in self.files())

    def files(self) -> list[Path]:
        """Return all files that would be read now, including database mappings."""
        found = [path for source in self.where for path in _source_files(source)]
        mapped = self.mapping is not None and any(map(is_url, self.where))
        return [*found, self.mapping] if mapped and self.mapping is not None else found


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection for the block: reading many rows creates no garbage, and searching for garbage would
    take longer than reading the rows.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


SourcesArgument: TypeAlias = SourceLocation | Sequence[SourceLocation] | EntitySources


def _read_source(
    source: SourceLocation, declared: EntityDeclarations, mapping: Path | None, gathering: RowCollector
) -> None:
    if is_url(source):
        _open_database(_database_at_url(str(source), mapping), declared, gathering)
        return
    path = Path(source)
    match path.suffix.lower():
        case _ if os.path.isdir(path):
            csv_files.read_folder(path, declared, gathering)
        case ".json":
            files.read_json(path, gathering)
        case ".jsonl" | ".ndjson":
            files.read_lines(path, gathering)
        case ".csv":
            csv_files.read_table(path, declared, gathering)
        case ".toml":
            _open_database(_resolve_url(read_database_config(path)), declared, gathering)
        case _ if not path.exists():
            with files.open_entity_file(path):  # this reports the error
                pass
        case _:
            raise EntitiesError(str(path), "", "the format of this source is unknown", f"use {KINDS}", code="E180")


def is_url(source: SourceLocation) -> bool:
    return isinstance(source, str) and URL.match(source) is not None


def _database_at_url(url: str, mapping: Path | None) -> DatabaseConfig:
    if mapping is None:
        hint = "map tables to entities in `[directory]` of `policyengine.toml`, or name a file with that table"
        raise EntitiesError(f"{url.partition(':')[0]}:", "", "no mapping for this database", hint, code="E186")
    return read_database_config(mapping).at(url)


def _resolve_url(database: DatabaseConfig) -> DatabaseConfig:
    if database.url is None:
        hint = 'write `url = "postgresql://…"` in `[directory]`, or name the URL itself: `--entities postgresql://…`'
        raise EntitiesError(database.file, "directory.url", "the `url` of the database is missing", hint, code="E186")
    if not database.url.startswith("sqlite:///") or database.url.startswith("sqlite:////"):
        return database
    below = Path(database.file).parent / database.url.removeprefix("sqlite:///")  # a path relative to the mapping file
    return database.at(f"sqlite:///{below}")


def _open_database(database: DatabaseConfig, declared: EntityDeclarations, gathering: RowCollector) -> None:
    try:
        from policyengine.entities.databases import open_database
    except ImportError as error:
        if error.name != "sqlalchemy":
            raise
        hint = install_command("sql")
        raise EntitiesError(
            "the database", "", "the package `sqlalchemy` is not installed", hint, code="E187"
        ) from None
    check_declared(database, declared)
    open_database(database, declared, gathering)


# ── Changes ───────────────────────────────────────────────────────────────────────────────────


def _source_files(source: SourceLocation) -> list[Path]:
    path = Path(source)
    if is_url(source):
        return []
    try:
        return csv_files.csv_files(path) if path.is_dir() else [path]
    except EntitiesError:
        return [path]


def _file_stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_mtime_ns, found.st_size, found.st_ino
