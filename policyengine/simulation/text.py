"""Renders a simulation for a terminal: a line of blocks for each count. Each block covers as many slots as necessary to
fit the width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from policyengine.clock import MICROSECOND
from policyengine.simulation.microseconds import format_time
from policyengine.simulation.result import SimulatedCaller, SimulatedLimit, SimulationResult, outcome_counts
from policyengine.simulation.time_slots import CallerCounts, LimitCounts, sum_slots
from policyengine.time_formats import format_duration

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*#@"
NAME_WIDTH = 11
SlotItem = TypeVar("SlotItem")

STYLES = {
    "admitted": "green",
    "throttled": "yellow",
    "to confirm": "blue",
    "denied": "red",
    "left": "cyan",
    "pace": "cyan",
    "trust": "green",
    "ready": "green",
    "bursts": "red",
    "new": "yellow",
}


class ChartRow(NamedTuple):
    """A line of blocks, its name, and its total; without blocks, `name` is a line of text."""

    name: str
    blocks: str = ""
    told: str = ""

    def text(self, width: int) -> tuple[str, str, str]:
        return f"  {self.name:<{NAME_WIDTH}}", f"{self.blocks:<{width}}", f"  {self.told}"


def chart_rows(played: SimulationResult, columns: int, *, ascii: bool = False) -> Iterator[ChartRow]:
    """Yield all rows from top to bottom; `columns` is the maximum number of blocks."""
    blocks = ASCII_BLOCKS if ascii else BLOCKS
    yield from (ChartRow(line) for line in played.words)
    yield ChartRow("")
    yield from _total_rows(played, columns, blocks)
    for limit in played.limits:
        yield ChartRow("")
        yield from _limit_rows(played, limit, columns, blocks)
    if played.learning:
        yield from _learned_rows(played, columns, blocks)
    yield from _caller_rows(played)
    yield from (ChartRow(f"note: {note}") for note in played.notes)


def _total_rows(played: SimulationResult, columns: int, blocks: str) -> Iterator[ChartRow]:
    folded = [sum_slots(some) for some in fold_slots(played.slots, columns)]
    counts = [dict(outcome_counts(slot)) for slot in folded]
    most = max((max(one.values()) for one in counts), default=0)
    yield ChartRow(f"all requests, from {format_time(played.start)}, {column_span(played, columns)} in a column")
    for name, count in outcome_counts(played.total):
        if count or name in ("admitted", "throttled"):
            yield ChartRow(name, bars([one[name] for one in counts], most, blocks), f"{count:,}")


def _limit_rows(played: SimulationResult, limit: SimulatedLimit, columns: int, blocks: str) -> Iterator[ChartRow]:
    lines = [sum_limit_counts(some) for some in fold_slots(played.lines(limit), columns)]
    whole = sum_limit_counts(lines)
    yield ChartRow(f'{limit.kind} "{limit.name}": {limit.words}  ({limit.at})')
    if not whole.asked and not whole.throttled:
        yield ChartRow("  it applied to no request")
        return
    most = max(max(one.admitted, one.throttled) for one in lines)
    yield ChartRow("admitted", bars([one.admitted for one in lines], most, blocks), f"{whole.admitted:,}")
    yield ChartRow("throttled", bars([one.throttled for one in lines], most, blocks), f"{whole.throttled:,}")
    if whole.remaining is not None:
        share = [None if one.remaining is None else one.remaining / max(one.limit, 1) for one in lines]
        yield ChartRow("left", levels(share, blocks), f"at least {whole.remaining:,} of {whole.limit:,}")


def _learned_rows(played: SimulationResult, columns: int, blocks: str) -> Iterator[ChartRow]:
    """Yield rows about the learned behavior of all callers together, and of some callers."""
    total, callers = played.learned_total, len(played.series.classes)
    folded = [sum_slots(some) for some in fold_slots(played.slots, columns)]
    ready = [sum(one.ready for one in slot.learned.values()) for slot in folded]
    yield ChartRow("")
    yield ChartRow(f"learned: {played.ready_callers:,} of {callers:,} caller{'' if callers == 1 else 's'} ready")
    yield ChartRow("ready", bars(ready, max(ready, default=0), blocks), f"{played.ready_callers:,}")
    yield from _alarm_rows([list(slot.learned.values()) for slot in folded], total, blocks)
    for caller in played.learned:
        yield ChartRow("")
        yield from _learned_caller_rows(caller, columns, blocks)


def _alarm_rows(columns: Sequence[Sequence[CallerCounts]], total: CallerCounts, blocks: str) -> Iterator[ChartRow]:
    rows = (
        ("bursts", "bursts", ""),
        ("new", "new_endpoints", " at new endpoints"),
        ("shapes", "new_shapes", " new shapes"),
    )
    for name, member, words in rows:
        count = getattr(total, member)
        if count:
            counts = [sum(getattr(one, member) for one in column) for column in columns]
            yield ChartRow(name, bars(counts, max(counts), blocks), f"{count:,}{words}")


def _learned_caller_rows(one: SimulatedCaller, columns: int, blocks: str) -> Iterator[ChartRow]:
    folded = [sum_learned(some) for some in fold_slots(one.slots, columns)]
    counts = [dict(outcome_counts(slot or CallerCounts())) for slot in folded]
    most = max((max(each.values()) for each in counts), default=0)
    yield ChartRow(one.words)
    for name, count in outcome_counts(one.total):
        if count or name == "admitted":
            yield ChartRow(name, bars([each[name] for each in counts], most, blocks), f"{count:,}")
    if pace_changes(one.total):
        share = [None if slot is None else slot.pace / one.fastest for slot in folded]
        yield ChartRow("pace", levels(share, blocks), pace_words(one.total))
    trust = [None if slot is None or slot.trust is None else slot.trust / 1_000 for slot in folded]
    yield ChartRow("trust", levels(trust, blocks), trust_range(one))
    yield from _alarm_rows([[] if slot is None else [slot] for slot in folded], one.total, blocks)


def sum_learned(slots: Sequence[CallerCounts | None]) -> CallerCounts | None:
    """Return the sum of the slots; None if there was no request in them."""
    known = [slot for slot in slots if slot is not None]
    if not known:
        return None
    found = CallerCounts()
    for slot in known:
        found.take(slot)
    return found


def pace_changes(total: CallerCounts) -> bool:
    return total.slowest < 1 or total.fastest > 1


def pace_words(total: CallerCounts) -> str:
    return f"×{total.slowest:.2g} to ×{total.fastest:.2g} of the rates"


def trust_range(one: SimulatedCaller) -> str:
    trusts = one.trusts() or [0]
    return f"{min(trusts) / 1_000:.2f} to {max(trusts) / 1_000:.2f}, {trusts[-1] / 1_000:.2f} at the end"


def _caller_rows(played: SimulationResult) -> Iterator[ChartRow]:
    if played.callers:
        yield ChartRow("")
        yield ChartRow("throttled most")
        yield from (ChartRow(f"  {one.times:>9,}  {one.words}") for one in played.callers)


def sum_limit_counts(lines: Sequence[LimitCounts]) -> LimitCounts:
    found = LimitCounts()
    for line in lines:
        found.take(line)
    return found


def column_span(played: SimulationResult, columns: int) -> str:
    return format_duration(slots_per_column(len(played.slots), columns) * played.series.width * MICROSECOND)


def slots_per_column(count: int, columns: int) -> int:
    """Return the number of slots for each column."""
    return max(1, -(-count // columns))


def column_count(played: SimulationResult, columns: int) -> int:
    """Return the number of columns, at most `columns`."""
    return -(-len(played.slots) // slots_per_column(len(played.slots), columns))


def fold_slots(slots: Sequence[SlotItem], columns: int) -> list[Sequence[SlotItem]]:
    each = slots_per_column(len(slots), columns)
    return [slots[first : first + each] for first in range(0, len(slots), each)]


def bars(counts: Sequence[int], most: int, blocks: str) -> str:
    """Return a block for each count. The lowest block means at least one, a space means zero."""
    top = len(blocks)
    return "".join(" " if not count else blocks[-(-count * top // most) - 1] for count in counts)


def levels(shares: Sequence[float | None], blocks: str) -> str:
    """Return a block for each share. The lowest block means empty; a space means unknown, because there was no
    request.
    """
    top = len(blocks) - 1
    return "".join(" " if share is None else blocks[round(min(max(share, 0), 1) * top)] for share in shares)


def render_text(
    played: SimulationResult, columns: int, *, ascii: bool = False, shown: Callable[[str], str] = str
) -> str:
    """Return plain text for a file or a pipe."""
    width = column_count(played, columns)
    return "".join(
        f"{shown(''.join(row.text(width)).rstrip() if row.blocks else row.name)}\n"
        for row in chart_rows(played, columns, ascii=ascii)
    )
