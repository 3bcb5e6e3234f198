"""Reads the lines of a log after a cursor while processes write to the log, even if its files are rotated, compressed
or deleted."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic, time

import msgspec

from policyengine.audit.seal.sealed_files import SealError, ends_with_line, identity, open_plain
from policyengine.audit.sinks.cursor import (
    CursorError,
    LogFile,
    PendingFile,
    SinkCursor,
    base_name,
    cursor_place,
    identity_of,
    last_rotated,
    list_log_files,
    read_cursor,
    write_cursor,
)
from policyengine.audit.sinks.transport import is_directory_start

READ_BYTES = 262_144
PEEK_BYTES = 1_048_576  # bytes in which a line after refused lines is searched
MAX_LINE_BYTES = 16_777_216  # a longer line is counted as lost, unless it has entity rows, which are not sent
FINISHED_SECONDS = 3.0  # since the last change of a rotated file, to which no process writes for longer than one second
MAX_WAIT_SECONDS = 30.0  # until the follower leaves a rotated file that still grows
LATE_FILES = 8  # maximum rotated files that are watched for late lines


@dataclass(slots=True)
class LeftFile:
    """A rotated file, open for reading, that was sent up to `offset`."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class LineRange:
    """Complete lines after the cursor, without their newlines; they end before byte `end` of the file. With `lost`, the
    only line was too long, and is replaced by an empty line. With `late`, the lines are in this rotated file, which the
    follower had left."""

    lines: Sequence[bytes]
    end: int
    lost: bool = False
    late: LeftFile | None = None


