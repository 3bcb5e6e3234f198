"""Renders a simulation as an HTML page for a screen or a printer. The page has no scripts, and all policy texts are
escaped.
"""

from __future__ import annotations

from policyengine.simulation.microseconds import format_time, format_timestamp
from policyengine.simulation.result import SimulatedCaller, SimulatedLimit, SimulationResult, outcome_counts
from policyengine.simulation.svg import WIDTH, ChartAxes, draw_panels, legend
from policyengine.simulation.time_slots import LimitCounts
from policyengine.templates import render_template

LIMIT_COLUMNS = ("applied to", "admitted", "throttled", "minimum left")
LEARNED_COLUMNS = ("admitted", "stopped", "alarms", "trust")


def render_html(played: SimulationResult) -> str:
    return render_template(
        __file__,
        "page.html.j2",
        title=played.title,
        words=played.words,
        start=format_time(played.start),
        every=played.every,
        notes=played.notes,
        legend=legend(played),
        panels=draw_panels(played),
        axes=ChartAxes(),
        width=WIDTH,
        limit_columns=LIMIT_COLUMNS,
        limits=[limit_row(played, limit) for limit in played.limits],
        learned_columns=LEARNED_COLUMNS,
        learned=[learned_row(caller) for caller in played.learned] if played.learning else [],
        callers=[(caller.words, f"{caller.times:,}") for caller in played.callers],
        outcomes=[name for name, _ in outcome_counts(played.total)],
        slots=slot_rows(played),
    )


def limit_row(played: SimulationResult, limit: SimulatedLimit) -> tuple[str, ...]:
    line = played.total.rules.get(limit.name) or LimitCounts()
    left = "–" if line.remaining is None else f"{line.remaining:,} of {line.limit:,}"
    name = f"{limit.kind} “{limit.name}” ({limit.at})"
    return name, f"{line.asked:,}", f"{line.admitted:,}", f"{line.throttled:,}", left


def learned_row(one: SimulatedCaller) -> tuple[str, ...]:
    counts, trust = one.total, one.total.trust or 0
    stopped = counts.events - counts.allow
    return one.words, f"{counts.allow:,}", f"{stopped:,}", f"{counts.alarms:,}", f"{trust / 1_000:.2f}"


def slot_rows(played: SimulationResult) -> list[tuple[str, ...]]:
    """Return the chart as a table, for readers who cannot see the chart."""
    return [
        (
            format_timestamp(played.start + place * played.series.width),
            *(f"{count:,}" for _, count in outcome_counts(slot)),
        )
        for place, slot in enumerate(played.slots)
        if slot.events
    ]
