"""Watches rotated files for late lines, which a process wrote after the sealer had left the file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic, time

from policyengine.audit.files import log_files
from policyengine.audit.seal.options import SealStatement
from policyengine.audit.seal.sealed_files import LateMark, identity, is_at, open_plain

INCOMPLETE_SECONDS = 5.0  # seconds after which an incomplete line at the end of a rotated file is treated as final
LATE_SECONDS = 60.0  # seconds for which a rotated file is watched for late lines
MAX_LATE_BYTES = 1 << 24  # maximum bytes of late lines to read in one call
MAX_LATE_LINES = 800  # maximum lines in one statement, because a text in a log line has at most 65,536 characters
TAIL_BYTES = 4_096  # more than a short line, so that the bytes differ between files of the log
LATE_FILES = 32  # maximum rotated files that are watched for late lines


@dataclass(slots=True)
class LateFile:
    """A rotated file that was sealed up to byte `offset`; the sealer left it when the tree had `size` entries. `file`
    is its descriptor, open for reading, and `since` the monotonic time at which it was left. With `is_old`, an
    incomplete line at its end is final, because no process writes to the file.
    """

    file: int
    offset: int
    size: int
    since: float
    is_old: bool


class LateFiles:
    """The rotated files of the log that the sealer has left and watches for late lines. `write_statement` writes a
    signed line about the seal, and returns whether it was written.
    """

    def __init__(self, log: Path, write_statement: Callable[[SealStatement, Mapping[str, object]], bool]) -> None:
        self._log, self._write_statement = log, write_statement
        self._files: deque[LateFile] = deque()

    def close(self) -> None:
        """Close the files."""
        for late in self._files:
            os.close(late.file)
        self._files.clear()

    def restore(self, marks: Iterable[LateMark]) -> None:
        """Watch the files of these marks, which an earlier run watched. Raises OSError, SealError."""
        files = [path for path in log_files(self._log) if path != self._log]
        for mark in marks:
            path = next((path for path in files if is_at(path, (mark.device, mark.inode))), None)
            if path is None:
                continue
            file, is_old = open_plain(path), time() - path.stat().st_mtime >= INCOMPLETE_SECONDS
            if mark.tail in ("", tail_digest(file, mark.offset)):
                self._files.append(LateFile(file, mark.offset, mark.size, monotonic(), is_old))
            else:
                os.close(file)  # another file with the same inode

    def marks(self) -> tuple[LateMark, ...]:
        """Return the marks of the watched files for `restore`. Raises OSError."""
        return tuple(
            LateMark(*identity(late.file), late.offset, late.size, tail_digest(late.file, late.offset))
            for late in self._files
        )

    def watch(self, file: int, offset: int, size: int, finished: float) -> None:
        """Watch a file that the sealer leaves when the tree has `size` entries, unless the file is still the current
        file of the log, because it was truncated. If `finished` is 0, no process writes to the file. Raises OSError.
        """
        found = os.fstat(file)
        if is_at(self._log, (found.st_dev, found.st_ino)):
            return
        is_old = finished <= 0 or time() - found.st_mtime >= INCOMPLETE_SECONDS
        self._files.append(LateFile(os.dup(file), offset, size, monotonic(), is_old))
        if len(self._files) > LATE_FILES:
            os.close(self._files.popleft().file)

    def seal_lines(self) -> None:
        """Seal the late lines of each file with a statement in the current file. Raises OSError."""
        while self._files and monotonic() - self._files[0].since > LATE_SECONDS:
            os.close(self._files.popleft().file)
        for late in self._files:
            data = read_late_lines(late)
            if data:
                os.fdatasync(late.file)
                digests = [sha256(line).hexdigest() for line in data.removesuffix(b"\n").split(b"\n")]
                members = {"size": late.size, "offset": late.offset, "digests": digests}
                if self._write_statement(SealStatement.LATE_LINES, members):
                    late.offset += len(data)


def tail_digest(file: int, offset: int) -> str:
    """Return the digest of the last TAIL_BYTES bytes of a file before an offset, in hex. Raises OSError."""
    begin = max(0, offset - TAIL_BYTES)
    return sha256(os.pread(file, offset - begin, begin)).hexdigest()


def read_late_lines(late: LateFile) -> bytes:
    """Return at most MAX_LATE_LINES lines of a file that were not sealed. The last line may have no newline, if its
    process was killed while it wrote the line. Raises OSError.
    """
    left = os.fstat(late.file).st_size - late.offset
    if left <= 0:
        return b""
    data = os.pread(late.file, min(left, MAX_LATE_BYTES), late.offset)
    is_over = late.is_old or monotonic() - late.since >= INCOMPLETE_SECONDS
    if not is_over or left > MAX_LATE_BYTES:
        data = data[: data.rfind(b"\n") + 1]  # the rest of the last line may still be written
    lines = data.split(b"\n", MAX_LATE_LINES)
    return data if len(lines) <= MAX_LATE_LINES else data[: len(data) - len(lines[-1])]
