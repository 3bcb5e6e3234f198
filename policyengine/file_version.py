"""Detects that a file changes while it is read, because a partially written file can have another meaning."""

from __future__ import annotations

import os
from typing import NamedTuple

FILE_CHANGED = "this file changed while it was being read"
FILE_CHANGED_HINT = "try again; to prevent this, write to a temporary file and rename it"


class FileVersion(NamedTuple):
    """The size and time of a file. Every write changes the size or the time, except a write of equal size within the
    same tick of the system clock.
    """

    size: int
    written: int  # nanoseconds

    @classmethod
    def of(cls, descriptor: int) -> FileVersion:
        """Return the version of an open file. Raises OSError."""
        found = os.fstat(descriptor)
        return cls(found.st_size, found.st_mtime_ns)
