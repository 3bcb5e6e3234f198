"""Opens logs for questions, with the streaming reader, or with DuckDB if the logs are large or packed."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from policyengine.audit.files import is_packed, log_files
from policyengine.audit.query.duck import DuckReader, can_name, has_duckdb
from policyengine.audit.query.query import QueryError
from policyengine.audit.query.stream import Progress, SkippedLines, StreamReader

STREAMED_BYTES = 64 * 2**20  # up to this size, the streaming reader is used, because DuckDB takes time to start
Reader: TypeAlias = StreamReader | DuckReader


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The files of logs: JSON Lines files with their rotated files, oldest first, and packed files."""

    logs: tuple[Path, ...]
    packed: tuple[Path, ...]

    @staticmethod
    def find(paths: Sequence[Path]) -> LogFiles:
        """Find the files of the logs at these paths. Raises OSError, QueryError."""
        logs: list[Path] = []
        packed: list[Path] = []
        for path in paths:
            if path.exists() and is_packed(regular_file(path)):
                packed.append(path)
            else:
                logs += map(regular_file, log_files(path))
        return LogFiles(tuple(dict.fromkeys(logs)), tuple(dict.fromkeys(packed)))

    @property
    def size(self) -> int:
        """The size of the JSON Lines files on disk, in bytes."""
        return sum(file.stat().st_size for file in self.logs)

    @property
    def with_duckdb(self) -> bool:
        """Whether DuckDB reads the files."""
        large = self.size > STREAMED_BYTES and has_duckdb()
        return bool(self.packed) or (large and all(map(can_name, self.logs)))


def regular_file(path: Path) -> Path:
    """Return the path if it names a regular file. Raises OSError, QueryError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise QueryError(f"`{path}` is not a regular file")
    return path


@contextmanager
def open_reader(files: LogFiles, progress: Progress, *, in_order: bool = False) -> Iterator[Reader]:
    """Open a reader; `in_order` asks for records in the order of the log. Raises OSError, QueryError."""
    if not files.with_duckdb or (in_order and not files.packed):
        yield StreamReader(files.logs, progress)
        return
    with DuckReader.open(files.logs, files.packed) as reader:
        yield reader


def check_logs(skipped: SkippedLines) -> None:
    """Check that each file with lines has a line of a decision log. Raises QueryError."""
    if (file := skipped.foreign) is not None:
        raise QueryError(f"`{file}` is not a decision log", "name a file that `serve --log` or `audit pack` wrote")
