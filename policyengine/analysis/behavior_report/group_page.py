"""Draws groups of callers that move as one for a page: a row for each caller, with marks where they moved together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policyengine.analysis.behavior_report.group_report import MAX_RASTER_CALLERS, raster_callers, sum_evidence
from policyengine.analysis.behavior_report.group_text import format_seconds, format_share, format_time
from policyengine.analysis.behavior_report.words import count_words
from policyengine.behavior.events import caller_words
from policyengine.behavior.lockstep.group import LockstepGroup

WIDTH, HEIGHT = 1_000, 16  # of a row, in units of the drawing
MARK_WIDTH = 4
NEWCOMER, RESIDENT = "deny", "plain"  # classes of the style sheet


@dataclass(frozen=True, slots=True)
class RasterRow:
    """A caller of a group. `path` has a mark for each moment of the group at which the caller moved."""

    name: str
    css_class: str
    path: str
    title: str


@dataclass(frozen=True, slots=True)
class GroupRaster:
    """A drawing of a group: its rows over time, and the reason why its callers are a group. `times` are labels of the
    start, the middle and the end of the drawing."""

    title: str
    reasons: str
    note: str
    kinds: Sequence[tuple[str, str, int]]
    rows: Sequence[RasterRow]
    times: Sequence[str]
    command: str
    check: str


def draw_group(group: LockstepGroup, command: str, check: str) -> GroupRaster:
    """Return the drawing of a group. `command` prints its moments, and `check` is what the command prints."""
    times = [moment.at for moment in group.moments]
    first, last = (times[0], times[-1]) if times else (group.minutes.first, group.minutes.last)
    movers = [frozenset(caller for caller, _ in moment.members) for moment in group.moments]
    pooled = frozenset(group.pooled)
    rows = []
    for caller in raster_callers(group):
        own = [at for at, members in zip(times, movers, strict=True) if caller in members]
        path = "".join(f"M{mark_position(at, first, last)} 0h{MARK_WIDTH}v{HEIGHT}h-{MARK_WIDTH}z" for at in own)
        css_class = NEWCOMER if caller in pooled else RESIDENT
        title = f"moved with others at {len(own):,} of {count_words(len(times), 'time')}"
        rows.append(RasterRow(caller_words(caller), css_class, path, title))
    kinds = (("newcomers", NEWCOMER, len(group.pooled)), ("residents", RESIDENT, len(group.reported)))
    return GroupRaster(
        f"Group {group.id}", reason_words(group), note_words(group), [kind for kind in kinds if kind[2]], rows,
        [format_time(at) for at in (first, (first + last) // 2, last)], command, check,
    )  # fmt: skip


def mark_position(at: int, first: int, last: int) -> int:
    """Return where the mark of a time begins."""
    return round((at - first) * (WIDTH - MARK_WIDTH) / max(last - first, 1))


def reason_words(group: LockstepGroup) -> str:
    """Return why the callers are a group."""
    found = sum_evidence(group)
    runs = count_words(found.least_common, "run")
    return (
        f"Each caller has at least {runs} in common with another member, within {format_seconds(group.slot // 2)}; at "
        f"most {found.expected:.1f} are expected by chance. Of pairs of callers like these, a share of at most "
        f"{format_share(found.q_value)} is found by chance."
    )


def note_words(group: LockstepGroup) -> str:
    """Return which part of the group is not in the drawing; empty if the drawing shows the whole group."""
    parts = []
    if len(group.moments) < group.minutes.total:
        parts.append(f"the {len(group.moments):,} of {group.minutes.total:,} common minutes with the most callers")
    if len(group.members) > MAX_RASTER_CALLERS:
        parts.append(f"{MAX_RASTER_CALLERS:,} of {len(group.members):,} callers")
    return f"Shown: {'; '.join(parts)}." if parts else ""
