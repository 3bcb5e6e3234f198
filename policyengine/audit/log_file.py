"""The file of a log: appends whole lines, reopens the file if it was moved, and rotates it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from threading import RLock, Thread, current_thread
from time import monotonic, time

from policyengine.audit.files import NO_ROOM, ends_with_newline, file_identity, write_beginning
from policyengine.audit.fsync import FileSyncer
from policyengine.audit.rotation import LATER, MAX_BUSY_SECONDS, Rotation, rename_aside, rotation_lock, tidy_in_thread
from policyengine.trusted_files import UntrustedPathError, open_trusted

_LOG = logging.getLogger("policyengine")
MAX_COUNTED_BYTES = 1_048_576
CHECK_INTERVAL_SECONDS = 1.0  # seconds between two checks whether the file was moved
OWNER_ONLY = 0o600
CLOSED = -1
MAX_TIDY_SECONDS = 2.0  # seconds to wait for the deletion of old files when a process ends


class DecisionLogError(Exception):
    """The error for a log that cannot be used; `hint` says how to correct that."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint = message, hint


class RotatingLogFile:
    """The current file of a log, which only its owner may read. Threads and forked processes may share it.

    `rotation` says when to rotate the file, and `delete` deletes a rotated file. A new file starts with the lines in
    `beginning`. Raises OSError, and DecisionLogError if the path is not a regular file.
    """

    def __init__(self, path: Path, rotation: Rotation, syncing: FileSyncer, delete: Callable[[Path], bool]) -> None:
        self.path, self.rotation, self._syncing, self._delete = path, rotation, syncing, delete
        self.beginning = b""
        self._room = inf if rotation.size is None else float(rotation.size)  # bytes until the next size check
        self._later, self._busy_since = 0.0, inf
        self._tidying: Thread | None = None
        self._guard = RLock()  # tests delete old files in the thread that rotates
        self._due = self._looked()
        self._file = open_log(path)
        self._place, self._size = file_identity(self._file), 0
        self._ends_torn = not ends_with_newline(self._file)

    @property
    def mode(self) -> int:
        """The mode of the file. Raises OSError."""
        return os.fstat(self._file).st_mode

    def append(self, line: bytes, *, at_once: bool = False) -> None:
        """Write a line in one call. `at_once` forces it to disk in this thread if lines are forced. Raises OSError."""
        if not self.append_all((line,), at_once=at_once):
            raise NO_ROOM

    def append_all(self, lines: Sequence[bytes], *, at_once: bool = False) -> int:
        """Write lines in one call, as `append` does. Return how many of them were written, counted from the first:
        fewer than all if the disk is full. If it raises OSError, no line counts as written."""
        if self._room <= 0:
            self._due = 0.0
        if monotonic() >= self._due:
            self._look()
        whole = lines[0] if len(lines) == 1 else b"".join(lines)
        if self._ends_torn:
            whole = b"\n" + whole
        length = len(whole)
        self._room -= length
        count, written = len(lines), os.write(self._file, whole)
        if written != length:
            count, self._ends_torn = whole_lines(lines, length - written)
        else:
            self._ends_torn = False
        if count:
            self._syncing.wrote(self._file, at_once=at_once)
        return count

    def flush(self) -> None:
        """Wait until written lines are on disk, if the system can force them."""
        with suppress(OSError):
            os.fsync(self._file)

    def finish_tidying(self) -> None:
        """Wait for a short time until old files are deleted, because lines are written about them."""
        if self._tidying is not None and self._tidying is not current_thread():
            self._tidying.join(MAX_TIDY_SECONDS)

    def reopen(self) -> None:
        """Reopen the file before the next line is written, because the file was moved."""
        self._due = 0.0

    def close(self) -> None:
        """Close the file, once. A later write raises OSError: it must not reach another file, which may have got the
        same file descriptor."""
        closed, self._file = self._file, CLOSED
        if closed != CLOSED:
            os.close(closed)

    def holds(self, line: bytes) -> bool:
        """Return whether the file already contains the line, at its beginning or, if the parent process wrote it, near
        its end.
        """
        if os.pread(self._file, len(line), 0) == line:
            return True
        size = os.fstat(self._file).st_size
        return line in os.pread(self._file, len(line) + MAX_COUNTED_BYTES, max(0, size - len(line) - MAX_COUNTED_BYTES))

    @staticmethod
    def _looked() -> float:
        return monotonic() + CHECK_INTERVAL_SECONDS

    def _look(self) -> None:
        """Reopen the file if it was moved, and rotate it if rotation is due."""
        with self._guard:
            if monotonic() < self._due:
                return
            self._due = self._looked()
            if self._is_in_place() and not (self.rotation.wanted and self._rotate()):
                room = inf if self.rotation.size is None else float(self.rotation.size - self._size)
                self._room = room if room > 0 else inf  # rotation failed; the next check tries it again
                return
            try:
                self._open_new_file()
            except OSError:
                if not os.fstat(self._file).st_nlink:  # lines in a deleted file would be lost
                    self._due = 0.0
                raise

    def _open_new_file(self) -> None:
        """Open a new file, which begins with the entity rows. Raises OSError."""
        self._syncing.sync_old_file(self._file)
        try:
            opened = open_log(self.path)
        except DecisionLogError as error:
            raise OSError(errno.EINVAL, error.message) from None
        try:
            write_beginning(opened, self.beginning)
            os.dup2(opened, self._file, inheritable=False)  # atomic: no thread writes to a closed file
            self._place, self._ends_torn = file_identity(self._file), False
            self._size = os.fstat(self._file).st_size
            self._room = inf if self.rotation.size is None else float(max(1, self.rotation.size - self._size))
        finally:
            os.close(opened)

    def _rotate(self) -> bool:
        """Rotate the file. Return whether this or another process rotated it; if not, writing continues in the same
        file."""
        if not self._is_due() or monotonic() < self._later:
            return False
        try:
            with rotation_lock(self.path):
                self._busy_since = inf
                if file_identity(self.path) == self._place and self._is_due():
                    rename_aside(self.path, time())
        except FileNotFoundError:
            return True
        except BlockingIOError:  # another process holds the lock, perhaps to rename the file
            self._busy_since = min(self._busy_since, monotonic())
            if monotonic() - self._busy_since >= MAX_BUSY_SECONDS:
                self._cannot_rotate("another process holds the lock of its folder")
            return False
        except (OSError, ValueError, OverflowError) as error:  # a failed rotation must not deny a decision
            self._cannot_rotate(str(error))
            return False
        self._tidying = tidy_in_thread(self.path, self.rotation, self._delete)
        return True

    def _cannot_rotate(self, why: str) -> None:
        self._later = monotonic() + LATER
        _LOG.error(
            "the decision log `%s` cannot be rotated, and continues to grow: %s",
            self.path,
            why,
            extra={"event": "log_rotation"},
        )

    def _is_due(self) -> bool:
        """Return whether rotation is due; never if the file has only entity rows."""
        found = os.fstat(self._file)
        return found.st_size > len(self.beginning) and self.rotation.due(found, time())

    def _is_in_place(self) -> bool:
        """Return whether the path still names the open file, and the file was not truncated."""
        with suppress(FileNotFoundError):
            before, self._size = self._size, os.fstat(self._file).st_size
            return file_identity(self.path) == self._place and self._size >= before
        return False


def whole_lines(lines: Sequence[bytes], missing: int) -> tuple[int, bool]:
    """Return how many of the lines were written completely, if the last `missing` bytes were not written, and whether
    the file may now end within a line.
    """
    count = len(lines)
    while count and missing > 0:
        count -= 1
        missing -= len(lines[count])
    return count, missing < 0 or not count


def open_log(path: Path) -> int:
    """Open the file. Raises OSError, and DecisionLogError if it is not a regular file."""
    try:
        opened = open_trusted(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, OWNER_ONLY)
    except UntrustedPathError as error:
        raise DecisionLogError(error.message, error.hint) from None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise DecisionLogError(
            f"`{path}` is not a regular file",
            "use a regular file: in any other kind of file, lines of several processes may be mixed",
        )
    return opened
