"""The files of one log: the current file, and files that this program or logrotate has rotated."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO

from policyengine.audit.rotation import TIMESTAMP_FORMAT, TIMESTAMP_PATTERN
from policyengine.bounded_files import ByteStream, begins_with
from policyengine.time_formats import parse_time

Report = Callable[[str], None]
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some log shippers add a byte order mark to a file or a line
PIECE_BYTES = 2**20  # maximum bytes of a line to read in one call
MAX_LINE_BYTES = 2**29  # large enough for the line with the rows of a large entity store
NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FIRST_TIME = re.compile(rb'\s*\{\s*"v":\s*[0-9]+,\s*"time":\s*"([0-9TZ:.-]+)"')
FIRST_TIME_BYTES = 256
ROTATED_BY_LOGROTATE = r"\.[0-9]{1,5}|-[0-9]{8}(?:-?[0-9]{1,10})?"


def log_files(path: Path) -> list[Path]:
    """Return the files, oldest first. A rotated file can also be named directly. Raises OSError if there is no file."""
    ours = rf"\.(?P<time>{TIMESTAMP_PATTERN})"
    named = re.compile(rf"{re.escape(path.name)}(?:{ours}|(?P<rest>{ROTATED_BY_LOGROTATE}))(?:\.gz)?")
    rotated: list[tuple[float, Path, str]] = []
    with suppress(OSError):
        rotated.extend(find_rotated(path.parent, named))
    if any(rest for *_, rest in rotated) and not all(rest for *_, rest in rotated):
        # Names with a time and names with a number have no common order, and a copy has another modification time.
        rotated = [(first_time(file, time), file, rest) for time, file, rest in rotated]
    if not rotated or path.exists():
        begins_with(path, b"")
    ordered = in_named_order([file for _, file, _ in sorted(rotated)], {file: rest for _, file, rest in rotated})
    return without_duplicates([*ordered, *([path] if path.exists() else [])])


def find_rotated(folder: Path, named: re.Pattern[str]) -> Iterator[tuple[float, Path, str]]:
    """Yield the time of each rotated file, its path, and the suffix that logrotate added to its name, or `""`. Raises
    OSError.
    """
    for file in folder.iterdir():
        if name := named.fullmatch(file.name):
            with suppress(FileNotFoundError, ValueError):  # renamed or deleted in the meantime, or without a valid time
                found = file.stat()
                if stat.S_ISREG(found.st_mode):
                    yield rotation_time(found, name["time"]), file, name["rest"] or ""


def rotated_from(path: Path) -> Path | None:
    """Return the log to which a file belongs if it is named like a rotated file, otherwise None."""
    named = re.fullmatch(rf"(.+?)(?:\.{TIMESTAMP_PATTERN}|{ROTATED_BY_LOGROTATE})(?:\.gz)?", path.name)
    return None if named is None else path.with_name(named[1])


def in_named_order(files: Sequence[Path], numbered: Mapping[Path, str]) -> list[Path]:
    """Order the files that logrotate renamed by the numbers or dates in their names, because a copy has another
    modification time. Other files keep their positions."""
    found = list(files)
    for sign, backwards in ((".", True), ("-", False)):  # `.1` is the newest file
        places = [at for at, file in enumerate(files) if numbered[file].startswith(sign)]
        some = [files[at] for at in places]
        some.sort(key=lambda file: (named_number(numbered[file]), file.name), reverse=backwards)
        for at, file in zip(places, some, strict=True):
            found[at] = file
    return found


def named_number(rest: str) -> tuple[int, int]:
    """Return the number in `.7`, or the date and the number after it in `-20270104-12`."""
    date, more = rest[1:9], rest[9:].lstrip("-")
    return (int(date), int(more or 0)) if rest[0] == "-" else (int(rest[1:]), 0)


def rotation_time(found: os.stat_result, named: str | None) -> float:
    """Return when a file was rotated, in seconds since 1970: the time in its name or, without a time in the name, its
    modification time. Raises ValueError.
    """
    return found.st_mtime if named is None else parse_timestamp(named)


def first_time(file: Path, otherwise: float) -> float:
    """Return the time of the first line of a file, in seconds since 1970; `otherwise` if the line has no time."""
    found = None
    with suppress(OSError):
        status = file.stat()
        found = read_first_time(file, status.st_ino, status.st_mtime_ns)
    return otherwise if found is None else found


@lru_cache(maxsize=4_096)
def read_first_time(file: Path, inode: int, changed: int) -> float | None:
    """Return the time of the first line of a file; None if the line has no time. Raises OSError."""
    with suppress(EOFError, zlib.error), open_log_file(file) as opened:
        found = FIRST_TIME.match(opened.read(FIRST_TIME_BYTES))
        time = None if found is None else parse_time(found[1].decode())
        return None if time is None else time.timestamp()
    return None


@lru_cache(maxsize=4_096)
def parse_timestamp(text: str) -> float:
    """Return the time of the timestamp in the name of a rotated file, in Unix seconds. Raises ValueError."""
    return datetime.strptime(text, TIMESTAMP_FORMAT).replace(tzinfo=UTC).timestamp()


def without_duplicates(files: list[Path]) -> list[Path]:
    """Remove the compressed copy of each file that is still being compressed."""
    names = {one.name for one in files}
    return [one for one in files if not (one.suffix == ".gz" and one.name.removesuffix(".gz") in names)]


def is_packed(path: Path) -> bool:
    """Return whether a file is a packed log, as `audit pack` writes it. Raises OSError."""
    return begins_with(path, PARQUET)


def read_lines(path: Path, tell: Report) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers, also of a packed log. Raises OSError if the file cannot be read at all."""
    if is_packed(path):
        from policyengine.audit.packed_log import read_packed_lines

        yield from read_packed_lines(path)
        return
    with open_log_file(path) as file:
        try:
            yield from bounded_lines(file, path, tell)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            tell(f"{path}: skipped the rest of this file: {error}")


