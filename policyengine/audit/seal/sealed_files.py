"""The files of a log as the sealer reads them, and the place up to which they are sealed."""

from __future__ import annotations

import gzip
import os
import stat
import tempfile
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from policyengine.audit.files import open_log_file
from policyengine.audit.seal.tiles import FILE_MODE, WRITE_FLAGS, read_file

FOLDER_SUFFIX = ".tlog"
PLACE_BYTES = 16  # a record in the file `places`: the offset of the first line of a tile, and the number of its file
MAX_UNPACKED_BYTES = 1 << 40
START_BYTES = 8  # size of a record in the file `starts`: the index of the first entry of a file


class SealError(Exception):
    """The error for a log that cannot be sealed; the message says why."""


class LateMark(msgspec.Struct, frozen=True, array_like=True):
    """A rotated file that is watched for late lines. It was sealed up to byte `offset`; the sealer left it when the
    tree had `size` entries. `tail` is the digest of the last bytes before `offset`, in hex, because the system gives
    the inode of a deleted file to another file. It is empty in a state of an earlier version.
    """

    device: int
    inode: int
    offset: int
    size: int
    tail: str = ""


class SealState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a log is sealed: up to `size` entries. `file` is the number of the last sealed file among all files that
    were ever sealed, from 0. Its first entry has the index `first`, and it is sealed up to byte `offset`. `last` is the
    digest of its last sealed line, and `last_bytes` the length of that line. `late` are earlier files that are watched
    for late lines.
    """

    size: int
    file: int
    first: int
    offset: int
    device: int
    inode: int
    last: str = ""
    last_bytes: int = 0
    late: tuple[LateMark, ...] = ()


@dataclass(slots=True)
class BegunLine:
    """The beginning of a long line at an offset of the current file; `length` bytes of the line were read, and `digest`
    covers them."""

    offset: int
    digest: Any = field(default_factory=sha256)
    length: int = 0


def default_folder(log: Path) -> Path:
    """Return the default folder of the seal, next to the log."""
    return log.with_name(log.name + FOLDER_SUFFIX)


def read_state(folder: Path) -> SealState | None:
    """Return the state, or None if nothing was sealed yet. Raises SealError, OSError."""
    path = folder / "state"
    try:
        return msgspec.json.decode(read_file(path), type=SealState)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError) as error:
        raise SealError(f"`{path}` is damaged: {error}") from None


def identity(path: Path | int) -> tuple[int, int]:
    """Return the device and inode of a file. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def is_at(path: Path, here: tuple[int, int]) -> bool:
    """Return whether the file with this device and inode is at the path. Raises OSError."""
    try:
        return identity(path) == here
    except FileNotFoundError:
        return False


def open_plain(path: Path, most: int | None = None) -> int:
    """Open a file for reading; a compressed file is unpacked into a temporary file. Raises OSError, and SealError if it
    is not a regular file.
    """
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise SealError(f"`{path}` is not a regular file")
    if os.pread(opened, 2, 0) != b"\x1f\x8b":
        return opened
    os.close(opened)
    with open_log_file(path) as packed, tempfile.TemporaryFile() as unpacked:
        left = MAX_UNPACKED_BYTES if most is None else most
        while left > 0 and (piece := packed.read(min(left, 1 << 20))):
            left -= len(piece)
            unpacked.write(piece)
        unpacked.flush()
        return os.dup(unpacked.fileno())


def ends_with_line(path: Path, offset: int, digest: bytes, length: int) -> bool:
    """Return whether the bytes before the offset are the line with this digest, followed by a newline. Raises OSError,
    SealError.
    """
    if offset == 0 or not digest:
        return offset == 0
    try:
        opened = open_plain(path, offset)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False  # another kind of file with the name of a rotated file
    try:
        return has_line(opened, offset, digest, length)
    finally:
        os.close(opened)


def has_line(file: int, offset: int, digest: bytes, length: int) -> bool:
    """Return whether the bytes of an open file before the offset are the line with this digest, followed by a newline.
    Raises OSError.
    """
    if offset == 0 or not digest:
        return offset == 0
    if os.fstat(file).st_size < offset:
        return False
    begin = max(0, offset - length - 1)
    if begin and os.pread(file, 1, begin - 1) != b"\n":
        return False
    found, at = sha256(), begin
    while at < offset - 1 and (data := os.pread(file, min(1 << 20, offset - 1 - at), at)):
        found.update(data)
        at += len(data)
    return os.pread(file, 1, offset - 1) == b"\n" and found.digest() == digest


def write_at(path: Path, offset: int, raw: bytes) -> None:
    """Write bytes at an offset of a file. Raises OSError."""
    opened = os.open(path, WRITE_FLAGS, FILE_MODE)
    try:
        os.pwrite(opened, raw, offset)
    finally:
        os.close(opened)


def stat_or_none(path: Path) -> os.stat_result | None:
    """Return the status of a file, or None if it does not exist. Raises OSError."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def lock_file(path: Path, *, exclusive: bool) -> int:
    """Open a file and lock it; return its descriptor, or -1 if another process holds it. Raises OSError."""
    import fcntl

    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        fcntl.flock(opened, fcntl.LOCK_NB | (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH))
    except BlockingIOError:
        os.close(opened)
        return -1
    return opened
