"""Reads the newest lines of a log, in bounded time however long the log is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyengine.audit.files import GZIP, log_files
from policyengine.audit.query.extract import MalformedLineError, RowExtractor, parse_log_line
from policyengine.bounded_files import begins_with

MAX_TAIL_BYTES = 32 * 2**20
MAX_WATCHED_BYTES = 2**20  # bytes at the end of a log; a page reads them every few seconds
DECISION = "decision"
COLUMNS = ("time", "id", "outcome", "agent", "user", "endpoint", "rule", "gate")


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of a log, oldest first. `complete` says whether they are all of its lines."""

    lines: tuple[bytes, ...]
    complete: bool

    def trees(self, wanted: Callable[[bytes], bool] = lambda line: True) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield the wanted lines as trees with their kinds, newest first; lines that are not records are left out."""
        for line in reversed(self.lines):
            if wanted(line):
                try:
                    yield parse_log_line(line)
                except MalformedLineError:
                    continue


def read_log_tail(log: Path, most: int = MAX_TAIL_BYTES) -> LogTail:
    """Read the last lines of a log and of its rotated files that are not compressed, of `most` bytes in total. Raises
    OSError."""
    found: list[list[bytes]] = []
    complete = True
    for file in reversed(log_files(log)):
        complete = complete and most > 0 and not begins_with(file, GZIP)
        if not complete:
            break
        lines, size, complete = read_file_tail(file, most)
        found.append(lines)
        most -= size
    return LogTail(tuple(line for lines in reversed(found) for line in lines), complete)


def read_file_tail(file: Path, most: int) -> tuple[list[bytes], int, bool]:
    """Return the whole lines in the last `most` bytes of a file, the number of bytes that were read, and whether these
    are all lines of the file. Raises OSError."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        start = max(0, size - most)
        opened.seek(start)
        read = opened.read(size - start)
    if start:
        read = read.partition(b"\n")[2]
    ended = read[: read.rfind(b"\n") + 1]  # a line that is being written is left out
    return ended.splitlines(), size - start, start == 0


@dataclass(frozen=True, slots=True)
class TrafficDecision:
    """A decision in a list of recent decisions; texts that the record lacks are empty."""

    time: str
    id: str
    outcome: str
    agent: str
    user: str
    endpoint: str
    rule: str
    gate: str


@dataclass(frozen=True, slots=True)
class TrafficSearch:
    """A search for the newest decisions with this `outcome` and of this `agent`; an empty text matches all
    decisions."""

    log: Path
    outcome: str = ""
    agent: str = ""
    most: int = 50

    def answer(self) -> tuple[TrafficDecision, ...]:
        """Return the newest decisions in the last MAX_WATCHED_BYTES of the log, newest first. Raises OSError."""
        found: list[TrafficDecision] = []
        for decision in recent_decisions(read_log_tail(self.log, MAX_WATCHED_BYTES)):
            if self.outcome in ("", decision.outcome) and self.agent in ("", decision.agent):
                found.append(decision)
                if len(found) == self.most:
                    break
        return tuple(found)


def recent_decisions(tail: LogTail) -> Iterator[TrafficDecision]:
    """Yield the decisions of a tail, newest first."""
    extractor = RowExtractor(frozenset(COLUMNS))
    for tree, kind in tail.trees():
        if kind == DECISION:
            yield read_decision(extractor, tree)


def read_decision(extractor: RowExtractor, tree: dict[str, Any]) -> TrafficDecision:
    cells = dict(zip(extractor.names, extractor.row(tree, DECISION), strict=True))
    return TrafficDecision(*("" if cells[name] is None else str(cells[name]) for name in COLUMNS))
