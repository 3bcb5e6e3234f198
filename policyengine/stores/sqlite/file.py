"""The file of a SQLite store: made for its owner alone, and noticed when it is removed or replaced while it is used."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policyengine.stores.base import StoreError, StoreLossError, WriteRefusedError
from policyengine.trusted_files import UntrustedPathError, trusted_path

MEMORY = ":memory:"
OWNER_ONLY = 0o600  # SQLite makes what it writes beside it of the same mode
RESTART = "a restart begins with what is there then"
FileId = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """`path` as it was given, `place` without links. `id` is None of what is in memory alone."""

    path: str
    place: str
    id: FileId | None

    @classmethod
    def of(cls, path: str) -> Self:
        """Made where it is not there. Raises StoreError."""
        if path == MEMORY:
            return cls(path, path, None)
        try:
            place = trusted_path(path)
            with suppress(FileExistsError):
                # One that is there is never opened beside SQLite: closing it would let go of its locks.
                os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), OWNER_ONLY))
            return cls(path, str(place), file_id(str(place)))
        except UntrustedPathError as error:
            raise StoreError(f"{error.message}: {error.hint}") from None
        except OSError as error:
            raise StoreError(f"`{path}`: {(error.strerror or str(error)).lower()}") from None

    @property
    def uri(self) -> str:
        """By which SQLite opens it, and makes none."""
        return f"{Path(self.place).as_uri()}?mode=rw" if self.id is not None else self.place

    def check(self) -> None:
        """Raises StoreLossError where another file, or none, is in its place: what is written to it nobody finds."""
        if self.id is None:
            return
        try:
            there = file_id(self.place)
        except FileNotFoundError:
            raise StoreLossError(f"`{self.path}` was removed while it was used; {RESTART}") from None
        except OSError as error:
            raise StoreError(f"`{self.path}`: {(error.strerror or str(error)).lower()}") from None
        if there != self.id:
            raise StoreLossError(f"`{self.path}` was replaced by another file while it was used; {RESTART}")

    def check_mode(self) -> None:
        """Raises WriteRefusedError where it was made read-only: what has it open could still write to it."""
        effective = os.access in os.supports_effective_ids
        if self.id is not None and not os.access(self.place, os.W_OK, effective_ids=effective):
            raise WriteRefusedError(f"`{self.path}` may not be written to by this user")


def file_id(place: str) -> FileId:
    """Raises OSError."""
    found = os.stat(place)
    return found.st_dev, found.st_ino
