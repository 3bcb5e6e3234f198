"""The chart for the README: time of one decision by number of rules, both axes logarithmic, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from textwrap import wrap

from bench.child import Data
from bench.peers import ENTRIES, FLOOR, OURS
from bench.report import machine_words, version_words
from bench.trial import format_number

WIDTH, HEIGHT = 790, 504
LEFT, RIGHT, TOP, BOTTOM = 64, 246, 56, 108
LINE = 15  # px between two labels
COMPILED = "policyengine-compiled"  # engine of points that another run measured, with the compiled build
TITLES = {name: entry.title for name, entry in ENTRIES.items()}
BUILD_TITLES = {OURS.name: "policyengine, pure", COMPILED: "policyengine, compiled"}
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.small { font-size: 10px; fill: #59636e } .grid { stroke: #d1d9e0; stroke-width: 1 }
.line { fill: none; stroke: #8c959f; stroke-width: 1.5 } .dot { fill: #8c959f } .label { fill: #59636e }
.ours { stroke: #0969da; stroke-width: 3 } .dot.ours { fill: #0969da; stroke: none }
.label.ours { fill: #0969da; font-weight: 600; stroke: none }
.floor { stroke: #1f2328; stroke-dasharray: 4 3 } .dot.floor { fill: #1f2328; stroke: none }
.label.floor { fill: #1f2328; stroke: none }
@media (prefers-color-scheme: dark) {
 text { fill: #f0f6fc } .small, .label { fill: #9198a1 } .grid { stroke: #3d444d } .line { stroke: #656c76 }
 .dot { fill: #656c76 } .ours { stroke: #4493f8 } .dot.ours, .label.ours { fill: #4493f8 }
 .floor { stroke: #f0f6fc } .dot.floor, .label.floor { fill: #f0f6fc }
}
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (log10(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def svg(data: Sequence[Data], machine: dict[str, object]) -> str:
    """Return the chart of the data of `decide`; an engine has no point at a size where it was not timed. Raises
    ValueError for fewer than two sizes.
    """
    lines = _points_by_engine(data)
    titles = TITLES | BUILD_TITLES if COMPILED in lines else TITLES
    values = [one["p50_us"] for points in lines.values() for one in points]
    sizes = sorted({one["size"] for points in lines.values() for one in points})
    if len(sizes) < 2:
        raise ValueError("a chart needs `decide` at two sizes or more")
    across = Scale(log10(sizes[0]), log10(sizes[-1]), LEFT, WIDTH - RIGHT)
    up = Scale(floor(log10(min(values))), ceil(log10(max(values))), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="t">',
        f"<style>{STYLE}</style>",
        f'<title id="t">{escape(_summary(lines, titles))}</title>',
        f'<text class="title" x="{LEFT - 48}" y="24">One decision, µs (median, request in, verdict out)</text>',
        *_grid(sizes, across, up),
        *_draw_lines(lines, titles, across, up),
        *_footnotes(machine_words(machine), *wrap(version_words(machine), 140)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _footnotes(*lines: str) -> list[str]:
    """Return the footnotes with their heights, from the bottom up to the axis."""
    heights = range(HEIGHT - 10 - 14 * (len(lines) - 1), HEIGHT, 14)
    return [
        f'<text class="small" x="{LEFT - 48}" y="{height}">{escape(line)}</text>'
        for height, line in zip(heights, lines, strict=True)
    ]


def compiled_points(data: Sequence[Data]) -> list[Data]:
    """Return the measured points of the compiled build, as another engine of the chart."""
    return [{**one, "engine": COMPILED} for one in data if one["engine"] == OURS.name and "p50_us" in one]


def _points_by_engine(data: Sequence[Data]) -> dict[str, list[Data]]:
    """Return the points by engine, ours last so that it is drawn on top."""
    found: dict[str, list[Data]] = {}
    for one in sorted(data, key=lambda one: (one["engine"] in (OURS.name, COMPILED), one["engine"] == FLOOR.name)):
        if "p50_us" in one:
            found.setdefault(one["engine"], []).append(one)
    return found


def _summary(lines: dict[str, list[Data]], titles: dict[str, str]) -> str:
    """Return the text alternative for screen readers: the last point of every line."""
    ends = [f"{titles[name]} {format_number(points[-1]['p50_us'])}" for name, points in lines.items()]
    return f"Microseconds a decision at the most rules measured: {', '.join(reversed(ends))}"


def _grid(sizes: Sequence[int], across: Scale, up: Scale) -> list[str]:
    parts = []
    for power in range(round(up.low), round(up.high) + 1):
        y = up(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="label" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{10.0**power:,g}</text>')
    for size in sizes:
        x = across(size)
        parts.append(f'<text class="label" x="{x}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle">rules</text>')
    return parts


def _draw_lines(lines: dict[str, list[Data]], titles: dict[str, str], across: Scale, up: Scale) -> list[str]:
    parts = []
    for name, points in lines.items():
        kind = _line_class(name)
        path = " ".join(f"{across(one['size'])},{up(one['p50_us'])}" for one in points)
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        parts += [
            f'<circle class="dot {kind}" r="3" cx="{across(one["size"])}" cy="{up(one["p50_us"])}"/>' for one in points
        ]
    ends = {name: up(points[-1]["p50_us"]) for name, points in lines.items()}
    for name, y in _spread_labels(ends).items():
        last = lines[name][-1]
        words = f"{titles[name]}  {format_number(last['p50_us'])}" + _largest_size_note(last, lines)
        x = WIDTH - RIGHT + 12
        parts.append(f'<text class="label {_line_class(name)}" x="{x}" y="{y + 4}">{escape(words)}</text>')
    return parts


def _largest_size_note(last: Data, lines: dict[str, list[Data]]) -> str:
    """Return the number of rules at which a line ends, if it ends early."""
    largest = max(points[-1]["size"] for points in lines.values())
    return "" if last["size"] == largest else f" at {last['size']:,}"


def _line_class(name: str) -> str:
    return {OURS.name: "ours", COMPILED: "ours", FLOOR.name: "floor"}.get(name, "peer")


def _spread_labels(wanted: dict[str, float]) -> dict[str, float]:
    """Return heights of labels from top to bottom, each as near to its line as it can be without overlap."""
    placed: dict[str, float] = {}
    below = float(TOP - LINE)
    for name, y in sorted(wanted.items(), key=lambda item: item[1]):
        below = max(y, below + LINE)
        placed[name] = below
    over = below - (HEIGHT - BOTTOM)
    limit = float(HEIGHT - BOTTOM)
    for name in reversed(placed) if over > 0 else ():
        placed[name] = min(placed[name], limit)
        limit = placed[name] - LINE
    return placed
