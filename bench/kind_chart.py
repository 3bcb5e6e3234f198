"""The chart of `kinds`: what a decision costs by kind of question, as a multiple of the floor, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10
from textwrap import wrap
from typing import TypeAlias

from bench.chart import STYLE, Scale
from bench.child import Data
from bench.peers import KIND_PEERS
from bench.report import machine_words, version_words
from bench.trial import format_number

WIDTH, LEFT, RIGHT, TOP, ROW = 790, 158, 148, 84, 22
PEERS = {entry.name: entry.title for entry in KIND_PEERS}
SHAPES = dict(zip(PEERS, ("triangle", "square", "diamond"), strict=True))
MORE_STYLE = """
.peer { fill: none; stroke: #8c959f; stroke-width: 1.5 } .pure { fill: none; stroke: #0969da; stroke-width: 2 }
.compiled { fill: #0969da } .span { stroke: #0969da; stroke-width: 2; opacity: .35 }
@media (prefers-color-scheme: dark) {
 .peer { stroke: #656c76 } .pure, .span { stroke: #4493f8 } .compiled { fill: #4493f8 }
}
"""
Rows: TypeAlias = dict[str, Data]


def svg(size: int, pure: Sequence[Data], compiled: Sequence[Data], machine: dict[str, object]) -> str:
    """Return the chart of both builds at one number of rules; peers are those of the pure build's run, or else of the
    other's, in which they may not be installed."""
    builds = {"pure": _rows_at(pure, size), "compiled": _rows_at(compiled, size)}
    peers = {one["peer"]: _by_kind(one) for one in (*compiled, *pure) if "peer" in one}
    kinds = list(builds["pure"])
    ratios = [row["ratio"] for rows in (*builds.values(), *peers.values()) for row in rows.values() if "ratio" in row]
    bottom = TOP + ROW * len(kinds)
    across = Scale(min(0.0, log10(min(ratios))), log10(max(ratios) * 1.2), LEFT, WIDTH - RIGHT)
    notes = [machine_words(machine), *wrap(version_words(machine), 140)]
    height = bottom + 24 + 14 * len(notes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="t">',
        f"<style>{STYLE}{MORE_STYLE}</style>",
        f'<title id="t">{escape(_summary(builds))}</title>',
        f'<text class="title" x="16" y="24">One decision by kind of question, as a multiple of the floor, {size:,} '
        "rules</text>",
        *_legend(),
        *_grid(across, bottom),
        f'<text class="label" x="{WIDTH - RIGHT + 12}" y="{TOP - 14}">compiled, pure: µs</text>',
        *(part for place, kind in enumerate(kinds) for part in _row(kind, place, across, builds, peers)),
        *_footnotes(height, *notes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rows_at(data: Sequence[Data], size: int) -> Rows:
    return _by_kind(next(one for one in data if "peer" not in one and one["size"] == size))


def _by_kind(one: Data) -> Rows:
    return {row["kind"]: row for row in one["kinds"]}


def _summary(builds: dict[str, Rows]) -> str:
    """Return the text alternative for screen readers."""
    listed = [f"{kind} {format_number(row['ratio'])}" for kind, row in builds["compiled"].items()]
    return f"Multiples of the floor, compiled: {', '.join(listed)}"


def _legend() -> list[str]:
    names = {"compiled": "policyengine, compiled", "pure": "policyengine, pure", **PEERS}
    parts, x = [], 22.0
    for name, title in names.items():
        parts.append(_mark(name, x, 46))
        parts.append(f'<text class="label" x="{x + 10}" y="50">{escape(title)}</text>')
        x += 36 + 6.4 * len(title)
    return parts


def _grid(across: Scale, bottom: int) -> list[str]:
    parts = []
    for power in range(floor(across.high) + 1):
        x = across(10.0**power)
        kind = "line floor" if power == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}"/>')
        words = "floor" if power == 0 else f"{10.0**power:,g}×"
        parts.append(f'<text class="label" x="{x}" y="{TOP - 14}" text-anchor="middle">{words}</text>')
    return parts


def _row(kind: str, place: int, across: Scale, builds: dict[str, Rows], peers: dict[str, Rows]) -> list[str]:
    y = TOP + ROW * place + ROW // 2
    pure, compiled = builds["pure"][kind], builds["compiled"][kind]
    times = f"{format_number(compiled['p50_us'])}, {format_number(pure['p50_us'])}"
    left, right = sorted((across(compiled["ratio"]), across(pure["ratio"])))
    marks = [
        _mark(name, across(rows[kind]["ratio"]), y) for name, rows in peers.items() if "ratio" in rows.get(kind, {})
    ]
    return [
        f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(kind)}</text>',
        f'<line class="span" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>',
        *marks,
        _mark("pure", across(pure["ratio"]), y),
        _mark("compiled", across(compiled["ratio"]), y),
        f'<text class="label" x="{WIDTH - RIGHT + 12}" y="{y + 4}">{times}</text>',
    ]


def _mark(name: str, x: float, y: float) -> str:
    match SHAPES.get(name):
        case "triangle":
            return f'<path class="peer" d="M{x - 4} {y + 3.5}L{x} {y - 4}L{x + 4} {y + 3.5}Z"/>'
        case "square":
            return f'<rect class="peer" x="{x - 3.5}" y="{y - 3.5}" width="7" height="7"/>'
        case "diamond":
            return f'<path class="peer" d="M{x} {y - 5}L{x + 5} {y}L{x} {y + 5}L{x - 5} {y}Z"/>'
        case _:
            return f'<circle class="{name}" r="4.5" cx="{x}" cy="{y}"/>'


def _footnotes(height: int, *lines: str) -> list[str]:
    return [
        f'<text class="small" x="16" y="{height - 10 - 14 * (len(lines) - 1 - place)}">{escape(line)}</text>'
        for place, line in enumerate(lines)
    ]
