"""Reads the lines of a packed log, the Parquet file that `audit pack` writes, in batches."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path


class PackedLogError(OSError):
    """The error for a packed log that cannot be read; `hint` says how to correct that."""

    def __init__(self, path: Path, message: str, hint: str | None) -> None:
        super().__init__(errno.EINVAL, message, str(path))
        self.message, self.hint = message, hint


def read_packed_lines(path: Path, kind: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers in the log, or only the lines of a kind. Raises OSError, PackedLogError."""
    from policyengine.audit.query.duck import DuckReader
    from policyengine.audit.query.query import QueryError

    try:
        with DuckReader.open((), (path,), threads=1) as reader:
            for number, malformed, line in reader.lines(kind):
                if line is not None:
                    yield number, line.encode() if malformed else line.encode() + b"\n"
    except QueryError as error:
        raise PackedLogError(path, error.message, error.hint) from None
