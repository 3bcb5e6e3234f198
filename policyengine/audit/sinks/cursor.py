"""The durable cursor of a sink: the place in the files of the log up to which the sink has sent."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from policyengine.audit.files import log_files
from policyengine.audit.rotation import COMPRESSED_SUFFIX, TIMESTAMP_PATTERN

FILE_MODE, FOLDER_MODE = 0o600, 0o700
CURSOR_SUFFIX = ".cursor"
MAX_LISTINGS = 20  # listings before giving up, if files are renamed in the meantime


class CursorError(Exception):
    """The error for a cursor that cannot be read or written; the message says why."""


class PendingFile(msgspec.Struct, frozen=True, array_like=True):
    """A rotated file with unsent lines. `lines` is its number of lines, so that a loss can be counted."""

    name: str
    device: int
    inode: int
    lines: int


class SinkCursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """The position of a sink: it has sent the file `name` up to byte `offset`, in total `lines` lines of this file.
    `last` is the digest of the last line before the cursor, and `last_bytes` its length. `sent` and `lost` count lines
    since the cursor was created. `after` is the last rotated file before this file that has the time of rotation in its
    name."""

    name: str
    device: int
    inode: int
    offset: int
    lines: int = 0
    last: str = ""
    last_bytes: int = 0
    pending: tuple[PendingFile, ...] = ()
    sent: int = 0
    lost: int = 0
    after: str = ""


def cursor_path(folder: Path, sink: str) -> Path:
    return folder / f"{sink}{CURSOR_SUFFIX}"


def read_cursor(folder: Path, sink: str) -> SinkCursor | None:
    """Return the cursor, or None if the sink has none yet. Raises CursorError."""
    path = cursor_path(folder, sink)
    try:
        return msgspec.json.decode(path.read_bytes(), type=SinkCursor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CursorError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (msgspec.DecodeError, ValueError):
        raise CursorError(f"`{path}` is damaged: delete it, and the sink begins at the end of the log") from None


def write_cursor(folder: Path, sink: str, cursor: SinkCursor) -> None:
    """Replace the cursor atomically, and force it to disk. Raises CursorError."""
    path, raw = cursor_path(folder, sink), msgspec.json.encode(cursor)
    new = path.with_name(f".{path.name}.new")
    try:
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            if os.write(opened, raw) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(opened)
        finally:
            os.close(opened)
        new.rename(path)
    except OSError as error:
        raise CursorError(f"`{path}` cannot be written: {(error.strerror or str(error)).lower()}") from None


def base_name(path: Path | str) -> str:
    """Return the name of a file without the suffix of its compression."""
    return Path(path).name.removesuffix(COMPRESSED_SUFFIX)


def last_rotated(log: Path, files: Sequence[LogFile]) -> str:
    """Return the name of the last file that has the time of rotation in its name; an empty name without such a file."""
    named = re.compile(rf"{re.escape(log.name)}\.{TIMESTAMP_PATTERN}")
    return max((file.base_name for file in files if named.fullmatch(file.base_name)), default="")


class LogFile(NamedTuple):
    """A file of a log when it was listed; its path may name another file later."""

    path: Path
    device: int
    inode: int
    size: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode

    @property
    def base_name(self) -> str:
        return base_name(self.path)


def list_log_files(log: Path) -> list[LogFile]:
    """Return the files of a log, oldest first. A file that is renamed in the meantime is neither missed nor listed
    twice. Raises OSError."""
    problem = OSError(errno.EAGAIN, "its files are renamed too often to list them")
    for _ in range(MAX_LISTINGS):
        before = identity_of(log)
        try:
            files = [find_file(path) for path in log_files(log)]
        except FileNotFoundError as error:
            problem = error
            continue
        if before == identity_of(log):
            return files
    raise problem


def find_file(path: Path) -> LogFile:
    """Return the file at a path. Raises OSError."""
    found = path.stat()
    return LogFile(path, found.st_dev, found.st_ino, found.st_size)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, or None if the file does not exist."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def cursor_place(files: Sequence[LogFile], log: Path, cursor: SinkCursor) -> int | None:
    """Return the index of the file with the cursor, which has the same inode, or is a rotated file of the same name
    that may be compressed now. None if it is not among the files."""
    for at, file in enumerate(files):
        if file.identity == (cursor.device, cursor.inode) and file.size >= cursor.offset:
            return at
    named = cursor.name != log.name
    return next((at for at, file in enumerate(files) if named and file.base_name == base_name(cursor.name)), None)


def measure_lag(log: Path, cursor: SinkCursor | None) -> int:
    """Return how many bytes of the log are after the cursor; a compressed file counts with its compressed size. Raises
    OSError."""
    files = list_log_files(log)
    place = None if cursor is None else cursor_place(files, log, cursor)
    size = sum(file.size for file in files[0 if place is None else place :])
    return max(0, size - (cursor.offset if cursor is not None and place is not None else 0))
