"""A log of many files: when the one that is written to is full or old, it gets another name, and a new one begins.

Several processes share the files. Whoever finds that it is time renames the file; what others write to it until they
look again, within a second, is in it all the same. It is compressed no sooner than a rotation later, when nobody does.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

_LOG = logging.getLogger("policyengine")
TIMESTAMP_FORMAT = "%Y%m%dT%H%M%S.%fZ"
TIMESTAMP_PATTERN = r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z"
COMPRESS_AFTER_SECONDS = 60.0  # seconds after which nobody writes to a file that was renamed
COMPRESSED_SUFFIX = ".gz"
UNFINISHED_SUFFIX = ".gz.new"
UNFINISHED_MAX_AGE_SECONDS = 3_600.0  # seconds after which nobody finishes it
OWNER_ONLY = 0o600
LATER = 60.0  # seconds until it is tried again where it cannot be done


@dataclass(frozen=True, slots=True)
class Rotation:
    """A file of `size` bytes is full; one of another period of `age` seconds is old (86,400: of another day, in UTC).

    `keep` is how many old files are kept, all of them without it; `compress` makes them smaller.
    """

    size: int | None = None
    age: int | None = None
    keep: int | None = None
    compress: bool = False

    @property
    def wanted(self) -> bool:
        return self.size is not None or self.age is not None

    def due(self, found: os.stat_result, now: float) -> bool:
        """Whether the file has had enough; it was written to last when its time says."""
        full = self.size is not None and found.st_size >= self.size
        return full or (self.age is not None and found.st_size > 0 and now // self.age > found.st_mtime // self.age)


NO_ROTATION = Rotation()


@contextmanager
def rotation_lock(path: Path) -> Iterator[None]:
    """Of all processes that write in its folder nobody else renames meanwhile. Raises OSError."""
    import fcntl

    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)  # which lets others go on


def rename_aside(path: Path, now: float) -> Path:
    """Gives the file the name of that moment, or of the next that is free. Raises OSError."""
    moment = datetime.fromtimestamp(now, UTC)
    taken = {name.removesuffix(COMPRESSED_SUFFIX) for name in os.listdir(path.parent)}
    name = f"{path.name}.{moment.strftime(TIMESTAMP_FORMAT)}"
    while name in taken:
        moment = moment.fromtimestamp(moment.timestamp() + 1e-6, UTC)
        name = f"{path.name}.{moment.strftime(TIMESTAMP_FORMAT)}"
    path.rename(path.with_name(name))
    return path.with_name(name)


def rotated_files(path: Path) -> list[Path]:
    """The files that were set aside, oldest first."""
    named = re.compile(rf"{re.escape(path.name)}\.({TIMESTAMP_PATTERN})(?:\.gz)?")
    return sorted(one for one in path.parent.iterdir() if named.fullmatch(one.name))


def tidy(path: Path, rotation: Rotation) -> None:
    """Removes what is too much, and compresses what nobody writes to any more. What cannot be done stays for later."""
    try:
        files = rotated_files(path)
        for old in files_to_delete(files, rotation.keep):
            old.unlink(missing_ok=True)
            files.remove(old)
        for file in files[:-1] if rotation.compress else ():
            compress(file)
    except OSError as error:
        _LOG.error(
            "old files of the decision log `%s` could not be looked after: %s", path, error,
            extra={"event": "log_rotation"},
        )  # fmt: skip


def files_to_delete(files: Sequence[Path], keep: int | None) -> list[Path]:
    """The oldest of `files`, which are in order, of which there are more than `keep`. One that is being compressed is
    there twice for a moment, and counts once."""
    names = list(dict.fromkeys(file.name.removesuffix(COMPRESSED_SUFFIX) for file in files))
    old = set() if keep is None else set(names[: max(0, len(names) - keep)])
    return [file for file in files if file.name.removesuffix(COMPRESSED_SUFFIX) in old]


def compress(path: Path) -> None:
    """In one step, so that no reader sees half a file, nor misses one. Raises OSError."""
    before = path.stat()
    if path.suffix == COMPRESSED_SUFFIX or time.time() - before.st_mtime < COMPRESS_AFTER_SECONDS:
        return
    new = path.with_name(path.name + UNFINISHED_SUFFIX)
    with suppress(FileNotFoundError):
        if time.time() - new.stat().st_mtime > UNFINISHED_MAX_AGE_SECONDS:  # whoever began it is gone
            new.unlink()
    try:
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    except FileExistsError:
        return  # another process does
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


def tidy_in_thread(path: Path, rotation: Rotation) -> Thread:
    """In a thread: no decision waits for it."""
    thread = Thread(target=tidy, args=(path, rotation), name="log rotation", daemon=True)
    thread.start()
    return thread
