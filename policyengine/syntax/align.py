"""The last step of formatting: what stands in columns on consecutive lines is brought in line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest

MAX_ALIGNED_COLUMNS = 72  # a test with more before its `=>` stands apart: it would push all others away from theirs


@dataclass(frozen=True, slots=True)
class FormattedLine:
    """A formatted line in its parts: the offset of a test's `=>` in the code, the cells of a table's row."""

    indent: str
    code: str
    comment: str = ""
    arrow: int | None = None
    cells: tuple[str, ...] = ()

    @property
    def trails(self) -> bool:
        return bool(self.code and self.comment)


def align_lines(lines: list[FormattedLine]) -> Iterator[str]:
    lines = _runs(lines, lambda line: bool(line.cells), _with_cells)
    lines = _runs(lines, lambda line: line.arrow is not None, _with_arrows)
    lines = _runs(lines, lambda line: line.trails, _with_comments)
    for line in lines:
        yield (line.indent + line.code + line.comment).rstrip()


def _runs(
    lines: list[FormattedLine],
    belongs: Callable[[FormattedLine], bool],
    align: Callable[[list[FormattedLine]], Iterable[FormattedLine]],
) -> list[FormattedLine]:
    """Consecutive lines of one indent that belong together, aligned; the others as they are."""
    result: list[FormattedLine] = []
    for (_, together), group in groupby(lines, lambda line: (line.indent, belongs(line))):
        run = list(group)
        result += align(run) if together else run
    return result


def _with_cells(run: list[FormattedLine]) -> Iterator[FormattedLine]:
    widths = [max(map(len, column)) for column in zip_longest(*(line.cells for line in run), fillvalue="")]
    for line in run:
        cells = (cell.ljust(width) for cell, width in zip(line.cells, widths, strict=False))
        yield replace(line, code=f"| {' | '.join(cells)} |")


def _with_arrows(run: list[FormattedLine]) -> Iterator[FormattedLine]:
    places = [line.arrow or 0 for line in run]
    column = max((place for place in places if place <= MAX_ALIGNED_COLUMNS), default=0)
    for line, place in zip(run, places, strict=True):
        yield replace(line, code=f"{line.code[:place].ljust(column)}{line.code[place:]}")


def _with_comments(run: list[FormattedLine]) -> Iterator[FormattedLine]:
    column = max(len(line.code) for line in run)
    return (replace(line, code=line.code.ljust(column) + " ") for line in run)
