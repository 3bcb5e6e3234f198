"""Stacked columns over time, as the paths of an SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from policyengine.audit.query.query import QueryAnswer

WIDTH, HEIGHT = 960, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 6, 12, 26  # edges of the plot
GRID_LINES = 4
MAX_COLUMNS = 400
MIN_LABEL_DISTANCE = 96  # between labels of the time, in units of the drawing
STEPS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class ChartSeries:
    name: str
    css_class: str
    total: int
    path: str


@dataclass(frozen=True, slots=True)
class ChartColumn:
    """A column of the chart, with the text that appears when the pointer rests on it."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class ChartLabel:
    position: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class TimeChart:
    series: tuple[ChartSeries, ...]
    columns: tuple[ChartColumn, ...]
    times: tuple[ChartLabel, ...]
    values: tuple[ChartLabel, ...]


def stacked_chart(
    counts: Mapping[str, Mapping[str, int]], buckets: Sequence[str], styles: Mapping[str, str]
) -> TimeChart | None:
    """Return the chart of counts by series and bucket, or None without buckets; `styles` has the class of each series,
    from the bottom up.
    """
    if not buckets:
        return None
    sums = [sum(some.get(bucket, 0) for some in counts.values()) for bucket in buckets]
    most = nice_maximum(max(sums))
    step = (WIDTH - LEFT - RIGHT) / len(buckets)
    gap = min(2.0, step * 0.18)
    height = HEIGHT - TOP - BOTTOM
    base = [0] * len(buckets)
    series = []
    for name, css_class in styles.items():
        some = counts.get(name, {})
        path = []
        for place, bucket in enumerate(buckets):
            value = some.get(bucket, 0)
            if value:
                bottom = HEIGHT - BOTTOM - base[place] * height / most
                x, tall = LEFT + place * step + gap / 2, value * height / most
                path.append(f"M{x:.1f} {bottom:.1f}v{-tall:.1f}h{step - gap:.1f}v{tall:.1f}z")
                base[place] += value
        if path:
            series.append(ChartSeries(name, css_class, sum(some.values()), "".join(path)))
    columns = [
        ChartColumn(LEFT + place * step, step, column_text(bucket, counts, styles))
        for place, bucket in enumerate(buckets)
    ]
    return TimeChart(tuple(series), tuple(columns), time_labels(buckets, step), value_labels(most))


def column_text(bucket: str, counts: Mapping[str, Mapping[str, int]], names: Mapping[str, str]) -> str:
    parts = [f"{name}: {counts[name][bucket]:,}" for name in names if counts.get(name, {}).get(bucket)]
    return "\n".join([short_time(bucket), *parts])


def time_labels(buckets: Sequence[str], step: float) -> tuple[ChartLabel, ...]:
    """Return labels that do not overlap; the first and last stay inside the drawing."""
    every = max(1, math.ceil(MIN_LABEL_DISTANCE / step))
    labels = []
    for place in range(0, len(buckets), every):
        x = LEFT + (place + 0.5) * step
        anchor = "end" if x > WIDTH - MIN_LABEL_DISTANCE / 2 else "middle"
        labels.append(ChartLabel(WIDTH - RIGHT if anchor == "end" else x, short_time(buckets[place]), anchor))
    return tuple(labels)


def value_labels(most: int) -> tuple[ChartLabel, ...]:
    height = HEIGHT - TOP - BOTTOM
    lines = GRID_LINES if most % GRID_LINES == 0 else 2 if most % 2 == 0 else 1
    return tuple(
        ChartLabel(HEIGHT - BOTTOM - number * height / lines, short_number(most * number // lines))
        for number in range(lines + 1)
    )


def nice_maximum(value: int) -> int:
    """Return the next number from `value` up that is 1, 2, 4, 6 or 8 times a power of ten."""
    if value <= 1:
        return 1
    power: int = 10 ** (len(str(value)) - 1)
    return next(number * power for number in (1, 2, 4, 6, 8, 10) if number * power >= value)


def short_number(value: float) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def short_time(bucket: str) -> str:
    return bucket.replace("T", " ").removesuffix("Z")


# ── Buckets ───────────────────────────────────────────────────────────────────────────────────


def all_buckets(answer: QueryAnswer, bucket: str) -> list[str]:
    """Return all buckets from the first to the last bucket of an answer, including buckets without a record."""
    found = [str(row[0]) for row in answer.rows]
    if not found:
        return []
    first, last = min(found), max(found)
    between = months(first, last) if bucket == "month" else moments(first, last, bucket)
    return between if len(between) <= MAX_COLUMNS else sorted(set(found))[-MAX_COLUMNS:]


def moments(first: str, last: str, bucket: str) -> list[str]:
    step, suffix = STEPS[bucket], {"minute": "%Y-%m-%dT%H:%MZ", "hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d"}[bucket]
    moment, end = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (first, last))
    count = min((end - moment) // step, MAX_COLUMNS) + 1
    return [(moment + place * step).strftime(suffix) for place in range(count)]


def months(first: str, last: str) -> list[str]:
    start, end = (int(one[:4]) * 12 + int(one[5:7]) - 1 for one in (first, last))
    return [f"{month // 12:04d}-{month % 12 + 1:02d}" for month in range(start, min(end, start + MAX_COLUMNS) + 1)]


def counts_by_series(answer: QueryAnswer) -> dict[str, dict[str, int]]:
    """Return the counts of an answer that is grouped by a bucket and another field, as counts by bucket for each value
    of that field."""
    found: dict[str, dict[str, int]] = {}
    for bucket, name, count, *_ in answer.rows:
        found.setdefault("none" if name is None else str(name), {})[str(bucket)] = int(count or 0)
    return found
