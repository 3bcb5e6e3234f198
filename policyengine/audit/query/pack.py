"""Packs a log into one Parquet file, with the fields of each record in columns, and each line unchanged. A malformed
line has no fields."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policyengine.audit.files import is_packed
from policyengine.audit.query.duck import EXTRA, TEMPORARY, DuckReader, has_duckdb
from policyengine.audit.query.query import QueryError
from policyengine.audit.query.source import LogFiles, check_logs
from policyengine.audit.query.stream import SkippedLines
from policyengine.install_hints import install_command

OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class PackResult:
    """The number of lines, and the sizes of the log and of the packed file in bytes."""

    lines: int
    before: int
    after: int
    skipped: SkippedLines


@contextmanager
def named_as(file: Path, folder: Path) -> Iterator[None]:
    """Replace the name of a temporary file in the folder by `file` in errors."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and str(error.filename).startswith(str(folder / TEMPORARY)):
            error.filename = str(file)
        raise


def pack_log(paths: Sequence[Path], to: Path) -> PackResult:
    """Pack logs with their rotated files into the file `to`, which is written completely or not at all. Raises OSError,
    QueryError."""
    if not has_duckdb():
        raise QueryError("logs are packed with DuckDB", install_command(EXTRA))
    if to.exists() and not (to.is_file() and is_packed(to)):
        raise QueryError(f"`{to}` exists and is not a packed log", "name another file")
    files = LogFiles.find(paths)
    if files.packed:
        raise QueryError(f"`{files.packed[0]}` is already packed", "name the logs that `serve --log` wrote")
    target = to.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(to))
    with named_as(to, target.parent), DuckReader.open(files.logs, beside=target.parent) as reader:
        made = reader.folder / "packed.parquet"
        lines = reader.pack(made)
        check_logs(reader.skipped)
        made.chmod(OWNER_ONLY)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(target)
    return PackResult(lines, files.size, target.stat().st_size, reader.skipped)
