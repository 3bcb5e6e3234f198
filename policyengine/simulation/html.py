"""What was played as a page to look at and print. Nothing runs, and nothing that a policy says is more than text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyengine.simulation.microseconds import format_time, format_timestamp
from policyengine.simulation.result import SimulatedLimit, SimulationResult, outcome_counts
from policyengine.simulation.svg import CSS_CLASSES, STYLE, escape_text, inline_panel, panels
from policyengine.simulation.time_slots import LimitCounts

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #5c636e; --paper: #fff; --edge: #d5d8dc; --link: #0b57d0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6eb; --dim: #9aa3b0; --paper: #16181c; --edge: #3a3f47;
  --link: #8ab4f8 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem; max-width: 60rem; color: var(--ink);
  background: var(--paper) }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .5rem }
p { margin: .25rem 0 .5rem; overflow-wrap: anywhere }
figure { margin: 1.25rem 0 }
figure svg { display: block; width: 100%; height: auto }
.dim { color: var(--dim) }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 0 }
.key svg { width: .8rem; height: .8rem; margin-right: .4rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--edge); font-weight: 400;
  overflow-wrap: anywhere }
thead th { color: var(--dim); font-size: .875rem; overflow-wrap: normal }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
summary { cursor: pointer; color: var(--link); margin-top: 1.75rem }
@media (max-width: 34rem) { body { padding: 1rem .6rem } th, td { padding-right: .4rem; font-size: .8rem } }
@media print { body { max-width: none; padding: 0; font-size: 10pt } figure, tr { break-inside: avoid } }
"""
LIMIT_COLUMNS = ("applied to", "admitted", "throttled", "least left")


def render_html(played: SimulationResult) -> str:
    return "\n".join(page_lines(played)) + "\n"


def page_lines(played: SimulationResult) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape_text(played.title)}</title>\n<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n<main>"
    yield f"<h1>{escape_text(played.title)}</h1>"
    yield from (f'<p class="dim">{escape_text(line)}</p>' for line in played.words)
    yield f'<p class="dim">from {format_time(played.start)}, {played.every} in a column</p>'
    yield from (f"<p>note: {escape_text(note)}</p>" for note in played.notes)
    yield from legend_lines(played)
    yield from (
        f"<figure>{inline_panel(played, one, f'p{number}')}</figure>" for number, one in enumerate(panels(played))
    )
    yield from limits_table(played)
    yield from callers_table(played)
    yield from numbers_table(played)
    yield "</main>\n</body>\n</html>"


def legend_lines(played: SimulationResult) -> Iterator[str]:
    """By its words, which stand in the order of the columns from below."""
    yield '<div class="key">'
    for name, count in outcome_counts(played.total):
        swatch = (
            f'<svg class="chart" viewBox="0 0 10 10" aria-hidden="true"><rect class="{CSS_CLASSES[name]}" width="10" '
        )
        yield f'<span>{swatch}height="10" rx="2"/></svg>{name}: {count:,}</span>'
    yield "</div>"


def limits_table(played: SimulationResult) -> Iterator[str]:
    if not played.limits:
        return
    yield "<h2>Rates and budgets</h2>"
    yield from html_table("limit", LIMIT_COLUMNS, (limit_row(played, limit) for limit in played.limits))


def limit_row(played: SimulationResult, limit: SimulatedLimit) -> tuple[str, ...]:
    line = played.total.rules.get(limit.name) or LimitCounts()
    left = "–" if line.remaining is None else f"{line.remaining:,} of {line.limit:,}"
    name = f"{limit.kind} “{limit.name}” ({limit.at})"
    return name, f"{line.asked:,}", f"{line.admitted:,}", f"{line.throttled:,}", left


def callers_table(played: SimulationResult) -> Iterator[str]:
    if played.callers:
        yield "<h2>Throttled most</h2>"
        yield from html_table("caller", ("times",), ((one.words, f"{one.times:,}") for one in played.callers))


def numbers_table(played: SimulationResult) -> Iterator[str]:
    """The chart as a table, for those who do not see it."""
    yield "<details>\n<summary>All numbers</summary>"
    names = [name for name, _ in outcome_counts(played.total)]
    rows = (
        (
            format_timestamp(played.start + place * played.series.width),
            *(f"{count:,}" for _, count in outcome_counts(slot)),
        )
        for place, slot in enumerate(played.slots)
        if slot.events
    )
    yield from html_table("from", names, rows)
    yield "</details>"


def html_table(what: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    heads = "".join(f'<th scope="col" class="number">{escape_text(one)}</th>' for one in columns)
    yield f'<table>\n<thead><tr><th scope="col">{escape_text(what)}</th>{heads}</tr></thead>\n<tbody>'
    for name, *cells in rows:
        numbers = "".join(f'<td class="number">{escape_text(cell)}</td>' for cell in cells)
        yield f'<tr><th scope="row">{escape_text(name)}</th>{numbers}</tr>'
    yield "</tbody>\n</table>"
