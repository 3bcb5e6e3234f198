"""Renders a simulation as SVG without scripts: a panel for all requests and one for each limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policyengine.clock import MICROSECONDS_PER_DAY, from_epoch_microseconds
from policyengine.simulation.result import SimulatedCaller, SimulatedLimit, SimulationResult, outcome_counts
from policyengine.simulation.text import (
    fold_slots,
    pace_changes,
    pace_words,
    sum_learned,
    sum_limit_counts,
    trust_range,
)
from policyengine.simulation.time_slots import CallerCounts, sum_slots
from policyengine.templates import render_template

WIDTH, LEFT, RIGHT = 720, 76, 12
TOP, BARS, GAP, LEVEL, BOTTOM = 58, 110, 12, 44, 26
LEGEND = 34
MAX_COLUMNS = 240
TICKS = 6
WEEK = 7 * MICROSECONDS_PER_DAY
CSS_CLASSES = {
    "admitted": "admitted",
    "throttled": "throttled",
    "to confirm": "confirm",
    "denied": "denied",
    "bursts": "denied",
    "new endpoints": "throttled",
}
OUTCOMES = 4  # number of legend entries that are outcomes; they come first


@dataclass(frozen=True, slots=True)
class ChartAxes:
    """The positions of the axes of every panel, in pixels."""

    left: int = LEFT
    right: int = WIDTH - RIGHT
    label: int = LEFT - 6
    top: int = TOP
    bottom: int = TOP + BARS


@dataclass(frozen=True, slots=True)
class LegendEntry:
    name: str
    css_class: str
    x: int
    number: int
    count: str


@dataclass(frozen=True, slots=True)
class ColumnPath:
    """All columns of one outcome, as one path."""

    css_class: str
    path: str


@dataclass(frozen=True, slots=True)
class TimeTick:
    """A label of the time axis. A `second` label is hidden on narrow screens."""

    x: str
    anchor: str
    text: str
    second: bool


@dataclass(frozen=True, slots=True)
class StripShape:
    """A curve below the columns, with its label and its edges."""

    label: str
    path: str
    top: int
    bottom: int


@dataclass(frozen=True, slots=True)
class PanelShape:
    """A panel with its layout; `heading` and `subheading` are its texts, truncated to fit."""

    title: str
    told: str
    heading: str
    subheading: str
    height: int
    y: int
    most: str = "0"
    columns: Sequence[ColumnPath] = ()
    strips: Sequence[StripShape] = ()
    ticks: Sequence[TimeTick] = ()


@dataclass(frozen=True, slots=True)
class PanelStrip:
    """A share over time, from 0 to 1; None for a column without requests, which keeps the previous level. `first` is
    the level before the first request."""

    label: str
    shares: Sequence[float | None]
    first: float = 0.0


@dataclass(frozen=True, slots=True)
class Panel:
    """Counts as stacked columns, the first count at the bottom, and below the columns shares as curves."""

    title: str
    told: str
    counts: tuple[tuple[str, Sequence[int]], ...]
    strips: tuple[PanelStrip, ...] = ()

    @property
    def height(self) -> int:
        return TOP + BARS + (GAP + LEVEL) * len(self.strips) + BOTTOM

    @property
    def columns(self) -> int:
        return max((len(counts) for _, counts in self.counts), default=0)


def panels(played: SimulationResult) -> Iterator[Panel]:
    whole = played.total
    shown = [name for name, count in outcome_counts(whole) if count or name == "admitted"]
    columns = [dict(outcome_counts(sum_slots(some))) for some in fold_slots(played.slots, MAX_COLUMNS)]
    counts = tuple((name, [one[name] for one in columns]) for name in shown)
    yield Panel("All requests", played.title, counts)
    for limit in played.limits:
        yield limit_panel(played, limit)
    if played.learning:
        yield learned_panel(played)
        for caller in played.learned:
            yield caller_panel(caller)


def learned_panel(played: SimulationResult) -> Panel:
    """Return the alarms of all callers over time, and the share of callers that are ready."""
    folded = [sum_slots(some) for some in fold_slots(played.slots, MAX_COLUMNS)]
    callers, total = len(played.series.classes), played.learned_total
    counts = (
        ("bursts", [sum(one.bursts for one in slot.learned.values()) for slot in folded]),
        (
            "new endpoints",
            [sum(one.new_endpoints + one.new_shapes for one in slot.learned.values()) for slot in folded],
        ),
    )
    ready = [
        sum(one.ready for one in slot.learned.values()) / len(slot.learned) if slot.learned else None for slot in folded
    ]
    told = (
        f"{played.ready_callers:,} of {callers:,} callers ready; alarms: {total.bursts:,} bursts (red), "
        f"{total.new_endpoints:,} at new endpoints (orange)"
        f"{f', {total.new_shapes:,} with new shapes of payloads (orange)' if total.new_shapes else ''}"
    )
    return Panel("Learned behavior", told, counts, (PanelStrip("ready", ready),))


def caller_panel(one: SimulatedCaller) -> Panel:
    """Return the requests of a caller over time, its trust, its pace and its alarms."""
    folded = [sum_learned(some) for some in fold_slots(one.slots, MAX_COLUMNS)]
    columns = [dict(outcome_counts(slot or CallerCounts())) for slot in folded]
    shown = [name for name, count in outcome_counts(one.total) if count or name == "admitted"]
    counts = tuple((name, [column[name] for column in columns]) for name in shown)
    trust = [None if slot is None or slot.trust is None else slot.trust / 1_000 for slot in folded]
    strips = [PanelStrip("trust", trust, 0.5)]
    told = [f"trust {trust_range(one)}"]
    if pace_changes(one.total):
        paces = [None if slot is None else slot.pace / one.fastest for slot in folded]
        strips.append(PanelStrip("pace", paces, 1 / one.fastest))
        told.append(f"pace {pace_words(one.total)}")
    if one.total.alarms:
        strips.append(PanelStrip("alarms", [float(slot is not None and slot.alarms > 0) for slot in folded]))
        told.append(alarm_words(one.total))
    return Panel(one.words, "; ".join(told), counts, tuple(strips))


def alarm_words(counts: CallerCounts) -> str:
    """Return the alarms of a caller; kinds without an alarm are left out, because a panel has only one line."""
    alarms = {
        "bursts": counts.bursts,
        "at new endpoints": counts.new_endpoints,
        "with new shapes": counts.new_shapes,
    }
    return ", ".join(f"{count:,} {what}" for what, count in alarms.items() if count)


def limit_panel(played: SimulationResult, limit: SimulatedLimit) -> Panel:
    lines = [sum_limit_counts(some) for some in fold_slots(played.lines(limit), MAX_COLUMNS)]
    whole = sum_limit_counts(lines)
    title = f"{limit.kind} “{limit.name}”: {limit.words}"
    if not whole.asked and not whole.throttled:
        return Panel(title, "it applied to no request", ())
    told = f"{whole.admitted:,} admitted, {whole.throttled:,} throttled"
    if whole.remaining is not None:
        told += f"; at least {whole.remaining:,} of {whole.limit:,} left"
    counts = (("admitted", [one.admitted for one in lines]), ("throttled", [one.throttled for one in lines]))
    left = [None if one.remaining is None else one.remaining / max(one.limit, 1) for one in lines]
    return Panel(title, told, counts, (PanelStrip("left", left, 1.0),))


def render_svg(played: SimulationResult) -> str:
    """Return a complete SVG document."""
    drawings = draw_panels(played)
    return render_template(
        __file__,
        "chart.svg.j2",
        title=played.title,
        description=describe_panels(drawings),
        width=WIDTH,
        height=LEGEND + sum(drawing.height for drawing in drawings),
        legend=legend(played),
        panels=drawings,
        axes=ChartAxes(),
    )


def describe_panels(drawings: Sequence[PanelShape]) -> str:
    return " ".join(f"{drawing.title}: {drawing.told}." for drawing in drawings)


def legend(played: SimulationResult) -> list[LegendEntry]:
    """Return the legend in the order of the columns, from below."""
    each = (WIDTH - LEFT - RIGHT) // OUTCOMES
    return [
        LegendEntry(name, CSS_CLASSES[name], LEFT + place * each, count, short_count(count))
        for place, (name, count) in enumerate(outcome_counts(played.total))
    ]


# ── A panel ───────────────────────────────────────────────────────────────────────────────────


def draw_panels(played: SimulationResult) -> list[PanelShape]:
    """Return the panels, one below the other."""
    drawings, y = list[PanelShape](), LEGEND
    for panel in panels(played):
        drawings.append(draw_panel(played, panel, y))
        y += panel.height
    return drawings


def draw_panel(played: SimulationResult, panel: Panel, y: int) -> PanelShape:
    words = panel.title, panel.told, truncate(panel.title), truncate(panel.told)
    if not panel.counts:
        return PanelShape(*words, panel.height, y)
    most = max(map(sum, zip(*(counts for _, counts in panel.counts), strict=True)), default=0)
    columns = list(_stacked_columns(panel, max(most, 1)))
    strips, ticks = list(_strips(panel)), list(_ticks(played))
    return PanelShape(*words, panel.height, y, short_count(most), columns, strips, ticks)


def _stacked_columns(panel: Panel, most: int) -> Iterator[ColumnPath]:
    """Yield one path for each count, which covers all its columns."""
    wide = (WIDTH - LEFT - RIGHT) / panel.columns
    floors = [0] * panel.columns
    for name, counts in panel.counts:
        steps = []
        for place, count in enumerate(counts):
            if count:
                low, high = (TOP + BARS - BARS * level / most for level in (floors[place], floors[place] + count))
                steps.append(f"M{LEFT + place * wide:.1f} {low:.1f}V{high:.1f}h{wide * 0.92:.2f}V{low:.1f}z")
            floors[place] += count
        yield ColumnPath(CSS_CLASSES[name], "".join(steps))


def _strips(panel: Panel) -> Iterator[StripShape]:
    """Yield a curve for each share, with a step for each column; columns without requests keep the level."""
    wide = (WIDTH - LEFT - RIGHT) / panel.columns
    for number, strip in enumerate(panel.strips):
        top = TOP + BARS + GAP + number * (GAP + LEVEL)
        level, steps = strip.first, []
        for place, share in enumerate(strip.shares):
            level = level if share is None else share
            steps.append(f"V{top + LEVEL * (1 - level):.1f}H{LEFT + (place + 1) * wide:.1f}")
        path = f"M{LEFT} {top + LEVEL}{''.join(steps)}V{top + LEVEL}z"
        yield StripShape(strip.label, path, top, top + LEVEL)


def _ticks(played: SimulationResult) -> Iterator[TimeTick]:
    width = played.series.width * len(played.slots)
    short = "%H:%M" if width >= MICROSECONDS_PER_DAY // 144 else "%H:%M:%S"
    form = "%m-%d" if width > WEEK else "%m-%d %Hh" if width > MICROSECONDS_PER_DAY else short
    for tick in range(TICKS + 1):
        at = from_epoch_microseconds(played.start + width * tick // TICKS)
        x = LEFT + (WIDTH - LEFT - RIGHT) * tick / TICKS
        anchor = "end" if tick == TICKS else "start" if tick == 0 else "middle"
        yield TimeTick(f"{x:.0f}", anchor, f"{at:{form}}", bool(tick % 3))


def short_count(count: int) -> str:
    """Return a number that fits next to a chart."""
    for least, unit in ((10_000_000, "M"), (10_000, "k")):
        if count >= least:
            return f"{count * 10 // least:,}{unit}"
    return f"{count:,}"


def truncate(words: str, most: int = 88) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
