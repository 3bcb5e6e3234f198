"""The streaming reader: one pass over the lines of JSON Lines logs, in bounded memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policyengine.audit.encoder import encode
from policyengine.audit.files import GZIP, bounded_lines
from policyengine.audit.query.extract import MalformedLineError, RowExtractor, parse_log_line
from policyengine.audit.query.fields import DIRECTORY, stored_fields
from policyengine.audit.query.query import AuditQuery, QueryAnswer, Row
from policyengine.audit.query.tally import ApprovedBindings, Matcher, RowReader, Tally
from policyengine.bounded_files import begins_with

LINES_BETWEEN_REPORTS = 2_000
LINE_STARTS = (b'{"v":1,', b'{"v":2,')
Progress = Callable[[int], None]  # receives the number of bytes read so far, of all files


@dataclass(slots=True)
class SkippedLines:
    """The numbers of malformed lines by file, the files whose rest could not be read, with the reason, and the files
    that have a valid line."""

    lines: dict[Path, int] = field(default_factory=dict)
    broken: dict[Path, str] = field(default_factory=dict)
    valid: set[Path] = field(default_factory=set)

    def add(self, file: Path) -> None:
        self.lines[file] = self.lines.get(file, 0) + 1

    @property
    def foreign(self) -> Path | None:
        """A file that has lines, but no line of a decision log; None if there is no such file."""
        return next((file for file in self.lines if file not in self.valid), None)

    @property
    def count(self) -> int:
        return sum(self.lines.values())


def open_counted(path: Path) -> tuple[io.BufferedReader, gzip.GzipFile | None]:
    """Open a file. The second value is the decompressing reader of a compressed file, otherwise None.
    Raises OSError.
    """
    packed = begins_with(path, GZIP)
    raw = path.open("rb")
    return raw, gzip.GzipFile(fileobj=raw, mode="rb") if packed else None


def read_numbered_lines(
    path: Path, skipped: SkippedLines, progress: Progress = lambda _: None, before: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of one file with their numbers; `progress` receives `before` plus the bytes read. Raises
    OSError."""

    def note(message: str) -> None:
        skipped.add(path)

    raw, packed = open_counted(path)
    with raw:
        try:
            for number, line in bounded_lines(packed or raw, path, note):
                if number % LINES_BETWEEN_REPORTS == 0:
                    progress(before + raw.tell())
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            skipped.broken[path] = str(error)
        progress(before + raw.tell())


def parse_or_salvage(line: bytes) -> tuple[dict[str, object], str, bool]:
    """Return the tree and the kind of a line, and whether the beginning of another line, which was cut off, precedes
    it. Raises MalformedLineError."""
    try:
        return *parse_log_line(line), False
    except MalformedLineError:
        start = max(line.rfind(begin) for begin in LINE_STARTS)
        if start <= 0 or not line.endswith(b"\n"):
            raise
        return *parse_log_line(line[start:]), True


def read_trees(
    path: Path, skipped: SkippedLines, progress: Progress = lambda _: None, before: int = 0
) -> Iterator[tuple[dict[str, object], str]]:
    """Yield each line of a file as a tree with its kind; malformed lines are counted in `skipped`. Raises OSError."""
    for _, line in read_numbered_lines(path, skipped, progress, before):
        try:
            tree, kind, cut = parse_or_salvage(line)
        except MalformedLineError:
            skipped.add(path)
            continue
        if cut:
            skipped.add(path)
        skipped.valid.add(path)
        yield tree, kind


def write_clean_copy(path: Path, to: Path, skipped: SkippedLines) -> int:
    """Write the valid lines of a file, except those with entity rows, as one object per line, and return the length of
    the longest. Raises OSError."""
    longest = 0
    with to.open("wb") as file:
        for tree, kind in read_trees(path, skipped):
            if kind != DIRECTORY:
                longest = max(longest, file.write(encode(tree) + b"\n"))
    return longest


class StreamReader:
    """Answers questions by reading all lines of the files once, or twice if a question follows approvals."""

    def __init__(self, files: Sequence[Path], progress: Progress = lambda _: None) -> None:
        self._files = files
        self._progress = progress
        self.skipped = SkippedLines()

    def answer(self, queries: Sequence[AuditQuery], also: frozenset[str] = frozenset()) -> list[QueryAnswer]:
        """Answer questions in one pass, after a pass that reads approvals if a question follows them. `also` is only
        for DuckReader. Raises OSError, QueryError."""
        self.skipped = SkippedLines()
        approved = self._read_approvals(queries)
        if len(queries) == 1:
            tally = Tally(queries[0], RowExtractor(queries[0].stored).names, approved)
            for row in self._matching_rows(queries[0], approved):
                tally.collect(row)
            return [tally.answer()]
        extractor = RowExtractor(frozenset().union(*(one.stored for one in queries)))
        tallies = [Tally(one, extractor.names, approved) for one in queries]
        for tree, kind in self._records():
            row = extractor.row(tree, kind)
            for tally in tallies:
                tally.add(row)
        return [tally.answer() for tally in tallies]

    def rows(self, query: AuditQuery) -> Iterator[Row]:
        """Yield all records that match, in the order of the log. Raises OSError, QueryError."""
        approved = self._read_approvals([query])
        tally = Tally(query, RowExtractor(query.stored).names, approved)
        return map(tally.shown, self._matching_rows(query, approved))

    def _matching_rows(self, query: AuditQuery, approved: ApprovedBindings) -> Iterator[Row]:
        """Yield the matching rows with all fields of a question. A row's other fields are extracted only if its filter
        fields match."""
        narrow, whole = RowExtractor(stored_fields(query.filter_names)), RowExtractor(query.stored)
        matcher = Matcher(query, RowReader(narrow.names, approved))
        for tree, kind in self._records():
            if matcher.accepts(narrow.row(tree, kind)):
                yield whole.row(tree, kind)

    def _read_approvals(self, queries: Sequence[AuditQuery]) -> ApprovedBindings:
        """Read the spent approvals if a question follows them."""
        found = ApprovedBindings()
        if any(one.links_approvals for one in queries):
            extractor = RowExtractor(frozenset({"kind", "time", "spent"}))
            places = extractor.names.index("spent"), extractor.names.index("time")
            for tree, kind in self._records():
                row = extractor.row(tree, kind)
                found.add(row[places[0]], row[places[1]])
            self.skipped = SkippedLines()
        return found

    def _records(self) -> Iterator[tuple[dict[str, object], str]]:
        before = 0
        for file in self._files:
            for tree, kind in read_trees(file, self.skipped, self._progress, before):
                if kind != DIRECTORY:
                    yield tree, kind
            before += file.stat().st_size