def open_log_file(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if begins_with(path, GZIP) else path.open("rb")


def bounded_lines(file: ByteStream, path: Path, tell: Report) -> Iterator[tuple[int, bytes]]:
    """Yield lines up to the length limit; long lines that do not begin like JSON are not read into memory."""
    number = 0
    while line := file.readline(PIECE_BYTES):
        number += 1
        whole = read_rest_of_line(file, line) if len(line) == PIECE_BYTES and not line.endswith(b"\n") else line
        if whole is None:
            tell(f"{path}:{number}: skipped this line: it is too long for a log")
        elif whole.strip():
            yield number, whole.removeprefix(BYTE_ORDER_MARK)


def read_rest_of_line(file: ByteStream, begun: bytes) -> bytes | None:
    """Return the whole line, or None if the line is too long or does not begin like a record."""
    pieces, size, fits = [begun], len(begun), begun.startswith(b"{")
    while not pieces[-1].endswith(b"\n") and (piece := file.readline(PIECE_BYTES)):
        size += len(piece)
        fits = fits and size <= MAX_LINE_BYTES
        if not fits:
            pieces.clear()
        pieces.append(piece)
    return b"".join(pieces) if fits else None


# ── Writing ───────────────────────────────────────────────────────────────────────────────────


def file_identity(file: Path | int) -> tuple[int, int]:
    """Return the device and the inode, which identify the file under every name."""
    found = os.stat(file)
    return found.st_dev, found.st_ino


def write_beginning(file: int, lines: bytes) -> None:
    """Write the first lines of a new file, unless another process has written to it. Raises OSError."""
    if lines and os.pread(file, len(lines), 0) != lines and os.write(file, lines) != len(lines):
        raise NO_ROOM


def ends_with_newline(file: int) -> bool:
    """Return whether the last line is complete; a killed process may have left part of a line."""
    size = os.fstat(file).st_size
    return not size or os.pread(file, 1, size - 1) == b"\n"
