"""The file of a SQLite store, which only its owner may access. The store checks while in use that the file was not
removed or replaced.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policyengine.stores.base import StoreError, StoreLossError, WriteRefusedError
from policyengine.trusted_files import UntrustedPathError, trusted_path

MEMORY = ":memory:"
OWNER_ONLY = 0o600  # SQLite creates its other files with the same mode
RESTART = "a restart uses the file that is there then"
FileId = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A SQLite file: `path` is the given path, and `place` the path without symbolic links. `id` is the device and
    inode, or None for a database in memory.
    """

    path: str
    place: str
    id: FileId | None

    @classmethod
    def of(cls, path: str) -> Self:
        """Return the file, created if it is missing. Raises StoreError."""
        if path == MEMORY:
            return cls(path, path, None)
        try:
            place = trusted_path(path)
            with suppress(FileExistsError):
                # An existing file is never opened outside SQLite: closing it would release SQLite's locks.
                os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), OWNER_ONLY))
            return cls(path, str(place), file_id(str(place)))
        except UntrustedPathError as error:
            raise StoreError(f"{error.message}: {error.hint}") from None
        except OSError as error:
            raise StoreError(f"`{path}`: {(error.strerror or str(error)).lower()}") from None

    @property
    def uri(self) -> str:
        """The URI with which SQLite opens the file without creating one."""
        return f"{Path(self.place).as_uri()}?mode=rw" if self.id is not None else self.place

    def check(self) -> None:
        """Raise StoreLossError if the file is missing or was replaced, because other processes would not see writes to
        it.
        """
        if self.id is None:
            return
        try:
            there = file_id(self.place)
        except FileNotFoundError:
            raise StoreLossError(f"`{self.path}` was removed while in use; {RESTART}") from None
        except OSError as error:
            raise StoreError(f"`{self.path}`: {(error.strerror or str(error)).lower()}") from None
        if there != self.id:
            raise StoreLossError(f"`{self.path}` was replaced by another file while in use; {RESTART}")

    def check_mode(self) -> None:
        """Raise WriteRefusedError if the file was made read-only. SQLite does not notice that, because an open
        connection can still write to the file.
        """
        effective = os.access in os.supports_effective_ids
        if self.id is not None and not os.access(self.place, os.W_OK, effective_ids=effective):
            raise WriteRefusedError(f"`{self.path}` is not writable by this user")


def check_store_file(path: str) -> None:
    """Check that a file exists and is a store, without creating or changing anything. Raises StoreError."""
    if not os.path.exists(path):
        raise StoreError(f"`{path}` does not exist")
    try:
        uri = f"{Path(path).absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"`{path}`: {error}") from None
    if not layout:
        raise StoreError(f"`{path}` is not a store of policyengine")


def file_id(place: str) -> FileId:
    """Return device and inode of a file. Raises OSError."""
    found = os.stat(place)
    return found.st_dev, found.st_ino
