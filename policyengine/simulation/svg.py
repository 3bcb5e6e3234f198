"""What was played as a drawing: a panel for all requests and one for each limit. Nothing in it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from policyengine.simulation.microseconds import DAY_US, to_datetime
from policyengine.simulation.result import SimulatedLimit, SimulationResult, outcome_counts
from policyengine.simulation.text import fold_slots, sum_limit_counts
from policyengine.simulation.time_slots import sum_slots

WIDTH, LEFT, RIGHT = 720, 76, 12
TOP, BARS, GAP, LEVEL, BOTTOM = 58, 110, 12, 44, 26
LEGEND = 34
MAX_COLUMNS = 240
TICKS = 6
STYLE = """
.chart text { font: 13px system-ui, sans-serif; fill: #1c1e21 }
.chart .title { font-weight: 600; font-size: 14px }
.chart .dim { fill: #5c636e }
.chart .ground { fill: #ffffff }
.chart .edge { stroke: #d5d8dc; fill: none }
.chart .admitted { fill: #2f7d5b }
.chart .throttled { fill: #e08600 }
.chart .confirm { fill: #5566d6 }
.chart .denied { fill: #b3261e }
.chart .left { fill: #0b57d0; fill-opacity: .14; stroke: #0b57d0; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
.chart text { fill: #e4e6eb }
.chart .dim { fill: #9aa3b0 }
.chart .ground { fill: #16181c }
.chart .edge { stroke: #3a3f47 }
.chart .admitted { fill: #63c295 }
.chart .throttled { fill: #ffb347 }
.chart .confirm { fill: #9aa6ff }
.chart .denied { fill: #ff7d73 }
.chart .left { fill: #8ab4f8; stroke: #8ab4f8 }
}
@media (max-width: 34rem) {
.chart text { font-size: 22px }
.chart .title { font-size: 24px }
.chart .second { display: none }
}
"""
CSS_CLASSES = {"admitted": "admitted", "throttled": "throttled", "to confirm": "confirm", "denied": "denied"}


@dataclass(frozen=True, slots=True)
class Panel:
    """Counts stacked in columns, the first at the bottom; below them how much was left, 0 to 1 (None: unknown)."""

    title: str
    told: str
    counts: tuple[tuple[str, Sequence[int]], ...]
    left: Sequence[float | None] = ()

    @property
    def height(self) -> int:
        return TOP + BARS + (GAP + LEVEL if self.left else 0) + BOTTOM

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


def limit_panel(played: SimulationResult, limit: SimulatedLimit) -> Panel:
    lines = [sum_limit_counts(some) for some in fold_slots(played.lines(limit), MAX_COLUMNS)]
    whole = sum_limit_counts(lines)
    title = f"{limit.kind} “{limit.name}”: {limit.words}"
    if not whole.asked and not whole.throttled:
        return Panel(title, "it applied to none of them", ())
    told = f"{whole.admitted:,} admitted, {whole.throttled:,} throttled"
    if whole.remaining is not None:
        told += f"; at least {whole.remaining:,} of {whole.limit:,} left"
    counts = (("admitted", [one.admitted for one in lines]), ("throttled", [one.throttled for one in lines]))
    left = [None if one.remaining is None else one.remaining / max(one.limit, 1) for one in lines]
    return Panel(title, told, counts, left)


def render_svg(played: SimulationResult) -> str:
    """A document of its own."""
    every = list(panels(played))
    height = LEGEND + sum(panel.height for panel in every)
    drawn, top = [legend(played)], LEGEND
    for panel in every:
        drawn.append(f'<g transform="translate(0 {top})">{panel_body(played, panel)}</g>\n')
        top += panel.height
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    about = f"<title>{escape_text(played.title)}</title><desc>{escape_text(describe_panels(every))}</desc>"
    style = f"<style>{STYLE}</style>"
    ground = '<rect class="ground" width="100%" height="100%"/>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} role="img">'
    return f"{start}{about}{style}{ground}\n{''.join(drawn)}</svg>\n"


def inline_panel(played: SimulationResult, panel: Panel, name: str) -> str:
    """One panel inside of a page, which has the style."""
    about = (
        f'<title id="{name}-t">{escape_text(panel.title)}</title><desc id="{name}-d">{escape_text(panel.told)}</desc>'
    )
    start = f'<svg class="chart" viewBox="0 0 {WIDTH} {panel.height}" role="img" aria-labelledby="{name}-t {name}-d">'
    return f"{start}{about}{panel_body(played, panel)}</svg>"


def describe_panels(every: Sequence[Panel]) -> str:
    return " ".join(f"{panel.title}: {panel.told}." for panel in every)


def legend(played: SimulationResult) -> str:
    """In the order of the columns from below."""
    each = (WIDTH - LEFT - RIGHT) // len(CSS_CLASSES)
    return "".join(
        f'<rect class="{CSS_CLASSES[name]}" x="{LEFT + place * each}" y="14" width="11" height="11" rx="2"/>'
        f'<text x="{LEFT + place * each + 17}" y="24">{name}: {short_count(count)}</text>'
        for place, (name, count) in enumerate(outcome_counts(played.total))
    )


# ── A panel ───────────────────────────────────────────────────────────────────────────────────


def panel_body(played: SimulationResult, panel: Panel) -> str:
    title = f'<text class="title" x="{LEFT}" y="20">{escape_text(truncate(panel.title))}</text>'
    told = f'<text class="dim" x="{LEFT}" y="46">{escape_text(truncate(panel.told))}</text>'
    if not panel.counts:
        return title + told
    most = max(map(sum, zip(*(counts for _, counts in panel.counts), strict=True)), default=0)
    axis = (
        f'<path class="edge" d="M{LEFT} {TOP}V{TOP + BARS}H{WIDTH - RIGHT}"/>'
        f'<text class="dim" x="{LEFT - 6}" y="{TOP + 10}" text-anchor="end">{short_count(most)}</text>'
        f'<text class="dim" x="{LEFT - 6}" y="{TOP + BARS}" text-anchor="end">0</text>'
    )
    return (
        title
        + told
        + axis
        + "".join(_stacked_columns(panel, max(most, 1)))
        + _remaining_curve(panel)
        + _ticks(played, panel)
    )


def _stacked_columns(panel: Panel, most: int) -> Iterator[str]:
    """Each count is one path, however many columns it has."""
    wide = (WIDTH - LEFT - RIGHT) / panel.columns
    floors = [0] * panel.columns
    for name, counts in panel.counts:
        steps = []
        for place, count in enumerate(counts):
            if count:
                low, high = (TOP + BARS - BARS * level / most for level in (floors[place], floors[place] + count))
                steps.append(f"M{LEFT + place * wide:.1f} {low:.1f}V{high:.1f}h{wide * 0.92:.2f}V{low:.1f}z")
            floors[place] += count
        yield f'<path class="{CSS_CLASSES[name]}" d="{"".join(steps)}"/>'


def _remaining_curve(panel: Panel) -> str:
    """A step for each column, over those in which nobody asked; full is up."""
    if not panel.left:
        return ""
    wide, top = (WIDTH - LEFT - RIGHT) / panel.columns, TOP + BARS + GAP
    known, steps = 1.0, []
    for place, share in enumerate(panel.left):
        known = known if share is None else share
        steps.append(f"V{top + LEVEL * (1 - known):.1f}H{LEFT + (place + 1) * wide:.1f}")
    path = f'<path class="left" d="M{LEFT} {top + LEVEL}{"".join(steps)}V{top + LEVEL}z"/>'
    return (
        f'<path class="edge" d="M{LEFT} {top}V{top + LEVEL}H{WIDTH - RIGHT}"/>{path}'
        f'<text class="dim" x="{LEFT - 6}" y="{top + 12}" text-anchor="end">left</text>'
    )


def _ticks(played: SimulationResult, panel: Panel) -> str:
    width = played.series.width * len(played.slots)
    form = "%m-%d %H:%M" if width > DAY_US else "%H:%M" if width >= DAY_US // 144 else "%H:%M:%S"
    found = []
    for tick in range(TICKS + 1):
        at = to_datetime(played.start + width * tick // TICKS)
        x = LEFT + (WIDTH - LEFT - RIGHT) * tick / TICKS
        anchor = "end" if tick == TICKS else "start" if tick == 0 else "middle"
        second = " second" if tick % 3 else ""
        place = f'x="{x:.0f}" y="{panel.height - 6}" text-anchor="{anchor}"'
        found.append(f'<text class="dim{second}" {place}>{at:{form}}</text>')
    return "".join(found)


def short_count(count: int) -> str:
    """A number that fits beside a chart."""
    for least, unit in ((10_000_000, "M"), (10_000, "k")):
        if count >= least:
            return f"{count * 10 // least:,}{unit}"
    return f"{count:,}"


def truncate(words: str, most: int = 88) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def escape_text(words: str) -> str:
    """Text for XML, which knows no control characters."""
    return escape("".join(char if char.isprintable() else f"U+{ord(char):04X}" for char in words), {'"': "&quot;"})
