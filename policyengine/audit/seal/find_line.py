"""Finds the line of a decision in a sealed log and the index of its entry, in most cases by reading only a few lines.

The ID of a decision begins with its time, and lines are nearly in order of time, so a binary search over the first
lines of tiles finds it; the file `places` has the offsets of these lines. The found line proves nothing until its
inclusion proof holds.
"""

from __future__ import annotations

import mmap
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from policyengine.audit.files import log_files
from policyengine.audit.seal.sealed_files import (
    PLACE_BYTES,
    SealState,
    ends_with_line,
    identity,
    open_plain,
    read_state,
)
from policyengine.audit.seal.tiles import MAX_INDEX_BYTES, read_file
from policyengine.runtime.ids import ULID, time_of

LINE_TIME = re.compile(rb'\{"v":[0-9]+,"time":"([0-9TZ:.-]+)"')  # matches the beginning of a line
MAX_MILLISECONDS = 253_402_300_799_999  # the end of the year 9999; a ULID can be later
# The number of lines from the start of a tile that are searched for a time.
MAX_UNTIMED_LINES = 100
# The number of tiles before and after the time of the decision that are searched, because lines are not exactly in
# order of time.
NEAR_TILES = 4
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line without its newline, its file, and its offset in that file in bytes. `index` is the index of its entry, or
    None if the line is not sealed.
    """

    line: bytes
    file: Path
    offset: int
    index: int | None


class LogIndex:
    """An index of a sealed log: the place in its files where each tile begins. Creating an index raises OSError and
    SealError."""

    def __init__(self, log: Path, folder: Path) -> None:
        self.files = log_files(log)
        self._state = read_state(folder)
        self._starts = read_numbers(folder / "starts", 8)
        self._places = read_numbers(folder / "places", PLACE_BYTES // 2)
        self._shift = self._file_shift(self._state)
        self._maps: dict[Path, mmap.mmap | bytes] = {}

    def _file_shift(self, state: SealState | None) -> int | None:
        """Return the number of the oldest remaining file among all files that were ever sealed, from 0; None if it is
        unknown. Raises OSError and SealError.
        """
        if state is None:
            return None
        last = bytes.fromhex(state.last)
        for at, path in enumerate(self.files):
            if identity(path) == (state.device, state.inode):
                return state.file - at
        for at, path in reversed(list(enumerate(self.files))):
            if ends_with_line(path, state.offset, last, state.last_bytes):
                return state.file - at
        return None

    def content(self, path: Path) -> mmap.mmap | bytes:
        """Return the content of a file, unpacked. Raises OSError, SealError."""
        if path not in self._maps:
            opened = open_plain(path)
            with open(opened, "rb") as file:
                empty = not file.seek(0, 2)
                self._maps[path] = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[path]

    def find(self, decision: str) -> FoundLine | None:
        """Return the line of a decision, or None if no file has it. Raises OSError, SealError."""
        return self._find_by_time(decision) or next(self._scan(decision), None)

    def _tile_place(self, tile: int) -> tuple[Path, int] | None:
        """Return the file and offset of the first line of a tile, or None if the file was deleted."""
        if self._shift is None:
            return None
        number = self._places[2 * tile + 1] - self._shift
        return (self.files[number], self._places[2 * tile]) if 0 <= number < len(self.files) else None

    def _tile_time(self, tile: int) -> bytes:
        """Return the time of the first line of the tile that has a time; `b""` if the searched lines have no time or
        the file was deleted. Raises OSError, SealError.
        """
        place = self._tile_place(tile)
        if place is None:
            return b""
        content, at = self.content(place[0]), place[1]
        for _ in range(MAX_UNTIMED_LINES):
            if found := LINE_TIME.match(content, at):
                return found[1]
            at = content.find(b"\n", at) + 1
            if not at:
                break
        return b""

    def _find_by_time(self, wanted: str) -> FoundLine | None:
        if not ULID.fullmatch(wanted):
            return None
        tiles, moment = len(self._places) // 2, ulid_time(wanted)
        low, high = 0, tiles
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._tile_time(middle) <= moment else (low, middle)
        begin, end = max(0, low - NEAR_TILES), min(tiles, low + NEAR_TILES)
        for tile in reversed(range(begin, end)):
            for path, start, stop in self._tile_parts(tile, tiles):
                if found := self._find_between(path, start, stop, wanted):
                    return found
        return None

    def _tile_parts(self, tile: int, tiles: int) -> Iterator[tuple[Path, int, int]]:
        """Yield the parts of files from the first line of a tile to the first line of the next tile, or to the end of
        the log. Raises OSError, SealError.
        """
        place = self._tile_place(tile)
        if place is None:
            return
        following = self._tile_place(tile + 1) if tile + 1 < tiles else None
        last = self.files[-1] if following is None else following[0]
        for path in self.files[self.files.index(place[0]) : self.files.index(last) + 1]:
            start = place[1] if path == place[0] else 0
            stop = following[1] if following is not None and path == following[0] else len(self.content(path))
            yield path, start, stop

    def _scan(self, wanted: str) -> Iterator[FoundLine]:
        for path in reversed(self.files):
            if found := self._find_between(path, 0, len(self.content(path)), wanted):
                yield found

    def _find_between(self, path: Path, begin: int, end: int, wanted: str) -> FoundLine | None:
        """Return the line of the decision between two offsets, or None. A line that contains the ID is parsed, because
        a request can contain the same text, but only once, because it can contain the text many times. Raises OSError,
        SealError.
        """
        content, mark, at = self.content(path), b'"id":"' + wanted.encode() + b'"', begin
        while (at := content.find(mark, at, end)) >= 0:
            start = content.rfind(b"\n", 0, at) + 1
            stop = content.find(b"\n", at)
            line = content[start : len(content) if stop < 0 else stop]
            if decision_id(line) == wanted:
                return FoundLine(line, path, start, self.index_of(path, start))
            if stop < 0:
                return None
            at = stop
        return None

    def is_newer(self, path: Path) -> bool:
        """Return whether a file is newer than all files with sealed lines."""
        return self._shift is not None and self.files.index(path) + self._shift >= len(self._starts)

    def line(self, path: Path, number: int) -> FoundLine | None:
        """Return a line of a file by its number, from 1, or None if the file has fewer lines. Raises OSError,
        SealError.
        """
        start = line_start(self.content(path), number)
        return None if start is None else self.line_from(path, start)

    def line_from(self, path: Path, start: int) -> FoundLine:
        """Return the line that begins at an offset. Raises OSError, SealError."""
        content = self.content(path)
        stop = content.find(b"\n", start)
        line = content[start : len(content) if stop < 0 else stop]
        return FoundLine(line, path, start, self.index_of(path, start))

    def lines_with(self, path: Path, mark: bytes) -> Iterator[FoundLine]:
        """Yield the lines of a file that contain these bytes. Raises OSError, SealError."""
        content, at = self.content(path), 0
        while (at := content.find(mark, at)) >= 0:
            yield self.line_from(path, content.rfind(b"\n", 0, at) + 1)
            at = content.find(b"\n", at) + 1 or len(content)

    def index_of(self, path: Path, offset: int) -> int | None:
        """Return the index of the entry of the line at an offset, counted from the nearest tile before that offset;
        None if the file was not sealed. Raises OSError, SealError.
        """
        if self._shift is None:
            return None
        number = self.files.index(path) + self._shift
        if not 0 <= number < len(self._starts):
            return None
        index, begin = self._starts[number], 0
        places = TilePlaces(self._places)
        at = bisect_right(places, (number, offset)) - 1
        if at >= 0 and places[at][0] == number:
            index, begin = 256 * at, places[at][1]
        return index + count_newlines(self.content(path), begin, offset)


class TilePlaces(Sequence[tuple[int, int]]):
    """The place of the first line of each tile, in order: the number of its file, and its offset."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __getitem__(self, at: int) -> tuple[int, int]:  # type: ignore[override]  # slices are not needed
        return self._numbers[2 * at + 1], self._numbers[2 * at]