class LogFollower:
    """The reader of one sink. `clock` is compared with the times of files, to see whether they are finished. Not
    thread-safe."""

    def __init__(self, log: Path, folder: Path, sink: str, clock: Callable[[], float] = time) -> None:
        """Continue at the cursor, which must exist. Raises OSError, CursorError."""
        self.log, self._folder, self._sink, self._clock = log, folder, sink, clock
        self._file, self._late = -1, deque[LeftFile]()
        self._seen, self._since, self._moved_at = (0, 0, 0), 0.0, 0.0
        cursor = read_cursor(folder, sink)
        if cursor is None:
            raise CursorError(f"the sink `{sink}` has no cursor in `{folder}`")
        self.cursor = cursor
        self._resume()

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, *(late.file for late in self._late)):
            if file >= 0:
                os.close(file)
        self._file = -1
        self._late.clear()

    # ── Reading ───────────────────────────────────────────────────────────────────────────────

    def read(self, most: int, most_bytes: int) -> LineRange | None:
        """Return at least one and up to `most` lines, with about `most_bytes` bytes in total, or None if there are no
        new lines. Raises OSError, CursorError, SealError.
        """
        if self._was_truncated():
            self._open_copy()
        while (found := self._read_here(most, most_bytes)) is None:
            following = self._following_file()
            if following is None:
                return self._read_late()
            self._leave(following)
        return found

    def _read_here(self, most: int, most_bytes: int) -> LineRange | None:
        start = self.cursor.offset
        data = os.pread(self._file, min(most_bytes, READ_BYTES), start)
        cut = data.rfind(b"\n")
        if cut < 0:
            return self._read_long_line(start) if len(data) >= min(most_bytes, READ_BYTES) else None
        lines = data[:cut].split(b"\n", most)[:most]
        return LineRange(lines, start + sum(map(len, lines)) + len(lines))

    def peek(self, passed: LineRange) -> Sequence[bytes]:
        """Return complete lines after these lines in the same file, without their newlines. Raises OSError."""
        if passed.late is not None:
            return ()
        data = os.pread(self._file, PEEK_BYTES, passed.end)
        return data.split(b"\n")[:-1]

    def _read_long_line(self, start: int) -> LineRange | None:
        pieces, length, found = [], 0, -1
        while found < 0 and (data := os.pread(self._file, READ_BYTES, start + length)):
            found = data.find(b"\n")
            piece = data if found < 0 else data[:found]
            length += len(piece)
            if length <= MAX_LINE_BYTES:
                pieces.append(piece)
        if found < 0:
            return None
        if length <= MAX_LINE_BYTES:
            return LineRange([b"".join(pieces)], start + length + 1)
        return LineRange([b""], start + length + 1, lost=not is_directory_start(pieces[0]))

    def _read_late(self) -> LineRange | None:
        for late in self._late:
            data = os.pread(late.file, READ_BYTES, late.offset)
            cut = data.rfind(b"\n")
            if cut >= 0:
                return LineRange(data[:cut].split(b"\n"), late.offset + cut + 1, late=late)
        return None

    # ── The cursor ────────────────────────────────────────────────────────────────────────────

    def commit(self, passed: LineRange, sent: int, lost: int = 0) -> None:
        """Move the cursor past these lines; `sent` of them were sent, and `lost` were lost. Raises CursorError."""
        cursor = self.cursor
        counts = {"sent": cursor.sent + sent, "lost": cursor.lost + lost}
        if passed.late is not None:
            passed.late.offset = passed.end
            self._write(msgspec.structs.replace(cursor, **counts))
            return
        last, length = passed.lines[-1], passed.end - cursor.offset - 1
        digest = "" if len(passed.lines) == 1 and not last and length else sha256(last).hexdigest()
        self._write(msgspec.structs.replace(
            cursor, offset=passed.end, lines=cursor.lines + len(passed.lines), last=digest, last_bytes=len(last),
            **counts,
        ))  # fmt: skip

    def _write(self, cursor: SinkCursor) -> None:
        write_cursor(self._folder, self._sink, cursor)
        self.cursor = cursor

    # ── Which file ────────────────────────────────────────────────────────────────────────────

    def _resume(self) -> None:
        """Open the file with the cursor, whatever its name is now. If that file is gone, count its unsent lines as lost
        and open the file that followed it. Raises OSError and SealError.
        """
        files, cursor = list_log_files(self.log), self.cursor
        last = bytes.fromhex(cursor.last)
        place = cursor_place(files, self.log, cursor)
        # Several files may begin with the same line, such as the line of entity rows, and an inode may be reused. So
        # the file with the cursor is the first file with the line before the cursor among those that were rotated after
        # `cursor.after`.
        since = [file for file in files if last_rotated(self.log, [file]) > cursor.after]
        for file in [*since, *([files[place]] if place is not None else []), *reversed(files)]:
            if has_line_before(file, cursor, last):
                self._open(file)
                return
        if place is not None and not last:  # the last line was too long to check
            self._open(files[place])
            return
        self._leave(files[self._first_unread(files)], vanished=True)

    def _first_unread(self, files: Sequence[LogFile]) -> int:
        """Return the index of the first file that follows the file with the cursor, if that file is gone."""
        after = self.cursor.after
        passed = [at for at, file in enumerate(files[:-1]) if after and last_rotated(self.log, files[at : at + 1])]
        return max((at + 1 for at in passed if files[at].base_name <= after), default=0)

    def _open(self, file: LogFile) -> None:
        """Continue at the same offset in another file or under another name. Raises OSError and SealError."""
        opened = open_listed(file)
        if self._file >= 0:
            os.close(self._file)
        self._file = opened
        name, device, inode = file.path.name, file.device, file.inode
        self.cursor = msgspec.structs.replace(self.cursor, name=name, device=device, inode=inode)

    def _was_truncated(self) -> bool:
        """Return whether logrotate copied the file and emptied it (`copytruncate`): the line before the cursor is no
        longer at its place.
        """
        cursor = self.cursor
        if not cursor.last:
            return os.fstat(self._file).st_size < cursor.offset
        last = os.pread(self._file, cursor.last_bytes + 1, cursor.offset - cursor.last_bytes - 1)
        return last[-1:] != b"\n" or sha256(last[:-1]).hexdigest() != cursor.last

    def _open_copy(self) -> None:
        """Continue in the copy of the file that was emptied or, without a copy, at the beginning of the file. Raises
        OSError and SealError.
        """
        last = bytes.fromhex(self.cursor.last)
        for file in reversed(list_log_files(self.log)):
            if has_line_before(file, self.cursor, last):
                self._open(file)
                return
        self._write(msgspec.structs.replace(self.cursor, offset=0, lines=0, last="", last_bytes=0))

    def _is_current(self) -> bool:
        return identity_of(self.log) == identity(self._file)

    def _following_file(self) -> LogFile | None:
        """Return the file after the current file if the current file is finished, otherwise None. Raises OSError."""
        found = os.fstat(self._file)
        if self._is_current() or not self.log.exists():
            return None
        if not self._is_finished(found):
            return None
        files = list_log_files(self.log)
        place = cursor_place(files, self.log, self.cursor)
        if place is None:  # deleted, or renamed and compressed
            last = bytes.fromhex(self.cursor.last)
            found_at = next((at for at, file in enumerate(files) if has_line_before(file, self.cursor, last)), None)
            place = self._first_unread(files) - 1 if found_at is None else found_at
        return files[place + 1] if place + 1 < len(files) else None

    def _is_finished(self, found: os.stat_result) -> bool:
        """Return whether a rotated file did not grow for FINISHED_SECONDS, by the system's time or by the monotonic
        clock, or was rotated MAX_WAIT_SECONDS ago, so that a process that still writes to it cannot stop the sink.
        """
        now, seen = monotonic(), (found.st_dev, found.st_ino, found.st_size)
        if seen[:2] != self._seen[:2]:
            self._moved_at = now
        if seen != self._seen:
            self._seen, self._since = seen, now
        age = self._clock() - max(found.st_mtime, found.st_ctime)
        return (
            age >= FINISHED_SECONDS or now - self._since >= FINISHED_SECONDS or now - self._moved_at >= MAX_WAIT_SECONDS
        )

    def _leave(self, following: LogFile, *, vanished: bool = False) -> None:
        """Continue with the first line of the next file. The lines of pending files that are gone are counted as lost,
        and also the unsent lines of the current file if it `vanished`. Raises OSError and SealError.
        """
        cursor, files = self.cursor, list_log_files(self.log)
        opened = open_listed(following)
        if self._file >= 0:
            self._late.append(LeftFile(os.dup(self._file), cursor.offset))
            if len(self._late) > LATE_FILES:
                os.close(self._late.popleft().file)
        gone = [each for each in cursor.pending if not is_among(each, files) and not is_file(each, cursor)]
        lost = sum(each.lines for each in gone) + (unsent_lines(cursor) if vanished else 0)
        pending = [each for each in cursor.pending if is_among(each, files) and not is_file(each, cursor)]
        before, self._file = self._file, opened
        if before >= 0:
            os.close(before)
        after = last_rotated(self.log, files[: files.index(following)] if following in files else [])
        self._write(SinkCursor(
            following.path.name, following.device, following.inode, 0, sent=cursor.sent, lost=cursor.lost + lost,
            pending=tuple(each for each in pending if each.name != following.base_name),
            after=max(after, cursor.after),
        ))  # fmt: skip

    # ── Lines that are at risk ────────────────────────────────────────────────────────────────

    def survey(self) -> None:
        """Count the unsent lines of each rotated file once, so that their number is known if the file is deleted.
        Raises OSError, CursorError."""
        cursor = self.cursor
        found = {each.name: each for each in cursor.pending}
        for file in self._list_unsent():
            if file.path != self.log and file.base_name not in found:
                with suppress(SealError, FileNotFoundError):
                    lines = self._count_lines(file)
                    found[file.base_name] = PendingFile(file.base_name, file.device, file.inode, lines)
        if len(found) != len(cursor.pending):
            self._write(msgspec.structs.replace(cursor, pending=tuple(found.values())))

    def _count_lines(self, file: LogFile) -> int:
        if file.base_name == base_name(self.cursor.name):
            return self.cursor.lines + sum(chunk.count(b"\n") for chunk in chunks(self._file, self.cursor.offset))
        return count_lines(file.path)

    def _list_unsent(self) -> list[LogFile]:
        """Return the file with the cursor, and the later files of the log."""
        files = list_log_files(self.log)
        place = cursor_place(files, self.log, self.cursor)
        return files[0 if place is None else place :]

    def skip_file(self) -> int:
        """Skip the rest of the current file if it was rotated; return the number of lines that are lost. Raises
        OSError, CursorError, SealError.
        """
        files = self._list_unsent()
        if self._is_current() or len(files) < 2:
            return 0
        lost = sum(chunk.count(b"\n") for chunk in chunks(self._file, self.cursor.offset))
        end = os.fstat(self._file).st_size
        self._leave(files[1])
        self._late[-1].offset = end
        self._write(msgspec.structs.replace(self.cursor, lost=self.cursor.lost + lost))
        return lost


