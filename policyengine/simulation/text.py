"""What was played, for a terminal: a line of blocks for each count, each block so many slots that all fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from policyengine.runtime.format_values import duration
from policyengine.simulation.result import Limit, Played, outcomes
from policyengine.simulation.series import Line, total
from policyengine.simulation.time_units import MICROSECOND, words

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*#@"
NAME = 11
Each = TypeVar("Each")

STYLES = {
    "admitted": "green",
    "throttled": "yellow",
    "to confirm": "blue",
    "denied": "red",
    "left": "cyan",
}


class Row(NamedTuple):
    """A line of blocks, what it shows, and what it comes to; without blocks its `name` is a line of text."""

    name: str
    blocks: str = ""
    told: str = ""

    def text(self, width: int) -> tuple[str, str, str]:
        return f"  {self.name:<{NAME}}", f"{self.blocks:<{width}}", f"  {self.told}"


def rows(played: Played, columns: int, *, ascii: bool = False) -> Iterator[Row]:
    """Everything, top to bottom; `columns` is how wide the blocks may be."""
    blocks = ASCII_BLOCKS if ascii else BLOCKS
    yield from (Row(line) for line in played.words)
    yield Row("")
    yield from _all(played, columns, blocks)
    for limit in played.limits:
        yield Row("")
        yield from _limit(played, limit, columns, blocks)
    yield from _callers(played)
    yield from (Row(f"note: {note}") for note in played.notes)


def _all(played: Played, columns: int, blocks: str) -> Iterator[Row]:
    folded = [total(some) for some in fold(played.slots, columns)]
    counts = [dict(outcomes(slot)) for slot in folded]
    most = max((max(one.values()) for one in counts), default=0)
    yield Row(f"all requests, from {words(played.start)}, {span(played, columns)} in a column")
    for name, count in outcomes(played.total):
        if count or name in ("admitted", "throttled"):
            yield Row(name, bars([one[name] for one in counts], most, blocks), f"{count:,}")


def _limit(played: Played, limit: Limit, columns: int, blocks: str) -> Iterator[Row]:
    lines = [line_of(some) for some in fold(played.lines(limit), columns)]
    whole = line_of(lines)
    yield Row(f'{limit.kind} "{limit.name}": {limit.words}  ({limit.at})')
    if not whole.asked and not whole.throttled:
        yield Row("  it applied to none of them")
        return
    most = max(max(one.admitted, one.throttled) for one in lines)
    yield Row("admitted", bars([one.admitted for one in lines], most, blocks), f"{whole.admitted:,}")
    yield Row("throttled", bars([one.throttled for one in lines], most, blocks), f"{whole.throttled:,}")
    if whole.remaining is not None:
        share = [None if one.remaining is None else one.remaining / max(one.limit, 1) for one in lines]
        yield Row("left", levels(share, blocks), f"at least {whole.remaining:,} of {whole.limit:,}")


def _callers(played: Played) -> Iterator[Row]:
    if played.callers:
        yield Row("")
        yield Row("throttled most")
        yield from (Row(f"  {one.times:>9,}  {one.words}") for one in played.callers)


def line_of(lines: Sequence[Line]) -> Line:
    found = Line()
    for line in lines:
        found.take(line)
    return found


def span(played: Played, columns: int) -> str:
    return duration(step(len(played.slots), columns) * played.series.width * MICROSECOND)


def step(count: int, columns: int) -> int:
    """So many slots in a column."""
    return max(1, -(-count // columns))


def width_of(played: Played, columns: int) -> int:
    """How many columns there are, of so many that fit."""
    return -(-len(played.slots) // step(len(played.slots), columns))


def fold(slots: Sequence[Each], columns: int) -> list[Sequence[Each]]:
    each = step(len(slots), columns)
    return [slots[first : first + each] for first in range(0, len(slots), each)]


def bars(counts: Sequence[int], most: int, blocks: str) -> str:
    """The lowest block is for at least one; none at all is a space."""
    top = len(blocks)
    return "".join(" " if not count else blocks[-(-count * top // most) - 1] for count in counts)


def levels(shares: Sequence[float | None], blocks: str) -> str:
    """How full: the lowest block is empty. Where nobody asked nothing is known."""
    top = len(blocks) - 1
    return "".join(" " if share is None else blocks[round(min(max(share, 0), 1) * top)] for share in shares)


def rendered(played: Played, columns: int, *, ascii: bool = False, shown: Callable[[str], str] = str) -> str:
    """Plain text, for a file or a pipe."""
    width = width_of(played, columns)
    return "".join(
        f"{shown(''.join(row.text(width)).rstrip() if row.blocks else row.name)}\n"
        for row in rows(played, columns, ascii=ascii)
    )
