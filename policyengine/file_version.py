"""Whether a file stayed as it was while it was read: half of what somebody is writing may mean something else."""

from __future__ import annotations

import os
from typing import NamedTuple

FILE_CHANGED = "this file changed while it was read"
FILE_CHANGED_HINT = "read it again once nobody writes to it; who writes beside it and renames is never seen half-way"


class FileVersion(NamedTuple):
    """What every write to a file changes, but two of one size in the same tick of the system's clock."""

    size: int
    written: int  # in nanoseconds

    @classmethod
    def of(cls, descriptor: int) -> FileVersion:
        """Raises OSError."""
        found = os.fstat(descriptor)
        return cls(found.st_size, found.st_mtime_ns)