def open_listed(file: LogFile) -> int:
    """Open a listed file. Raises SealError, and OSError, also if its path now names another file."""
    opened = open_plain(file.path)
    if identity_of(file.path) == file.identity:
        return opened
    os.close(opened)
    raise FileNotFoundError(errno.ENOENT, "it was renamed", str(file.path))


def has_line_before(file: LogFile, cursor: SinkCursor, last: bytes) -> bool:
    """Return whether the file has the last line before the cursor at the same offset; for a cursor at the beginning of
    its file, whether it is the same file. Raises OSError.
    """
    if not cursor.offset:
        return file.identity == (cursor.device, cursor.inode)
    try:
        return bool(last) and ends_with_line(file.path, cursor.offset, last, cursor.last_bytes)
    except (SealError, EOFError, FileNotFoundError):
        return False


def unsent_lines(cursor: SinkCursor) -> int:
    """Return the number of lines after the cursor in its file. If they were not counted, return 1 for a cursor that is
    not at the beginning."""
    counted = [each.lines - cursor.lines for each in cursor.pending if is_file(each, cursor)]
    return max(0, counted[0]) if counted else int(cursor.offset > 0)


def is_file(pending: PendingFile, cursor: SinkCursor) -> bool:
    """Return whether a pending file is the file with the cursor."""
    return (pending.device, pending.inode) == (cursor.device, cursor.inode) or pending.name == base_name(cursor.name)


