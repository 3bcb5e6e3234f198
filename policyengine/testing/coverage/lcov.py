"""Coverage in the lcov format, for genhtml, editors and code hosts: lines, and a branch for each point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from policyengine.control_characters import one_line
from policyengine.source import Source
from policyengine.testing.coverage.measure import Coverage
from policyengine.testing.coverage.points import Point


def render_lcov(coverage: Coverage) -> str:
    """Return the lcov text. The hits of a line are the number of cases that covered a point on it. The text ends with a
    line break."""
    return "".join(
        f"{line}\n" for source, points in coverage.files.items() for line in file_records(source, points, coverage)
    )


def file_records(source: Source, points: Sequence[Point], coverage: Coverage) -> Iterator[str]:
    ordered = sorted(points, key=lambda point: point.span.line)
    by_line = {number: list(some) for number, some in groupby(ordered, key=lambda point: point.span.line)}
    hits = {number: hit_count(some, coverage) for number, some in by_line.items()}
    yield "TN:"
    yield f"SF:{one_line(source.name)}"
    yield from (
        line for number, some in by_line.items() for line in branch_records(number, some, hits[number], coverage)
    )
    yield f"BRF:{len(points)}"
    yield f"BRH:{coverage.counted(points).seen}"
    yield from (f"DA:{number},{times}" for number, times in hits.items())
    yield f"LF:{len(hits)}"
    yield f"LH:{sum(1 for times in hits.values() if times)}"
    yield "end_of_record"


def hit_count(points: Sequence[Point], coverage: Coverage) -> int:
    wanted = frozenset(points)
    return sum(times for shown, times in coverage.groups.items() if not wanted.isdisjoint(shown))


def branch_records(line: int, points: Sequence[Point], hits: int, coverage: Coverage) -> Iterator[str]:
    """Yield a block for each part and a branch for each of its points; `-` if no point of the line was covered."""
    blocks: dict[tuple[str, str], int] = {}
    counted: dict[int, int] = {}
    for point in points:
        block = blocks.setdefault((point.kind, point.part), len(blocks))
        branch = counted[block] = counted.get(block, -1) + 1
        taken = coverage.hits.get(point, 0) if hits else "-"
        yield f"BRDA:{line},{block},{branch},{taken}"