def read_numbers(path: Path, width: int) -> Sequence[int]:
    """Return the big-endian 64-bit numbers of a file, from its complete records of `width` bytes; no numbers if the
    file is missing. Raises OSError.
    """
    try:
        raw = read_file(path, MAX_INDEX_BYTES)
    except FileNotFoundError:
        return ()
    from array import array

    found = array("Q", raw[: len(raw) // width * width])
    found.byteswap()
    return found


def line_start(content: mmap.mmap | bytes, number: int) -> int | None:
    """Return the offset at which a line begins, by its number from 1, or None if there are fewer lines."""
    start, left = 0, number - 1
    while left and start < len(content):
        count = count_newlines(content, start, start + READ_BYTES)
        if count < left:
            start, left = start + READ_BYTES, left - count
            continue
        for _ in range(left):
            start = content.find(b"\n", start) + 1
        left = 0
    return start if start < len(content) and not left else None


def count_newlines(content: mmap.mmap | bytes, begin: int, end: int) -> int:
    return content[begin:end].count(b"\n")


def decision_id(line: bytes) -> str | None:
    """Return the ID of the decision in a line, or None if the line is not of a decision."""
    try:
        tree = msgspec.json.decode(line)
        return tree["decision"]["id"]  # type: ignore[no-any-return]
    except (msgspec.DecodeError, ValueError, RecursionError, LookupError, TypeError):
        return None


def ulid_time(ulid: str) -> bytes:
    """Return the time of a ULID in the format of log lines, as the last instant of its millisecond."""
    seconds, milliseconds = divmod(min(time_of(ulid) or 0, MAX_MILLISECONDS), 1_000)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}999Z".encode()
