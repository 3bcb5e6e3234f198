"""Files and streams read within bounds: no device, pipe or file takes more memory than what is asked of it may have."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

MAX_SETTINGS_BYTES = 2**20  # bytes of what people write by hand: settings, tokens, maps of tables


class ByteStream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...


def read_bounded(path: Path | str, max_bytes: int) -> bytes:
    """A whole file; no device and no pipe, which may never end. Raises OSError."""
    file: BinaryIO
    with os.fdopen(open_regular(path), "rb") as file:
        return read_stream(file, max_bytes)


def begins_with(path: Path | str, beginning: bytes) -> bool:
    """Raises OSError."""
    file: BinaryIO
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(len(beginning)) == beginning


def open_regular(path: Path | str) -> int:
    """A descriptor of a file; no pipe is waited for. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        check_regular(os.fstat(opened).st_mode)
    except OSError:
        os.close(opened)
        raise
    return opened


def check_regular(mode: int) -> None:
    """Raises OSError for what is no file."""
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "this is no file, but a device or a pipe")


def read_stream(stream: ByteStream, max_bytes: int) -> bytes:
    """All that is left of a stream. Raises OSError where that is too much."""
    data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large_error(f"this holds more than {max_bytes:,} bytes")
    return data


def read_lines(stream: ByteStream, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream as they come, with their numbers. Raises OSError where one is too long."""
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            raise too_large_error(f"line {number:,} holds more than {max_bytes:,} bytes")
        yield number, line


def too_large_error(message: str) -> OSError:
    return OSError(errno.EFBIG, message)
