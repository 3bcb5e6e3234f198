"""Divides logs into parts that different processes read: files, and ranges of large files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from msgspec import Struct

from policyengine.audit.files import GZIP, PIECE_BYTES, bounded_lines, is_packed, log_files, read_lines
from policyengine.behavior.bulk.log_lines import LearnedLine, LineDecoder, decode_lines
from policyengine.bounded_files import ByteStream, begins_with

SPLIT_BYTES: Final = 64 * 2**20
WHOLE: Final = -1  # the end of a part that is a whole file
KEPT_MESSAGES: Final = 3


class LogSplit(Struct, frozen=True, array_like=True):
    """A part of a log: the number of the log, the number of the part in the log, the file (`named` is its path as
    given, `path` its absolute path), and the range of bytes in which the lines of the part begin. A compressed or
    packed file is one part that ends at WHOLE."""

    log: int
    number: int
    named: str
    path: str
    start: int = 0
    end: int = WHOLE


class SplitNotes(Struct, array_like=True):
    """The number of lines of a part, how many of them were skipped, and the first messages about skipped lines."""

    lines: int = 0
    skipped: int = 0
    messages: list[str] = []


def split_logs(logs: Sequence[Path], size: int = SPLIT_BYTES) -> list[LogSplit]:
    """Return the parts of logs with their rotated files, in order. Raises OSError."""
    found: list[LogSplit] = []
    for log, path in enumerate(logs):
        number = 0
        for file in log_files(path):
            for start, end in split_file(file, size):
                found.append(LogSplit(log, number, str(file), os.path.abspath(file), start, end))
                number += 1
    return found


def split_file(file: Path, size: int) -> list[tuple[int, int]]:
    """Return the ranges of a file in bytes. Raises OSError."""
    if begins_with(file, GZIP) or is_packed(file):
        return [(0, WHOLE)]
    end = file.stat().st_size
    return [(start, min(start + size, end)) for start in range(0, end, size)]


class RangeStream:
    """The lines of a file that begin in a range of bytes. `lines` counts the lines that were at least partly read."""

    def __init__(self, file: ByteStream, start: int, end: int) -> None:
        self._file, self._place, self._end, self._in_line = file, start, end, False
        self.lines = 0

    def readline(self, size: int = -1, /) -> bytes:
        """Return the next piece of a line; empty at the end of the range."""
        if not self._in_line:
            if self._place >= self._end:
                return b""
            self.lines += 1
        piece = self._file.readline(size)
        self._place += len(piece)
        self._in_line = not piece.endswith(b"\n")
        return piece

    def read(self, size: int = -1, /) -> bytes:
        raise NotImplementedError


def read_split(split: LogSplit, decoder: LineDecoder, notes: SplitNotes) -> Iterator[LearnedLine]:
    """Yield what is learned from the lines of a part, and complete the notes about it. Lines are numbered from the
    beginning of the part. Raises OSError."""
    named = Path(split.named)

    def tell(message: str) -> None:
        notes.skipped += 1
        if len(notes.messages) < KEPT_MESSAGES:
            notes.messages.append(message)

    if split.end == WHOLE:
        yield from decode_lines(read_lines(Path(split.path), tell), named, decoder, tell)
        return
    with open(split.path, "rb") as file:
        stream = RangeStream(file, seek_line(file, split.start), split.end)
        yield from decode_lines(bounded_lines(stream, named, tell), named, decoder, tell)
        notes.lines = stream.lines


def seek_line(file: IO[bytes], start: int) -> int:
    """Move a file to the first line that begins at the offset `start` or after it, and return the offset of
    this line."""
    place = max(start - 1, 0)
    file.seek(place)
    while start and (piece := file.readline(PIECE_BYTES)):
        place += len(piece)
        if piece.endswith(b"\n"):
            break
    return place


def renumber(message: str, split: LogSplit, before: int) -> str:
    """Return a message about a part with the number of the line in the file, of which `before` lines are in earlier
    parts."""
    for name in (split.path, split.named):
        number, colon, rest = message.removeprefix(f"{name}:").partition(":")
        if message.startswith(f"{name}:") and colon and number.isdigit():
            return f"{split.named}:{int(number) + before}:{rest}"
    return message.replace(split.path, split.named)
