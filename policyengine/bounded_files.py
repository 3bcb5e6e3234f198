"""Bounded reads of files and streams, so that no device, pipe or file can exhaust memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_SETTINGS_BYTES = 2**20  # maximum bytes of files that people write: settings, tokens, table maps


class ByteStream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...


def missing_file_hint(path: object, error: OSError) -> str | None:
    """Return a hint for a file that does not exist; None if its path is absolute."""
    missing = isinstance(error, FileNotFoundError) and not os.path.isabs(str(path))
    return "paths are relative to the current folder" if missing else None


def read_bounded(path: Path | str, max_bytes: int) -> bytes:
    """Read a whole regular file. Raises OSError if it is longer than `max_bytes`, and for folders, devices and pipes:
    devices and pipes may never end.
    """
    file: BinaryIO
    with os.fdopen(open_regular(path), "rb") as file:
        return read_stream(file, max_bytes)


def begins_with(path: Path | str, beginning: bytes) -> bool:
    """Return whether a regular file begins with these bytes. Raises OSError."""
    file: BinaryIO
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(len(beginning)) == beginning


def open_regular(path: Path | str) -> int:
    """Open a regular file and return its descriptor, without waiting for a pipe. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        check_regular(os.fstat(opened).st_mode)
    except OSError:
        os.close(opened)
        raise
    return opened


def check_regular(mode: int) -> None:
    """Check that the mode belongs to a regular file. Raises OSError."""
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "this is a device or a pipe, not a regular file")


def read_stream(stream: ByteStream, max_bytes: int) -> bytes:
    """Read the rest of a stream. Raises OSError if it is longer than `max_bytes`."""
    data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large_error(f"this contains more than {max_bytes:,} bytes")
    return data


def read_lines(stream: ByteStream, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield each line as it arrives, with its number, counted from 1. Raises OSError if a line is longer than
    `max_bytes`.
    """
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            raise too_large_error(f"line {number:,} contains more than {max_bytes:,} bytes")
        yield number, line


def too_large_error(message: str) -> OSError:
    return OSError(errno.EFBIG, message)
