"""Halts in a store: one numbered document with all halts, which every change replaces."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from threading import Lock
from typing import Final, Protocol

from policyengine.stores.base import StoreFullError

MAX_HALTS_BYTES: Final = 2**20
MAX_HALTS_NUMBER: Final = 2**53 - 1  # above this, numbers in Lua are not exact
CELL_BYTES: Final = 8
SLOT_CELLS: Final = 2 + MAX_HALTS_BYTES // CELL_BYTES


class HaltStore(Protocol):
    """Keeps the document of halts. Each method may raise StoreError."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes may change the document. Never raises."""
        ...

    def load(self, known: int) -> tuple[int, bytes]:
        """Return the number of the document, which is 0 if there is no document, and the document. It is empty if its
        number is `known`."""
        ...

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        """Replace the document, unless the stored document has this number or a higher number or, with `after`, a
        number other than `after`. Return whether it was replaced."""
        ...


class MemoryHalts:
    """The document in the memory of this process."""

    is_shared = False

    def __init__(self) -> None:
        self._lock, self._saved = Lock(), (0, b"")

    def load(self, known: int) -> tuple[int, bytes]:
        number, document = self._saved
        return number, b"" if number == known else document

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        with self._lock:
            if not is_next(self._saved[0], number, after):
                return False
            self._saved = number, document
            return True


class WorkerHalts:
    """The document in memory that forked workers share. It must be created before they are forked.

    A writer fills the slot that no reader uses, and then publishes it by its version; a reader that was overtaken reads
    again. A worker that is killed while it writes leaves the published document as it was.
    """

    is_shared = True

    def __init__(self) -> None:
        self._memory = memoryview(mmap(-1, CELL_BYTES * (1 + 2 * SLOT_CELLS)))
        self._cells = self._memory.cast("Q")
        self._lock, (self._file, path) = Lock(), tempfile.mkstemp()
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)

    def load(self, known: int) -> tuple[int, bytes]:
        while True:
            version = self._cells[0]
            number, document = self._read(version)
            if self._cells[0] == version:
                return number, b"" if number == known else document

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        if len(document) > MAX_HALTS_BYTES:
            raise StoreFullError(f"the halts have more than {MAX_HALTS_BYTES:,} bytes")
        with self._exclusive():
            version = self._cells[0] + 1
            if not is_next(self._read(version - 1)[0], number, after):
                return False
            first = slot_of(version)
            self._cells[first], self._cells[first + 1] = number, len(document)
            start = (first + 2) * CELL_BYTES
            self._memory[start : start + len(document)] = document
            self._cells[0] = version
            return True

    def _read(self, version: int) -> tuple[int, bytes]:
        first = slot_of(version)
        start = (first + 2) * CELL_BYTES
        return self._cells[first], bytes(self._memory[start : start + self._cells[first + 1]])

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude the other threads of this process, and the other workers; the system frees the lock of a killed
        worker."""
        from fcntl import LOCK_EX, LOCK_UN, lockf

        with self._lock:
            lockf(self._file, LOCK_EX)
            try:
                yield
            finally:
                lockf(self._file, LOCK_UN)


def slot_of(version: int) -> int:
    """Return the first cell of the slot of a version."""
    return 1 + (version & 1) * SLOT_CELLS


def is_next(known: int, number: int, after: int | None) -> bool:
    """Return whether a document may replace the known one."""
    return known < number and after in (None, known)
