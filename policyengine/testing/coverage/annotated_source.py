"""Splits the text of a file into pieces, each with the points of the innermost part that contains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from policyengine.source import Source
from policyengine.testing.coverage.measure import Coverage
from policyengine.testing.coverage.points import Point


class CoverageState(StrEnum):
    """How much of a part was covered: all, some or none."""

    COVERED = "covered"
    PARTLY = "partly"
    UNCOVERED = "uncovered"


@dataclass(frozen=True, slots=True)
class SourcePiece:
    """A piece of one line. `points` is empty if the piece contains nothing to cover."""

    text: str
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotatedLine:
    """A line of a file; `points` are those of the parts that begin on it."""

    number: int
    pieces: tuple[SourcePiece, ...]
    points: tuple[Point, ...]


def coverage_state(points: Sequence[Point], coverage: Coverage) -> CoverageState:
    count = coverage.counted(points)
    if count.seen == count.total:
        return CoverageState.COVERED
    return CoverageState.PARTLY if count.seen else CoverageState.UNCOVERED


def annotated_lines(source: Source, points: Sequence[Point]) -> Iterator[AnnotatedLine]:
    """Yield all lines of a file."""
    starting: dict[int, list[Point]] = {}
    for point in points:
        starting.setdefault(point.span.line, []).append(point)
    number, current = 1, list[SourcePiece]()
    for piece in split_line(source.text, points):
        first, *others = piece.text.split("\n")
        current.append(SourcePiece(first, piece.points))
        for text in others:
            yield AnnotatedLine(number, without_empty(current), tuple(starting.get(number, ())))
            number, current = number + 1, [SourcePiece(text, piece.points)]
    if any(piece.text for piece in current):
        yield AnnotatedLine(number, without_empty(current), tuple(starting.get(number, ())))


def without_empty(pieces: Iterable[SourcePiece]) -> tuple[SourcePiece, ...]:
    """Return the pieces without carriage returns, except pieces that are then empty."""
    kept = (SourcePiece(piece.text.replace("\r", ""), piece.points) for piece in pieces)
    return tuple(piece for piece in kept if piece.text)


def split_line(text: str, points: Sequence[Point]) -> Iterator[SourcePiece]:
    parts: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        parts.setdefault((point.span.start, point.span.end), []).append(point)
    beginning: dict[int, list[tuple[int, int]]] = {}
    for part in parts:
        beginning.setdefault(part[0], []).append(part)
    inside: list[tuple[int, int]] = []
    for start, end in pairwise(sorted({0, len(text), *(place for part in parts for place in part)})):
        inside = [part for part in (*inside, *beginning.get(start, ())) if part[1] > start]
        innermost = min(inside, key=lambda part: part[1] - part[0], default=None)
        yield SourcePiece(text[start:end], () if innermost is None else tuple(parts[innermost]))
