"""Rotates the log: when the current file is full or old, it is renamed and a new file begins.

Several processes share the files. The first process that finds rotation due renames the file; others continue writing
to it until their next check, within a second, and lose no line. The renamed file is compressed at the next rotation or
later, when no process writes to it.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

_LOG = logging.getLogger("policyengine")
TIMESTAMP_FORMAT = "%Y%m%dT%H%M%S.%fZ"
TIMESTAMP_PATTERN = r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z"
COMPRESS_AFTER_SECONDS = 60.0  # seconds after which no process writes to a renamed file
COMPRESSED_SUFFIX = ".gz"
UNFINISHED_SUFFIX = ".gz.new"
UNFINISHED_MAX_AGE_SECONDS = 3_600.0  # seconds after which an unfinished file is treated as abandoned
OWNER_ONLY = 0o600
LATER = 60.0  # seconds after a failed rotation until the next attempt
LOCK_SECONDS, LOCK_RETRY_SECONDS = 0.05, 0.001  # wait for a process that renames or deletes a file
MAX_BUSY_SECONDS = 10.0  # seconds without the lock after which this is reported


@dataclass(frozen=True, slots=True)
class Rotation:
    """When to rotate. A file of `size` bytes is full. A file whose last write was in an earlier period of `age` seconds
    is old (86,400: on an earlier day, in UTC). `keep` is the number of rotated files to keep (default: all); with
    `compress`, rotated files are compressed."""

    size: int | None = None
    age: int | None = None
    keep: int | None = None
    compress: bool = False

    @property
    def wanted(self) -> bool:
        return self.size is not None or self.age is not None

    def due(self, found: os.stat_result, now: float) -> bool:
        """Return whether rotation is due; the file's modification time is its last write."""
        full = self.size is not None and found.st_size >= self.size
        return full or (self.age is not None and found.st_size > 0 and now // self.age > found.st_mtime // self.age)


NO_ROTATION = Rotation()


@contextmanager
def rotation_lock(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of a folder, without which no process that writes a log there renames its files. Every user who can
    read the folder can hold the lock, so a server does not wait long for it. Raises BlockingIOError if another process
    holds the lock for `seconds`, and other OSErrors.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wait_for_lock(folder, time.monotonic() + seconds)
        yield
    finally:
        os.close(folder)  # releases the lock


def wait_for_lock(file: int, until: float) -> None:
    """Lock a file before a time of the monotonic clock. Raises BlockingIOError if that time has passed, and other
    OSErrors."""
    import fcntl

    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(LOCK_RETRY_SECONDS)


def rename_aside(path: Path, now: float) -> Path:
    """Rename the file to a name with the current time, or a later time if the clock was set back, so that it is the
    last of the rotated files. Raises OSError."""
    moment = datetime.fromtimestamp(now, UTC)
    if rotated := rotated_files(path):
        with suppress(OverflowError):
            moment = max(moment, named_time(path, rotated[-1]) + timedelta(microseconds=1))
    new = path.with_name(f"{path.name}.{moment.strftime(TIMESTAMP_FORMAT)}")
    path.rename(new)
    return new


def named_time(path: Path, rotated: Path) -> datetime:
    """Return the time in the name of a rotated file. Raises ValueError if the name has no time."""
    written = rotated.name.removeprefix(f"{path.name}.").removesuffix(COMPRESSED_SUFFIX)
    return datetime.strptime(written, TIMESTAMP_FORMAT).replace(tzinfo=UTC)


def rotated_files(path: Path) -> list[Path]:
    """Return the rotated files, oldest first."""
    named = re.compile(rf"{re.escape(path.name)}\.({TIMESTAMP_PATTERN})(?:\.gz)?")
    return sorted(one for one in path.parent.iterdir() if named.fullmatch(one.name) and has_time(path, one))


def is_plausible(rotated: Path) -> bool:
    """Return whether a file can be a rotated file, which is a regular file that is not empty. Its name may have a time
    in the future, because the clock was set back. Raises OSError."""
    with suppress(FileNotFoundError):  # another process deleted or compressed it
        found = rotated.stat()
        return stat.S_ISREG(found.st_mode) and found.st_size > 0
    return False


def has_time(path: Path, rotated: Path) -> bool:
    """Return whether the name of a file has a valid time."""
    try:
        named_time(path, rotated)
    except ValueError:
        return False
    return True


def delete_file(file: Path) -> bool:
    """Delete a file and return True. Raises OSError."""
    file.unlink(missing_ok=True)
    return True


def tidy(path: Path, rotation: Rotation, delete: Callable[[Path], bool] = delete_file) -> None:
    """Delete surplus files, and compress files to which no process writes. A failure is logged, and the work is retried
    later. `delete` deletes a surplus file, or returns False if it must be kept for now."""
    try:
        files = list(filter(is_plausible, rotated_files(path)))
        for old in files_to_delete(files, rotation.keep):
            if delete(old):
                files.remove(old)
        for file in files[:-1] if rotation.compress else ():
            compress(file)
    except OSError as error:
        _LOG.error(
            "cannot delete or compress old files of the decision log `%s`: %s", path, error,
            extra={"event": "log_rotation"},
        )  # fmt: skip


def files_to_delete(files: Sequence[Path], keep: int | None) -> list[Path]:
    """Return the oldest of the ordered `files` beyond `keep`. A file that is being compressed exists twice for a
    moment, but counts once.
    """
    names = list(dict.fromkeys(file.name.removesuffix(COMPRESSED_SUFFIX) for file in files))
    old = set() if keep is None else set(names[: max(0, len(names) - keep)])
    return [file for file in files if file.name.removesuffix(COMPRESSED_SUFFIX) in old]


def compress(path: Path) -> None:
    """Compress a file atomically, so that readers never see part of it or miss it. Raises OSError."""
    before = path.stat()
    if path.suffix == COMPRESSED_SUFFIX or time.time() - before.st_mtime < COMPRESS_AFTER_SECONDS:
        return
    new = path.with_name(path.name + UNFINISHED_SUFFIX)
    with suppress(FileNotFoundError):
        if time.time() - new.stat().st_mtime > UNFINISHED_MAX_AGE_SECONDS:  # abandoned by a dead process
            new.unlink()
    try:
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    except FileExistsError:
        return  # another process compresses it
    try:
        with (
            os.fdopen(opened, "wb") as to,
            gzip.GzipFile("", "wb", fileobj=to, mtime=0) as packed,
            path.open("rb") as of,
        ):
            shutil.copyfileobj(of, packed, 1 << 20)
        with new.open("rb") as written:
            os.fsync(written.fileno())
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        if path.stat().st_size == before.st_size:
            new.rename(path.with_name(path.name + COMPRESSED_SUFFIX))
            path.unlink()
    finally:
        new.unlink(missing_ok=True)


def tidy_in_thread(path: Path, rotation: Rotation, delete: Callable[[Path], bool]) -> Thread:
    """Tidy in a thread, so that no decision waits for it."""
    thread = Thread(target=tidy, args=(path, rotation, delete), name="log rotation", daemon=True)
    thread.start()
    return thread
