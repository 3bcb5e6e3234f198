"""Coverage as HTML pages: an index, and each file with its missing points marked in place. The pages have no scripts
and load no resources; all text of policies is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyengine.source import Source
from policyengine.templates import render_template
from policyengine.testing.coverage.annotated_source import (
    AnnotatedLine,
    CoverageState,
    SourcePiece,
    annotated_lines,
    coverage_state,
)
from policyengine.testing.coverage.measure import Coverage, CoverageCount
from policyengine.testing.coverage.points import Point

INDEX = "index.html"
UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
MAX_FILE_NAME_LENGTH = 80
CODE_PATTERN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class MissingPoint:
    """A point that no test showed, with its position on the page of its file. `words` alternates between plain text and
    code.
    """

    point: Point
    anchor: str
    next: str | None

    @property
    def line(self) -> int:
        return self.point.span.line

    @property
    def words(self) -> list[str]:
        return CODE_PATTERN.split(self.point.words)


@dataclass(frozen=True, slots=True)
class CountRow:
    """A row of a table of the index. Its name links to `page`."""

    name: str
    count: CoverageCount
    page: str = ""
    missing: Sequence[MissingPoint] = ()


@dataclass(frozen=True, slots=True)
class PieceMarkup:
    """A part of a line; `missing` lists the points in it that no test showed. `state` is None if the part contains
    nothing to cover.
    """

    text: str
    state: CoverageState | None = None
    missing: str = ""

    @property
    def tag(self) -> str:
        return "span" if self.state is CoverageState.COVERED else "mark"


@dataclass(frozen=True, slots=True)
class LineMarkup:
    number: int
    pieces: Sequence[PieceMarkup]
    count: CoverageCount
    notes: Sequence[MissingPoint]


def render_html(coverage: Coverage, directory: Path) -> Path:
    """Write the pages over existing ones and return the path of the index. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    names = page_names(coverage.files)
    for source, points in coverage.files.items():
        write_page(directory / names[source], render_file(source, points, coverage))
    write_page(directory / INDEX, render_index(coverage, names))
    return directory / INDEX


def write_page(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def page_names(sources: Iterable[Source]) -> dict[Source, str]:
    """Return a file name for each source. The names are valid on every system, and no two differ only by case."""
    taken, found = {INDEX}, {}
    for source in sources:
        plain = UNSAFE_CHARACTERS.sub("_", source.name).strip("._")[-MAX_FILE_NAME_LENGTH:] or "policy"
        name, number = f"{plain}.html", 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}.html"
        taken.add(name.lower())
        found[source] = name
    return found


def missing_points(points: Sequence[Point], coverage: Coverage) -> list[MissingPoint]:
    """Return the uncovered parts of a file, in the order in which its page shows them."""
    missing = [point for point in points if point not in coverage.hits]
    last = len(missing)
    return [
        MissingPoint(point, f"m{number}", None if number == last else f"m{number + 1}")
        for number, point in enumerate(missing, 1)
    ]


# ── The index ─────────────────────────────────────────────────────────────────────────────────


def render_index(coverage: Coverage, names: Mapping[Source, str]) -> str:
    return render_template(
        __file__,
        "index.html.j2",
        title="Coverage of the tests",
        count=coverage.count,
        kinds=[CountRow(str(kind), count) for kind, count in coverage.kinds.items() if count.total],
        files=[
            CountRow(source.name, coverage.counted(points), names[source], missing_points(points, coverage))
            for source, points in coverage.files.items()
        ],
    )


# ── A file ────────────────────────────────────────────────────────────────────────────────────


def render_file(source: Source, points: Sequence[Point], coverage: Coverage) -> str:
    missing = missing_points(points, coverage)
    notes = {note.point: note for note in missing}
    return render_template(
        __file__,
        "file.html.j2",
        title=f"Coverage of {source.name}",
        name=source.name,
        index=INDEX,
        count=coverage.counted(points),
        states=tuple(CoverageState),
        lines=[line_markup(line, coverage, notes) for line in annotated_lines(source, points)],
        missing=missing,
    )


def line_markup(line: AnnotatedLine, coverage: Coverage, notes: Mapping[Point, MissingPoint]) -> LineMarkup:
    pieces = [piece_markup(piece, coverage) for piece in line.pieces]
    missing = [notes[point] for point in line.points if point in notes]
    return LineMarkup(line.number, pieces, coverage.counted(line.points), missing)


def piece_markup(piece: SourcePiece, coverage: Coverage) -> PieceMarkup:
    if not piece.points or not piece.text.strip():
        return PieceMarkup(piece.text)
    missing = "; ".join(point.words for point in piece.points if point not in coverage.hits)
    return PieceMarkup(piece.text, coverage_state(piece.points, coverage), missing)
