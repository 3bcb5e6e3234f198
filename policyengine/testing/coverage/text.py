"""Coverage as text for a terminal: counts by kind and file, then the lines with missing points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

from policyengine.source import Source
from policyengine.testing.coverage.measure import Coverage, CoverageCount
from policyengine.testing.coverage.points import Point

BOLD, RED, GREEN, YELLOW, DIM, RESET = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
Paint: TypeAlias = Callable[[str, str], str]

MAX_LINE_WIDTH = 160  # maximum characters shown of a line


def render_text(coverage: Coverage, colour: bool = False) -> str:
    """Return two tables and the annotated lines, without control characters of the policy."""
    paint = apply_style if colour else ignore_style
    parts = [headline(coverage, paint), "\n".join(count_lines(coverage, paint))]
    parts += [annotate_file(source, missing, paint) for source, missing in files_with_missing(coverage)]
    return "\n\n".join(parts)


def apply_style(text: str, style: str) -> str:
    return f"{style}{text}{RESET}"


def ignore_style(text: str, style: str) -> str:
    return text


def headline(coverage: Coverage, paint: Paint) -> str:
    count = coverage.count
    missing = f", {count.total - count.seen:,} missing" if coverage.missing else ""
    words = f"coverage {count.percent}: {count.seen:,} of {count.total:,} covered{missing}"
    return paint(words, BOLD + (YELLOW if coverage.missing else GREEN))


def count_lines(coverage: Coverage, paint: Paint) -> Iterator[str]:
    kinds = [(str(kind), count) for kind, count in coverage.kinds.items() if count.total]
    files = [(printable(source.name), coverage.counted(points)) for source, points in coverage.files.items()]
    width = max((len(name) for name, _ in (*kinds, *files)), default=0)
    yield from count_rows(kinds, width, paint)
    if kinds:
        yield ""
    yield from count_rows(files, width, paint)


def count_rows(counted: Iterable[tuple[str, CoverageCount]], width: int, paint: Paint) -> Iterator[str]:
    for name, count in counted:
        seen = f"{count.seen:,}/{count.total:,}"
        yield f"  {name.ljust(width)}  {seen:>11}  " + paint(
            f"{count.percent:>7}", GREEN if count.seen == count.total else YELLOW
        )


# ── The lines ─────────────────────────────────────────────────────────────────────────────────


def files_with_missing(coverage: Coverage) -> Iterator[tuple[Source, list[Point]]]:
    for source, points in coverage.files.items():
        if missing := [point for point in points if point not in coverage.hits]:
            yield source, missing


def annotate_file(source: Source, missing: Sequence[Point], paint: Paint) -> str:
    """Return each line with missing points, underlined, and the points below it."""
    lines = [paint(f"{printable(source.name)}: {len(missing):,} missing", BOLD)]
    gutter = len(str(missing[-1].span.line))
    for number, points in groupby(missing, key=lambda point: point.span.line):
        text = source.line(number)
        lines.append(f"  {paint(str(number).rjust(gutter), DIM)} | {printable(text[:MAX_LINE_WIDTH])}")
        for span, same in groupby(points, key=lambda point: point.span):
            start = min(span.column - 1, MAX_LINE_WIDTH)
            width = max(1, min(span.end - span.start, len(text) - start, MAX_LINE_WIDTH - start))
            lines.append(f"  {' ' * gutter} | {' ' * start}{paint('^' * width, RED)}")
            lines += [f"  {' ' * gutter} |   {paint(printable(point.words), YELLOW)}" for point in same]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Replace each unprintable character with one space, so that underlines stay aligned."""
    return "".join(char if char.isprintable() else " " for char in text)