def is_among(pending: PendingFile, files: Sequence[LogFile]) -> bool:
    """Return whether a pending file still exists, under its name or with its inode."""
    return any(file.base_name == pending.name or file.identity == (pending.device, pending.inode) for file in files)


def count_lines(path: Path) -> int:
    """Return the number of complete lines of a file. Raises OSError, SealError."""
    file = open_plain(path)
    try:
        return sum(chunk.count(b"\n") for chunk in chunks(file, 0))
    finally:
        os.close(file)


def chunks(file: int, offset: int) -> Iterator[bytes]:
    while data := os.pread(file, 1 << 20, offset):
        yield data
        offset += len(data)


def start_cursor(log: Path) -> SinkCursor:
    """Return a cursor after the last complete line of the log. Raises OSError."""
    found = log.stat()
    with log.open("rb") as file:
        offset = last_line_end(file.fileno(), found.st_size)
        begin = last_line_end(file.fileno(), max(0, offset - 1))
        last = os.pread(file.fileno(), max(0, offset - 1 - begin), begin) if offset - begin < MAX_LINE_BYTES else b""
    digest = sha256(last).hexdigest() if offset and offset - begin < MAX_LINE_BYTES else ""
    after = last_rotated(log, list_log_files(log))
    return SinkCursor(log.name, found.st_dev, found.st_ino, offset, last=digest, last_bytes=len(last), after=after)


def last_line_end(file: int, before: int) -> int:
    """Return the offset after the last newline before the offset `before`. Raises OSError."""
    while before > 0:
        start = max(0, before - READ_BYTES)
        cut = os.pread(file, before - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        before = start
    return 0
