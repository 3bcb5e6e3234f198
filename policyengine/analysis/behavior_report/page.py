"""Renders a report as one self-contained HTML page, without scripts, in the style of `audit report`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyengine.analysis.behavior_report.group_page import HEIGHT as RASTER_HEIGHT
from policyengine.analysis.behavior_report.group_page import WIDTH as RASTER_WIDTH
from policyengine.analysis.behavior_report.group_page import draw_group
from policyengine.analysis.behavior_report.group_text import crowd_table, group_notes, named_group_table, summary_words
from policyengine.analysis.behavior_report.report import (
    TRUST_STEPS,
    BehaviorReport,
    ConditionReport,
    class_words,
    format_day,
)
from policyengine.analysis.behavior_report.tallies import LEVEL_BOUNDS, ExampleDecision
from policyengine.analysis.behavior_report.text import (
    burst_table,
    endpoint_table,
    hit_words,
    notes,
    payload_line,
    payload_table,
    rank_table,
    summary_line,
    unknown_words,
)
from policyengine.audit.report import page as audit_page
from policyengine.audit.report.charts import BOTTOM, HEIGHT, LEFT, MAX_COLUMNS, RIGHT, TOP, WIDTH, stacked_chart
from policyengine.behavior.events import caller_words
from policyengine.control_characters import shell_command
from policyengine.templates import render_template
from policyengine.time_formats import format_duration

KIND_CLASSES = {"raise": "allow", "clamp": "throttle", "deny": "deny", "confirm": "confirm", "rate": "throttle"}
CALLER_SERIES = {"ready": "allow", "not ready": "rest"}
ALARM_SERIES = {"bursts": "deny", "new endpoints": "throttle", "new shapes": "confirm"}
MAX_TITLE_LOGS = 3


@dataclass(frozen=True, slots=True)
class NumberCard:
    """A number on a card; `command` prints it."""

    label: str
    value: str
    command: str
    check: str
    css_class: str = ""


@dataclass(frozen=True, slots=True)
class BarRow:
    """A row with a bar, whose width is in percent."""

    name: str
    count: str
    bar: float
    css_class: str = "plain"


@dataclass(frozen=True, slots=True)
class ConditionCard:
    """A condition, and the requests that it would have hit, in words and in numbers."""

    title: str
    words: str
    at: str
    summary: str
    more: str
    css_class: str
    callers: Sequence[BarRow]
    examples: Sequence[tuple[str, str, str]]
    command: str
    check: str


@dataclass(frozen=True, slots=True)
class TablePanel:
    """A table; its first row is the header."""

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[Sequence[str], str]]
    command: str


@dataclass(frozen=True, slots=True)
class HistogramPanel:
    title: str
    name: str
    rows: Sequence[BarRow]
    command: str
    check: str


class BehaviorPage:
    """The page of a report. `arguments` are the logs and the policies as they were named on the command line."""

    def __init__(self, report: BehaviorReport, arguments: Sequence[str], since: str | None) -> None:
        self._report = report
        self._data = report.to_dict()
        options = [] if since is None else [f"--since={since}"]
        options += [] if report.payloads is None else ["--payloads"]
        options += [] if report.groups is None else ["--groups"]
        self._base = shell_command(["policyengine", "behavior", "report", *arguments, *options, "--format", "json"])

    def render(self) -> str:
        report = self._report
        names = [Path(log).name for log in report.logs]
        more = f" and {len(names) - MAX_TITLE_LOGS:,} more" if len(names) > MAX_TITLE_LOGS else ""
        return render_template(
            __file__,
            "behavior.html.j2",
            audit_page.__file__,
            title=", ".join(names[:MAX_TITLE_LOGS]) + more,
            summary=summary_line(report),
            notes=[*notes(report), *skipped_notes(report)],
            cards=list(self._cards()),
            has_policies=report.revision is not None,
            conditions=[self._condition(number, one) for number, one in enumerate(report.conditions)],
            charts=list(self._charts()),
            plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP,
                  "bottom": HEIGHT - BOTTOM},
            bursts=self._table("Bursts, declared and observed", burst_table(report.classes), "classes"),
            histograms=list(self._histograms()),
            tables=[one for one in self._tables() if one.rows],
            groups=self._groups(),
        )  # fmt: skip

    def _command(self, path: str) -> str:
        """Return the command that prints a part of the report."""
        return f"{self._base} | jq {shlex.quote(path)}"

    # ── Cards ─────────────────────────────────────────────────────────────────────────────────

    def _cards(self) -> Iterator[NumberCard]:
        report = self._report
        for name, css_class in (("decisions", ""), ("callers", "")):
            value = getattr(report, name)
            yield NumberCard(name, f"{value:,}", self._command(f".{name}"), json.dumps(value), css_class)
        ready = sum(one.ready for one in report.classes)
        yield self._sum("ready callers", "[.classes[].ready] | add", ready, "allow")
        bursts = sum(one.tally.bursts for one in report.classes)
        yield self._sum("caller-days with a burst", "[.classes[].with_burst] | add", bursts, "deny")
        new = sum(tally.new_endpoints for _, tally in report.days)
        yield self._sum("requests to new endpoints", "[.days[].new_endpoints] | add", new, "throttle")
        shapes = sum(tally.new_shapes for _, tally in report.days)
        yield self._sum("requests with new shapes", "[.days[].new_shapes] | add", shapes, "confirm")

    def _sum(self, label: str, path: str, value: int, css_class: str) -> NumberCard:
        return NumberCard(label, f"{value:,}", self._command(path), json.dumps(value), css_class)

    # ── Conditions ────────────────────────────────────────────────────────────────────────────

    def _condition(self, number: int, one: ConditionReport) -> ConditionCard:
        tally, condition = one.tally, one.condition
        most = max((count for _, count in one.most), default=1)
        css_class = KIND_CLASSES.get(condition.kind, "plain")
        more = ""
        if condition.lasts is not None and tally.within:
            more = f"{tally.within:,} more requests of these callers within {format_duration(condition.lasts)}"
        return ConditionCard(
            condition.rule, condition.words, condition.at,
            (hit_words(one) if tally.requests else "no request") + unknown_words(tally.unknown), more, css_class,
            [BarRow(caller_words(caller), f"{count:,}", percent(count, most), css_class) for caller, count in one.most],
            [example_row(each) for each in tally.examples],
            self._command(f".conditions[{number}]"), json.dumps(self._data["conditions"][number]),
        )  # fmt: skip

    # ── Charts ────────────────────────────────────────────────────────────────────────────────

    def _charts(self) -> Iterator[dict[str, object]]:
        days = dict(self._report.days)
        shown = sorted(days)[-MAX_COLUMNS:]
        if not shown:
            return
        every = range(max(shown[0], shown[-1] - MAX_COLUMNS + 1), shown[-1] + 1)
        callers = {
            "ready": {format_day(day): days[day].ready for day in shown},
            "not ready": {format_day(day): days[day].callers - days[day].ready for day in shown},
        }
        alarms = {
            "bursts": {format_day(day): days[day].bursts for day in shown},
            "new endpoints": {format_day(day): days[day].new_endpoints for day in shown},
            "new shapes": {format_day(day): days[day].new_shapes for day in shown},
        }
        buckets = [format_day(day) for day in every]
        yield self._chart("Callers by day, in caller-days", callers, buckets, CALLER_SERIES)
        if any(sum(series.values()) for series in alarms.values()):
            yield self._chart("Alarms by day, in requests", alarms, buckets, ALARM_SERIES)

    def _chart(
        self, title: str, counts: Mapping[str, Mapping[str, int]], buckets: Sequence[str], styles: Mapping[str, str]
    ) -> dict[str, object]:
        numbers = [
            {"cells": (bucket, name, f"{counts[name][bucket]:,}"),
             "check": json.dumps([bucket, name, counts[name][bucket]])}
            for bucket in buckets
            for name in styles
            if bucket in counts[name]
        ]  # fmt: skip
        return {
            "title": title, "chart": stacked_chart(counts, buckets, styles), "command": self._command(".days"),
            "heads": ("day", "series", "count"), "numbers": numbers,
        }  # fmt: skip

    # ── Classes, callers and endpoints ────────────────────────────────────────────────────────

    def _histograms(self) -> Iterator[HistogramPanel]:
        classes = self._report.classes
        bounds = [*(f"to {100 * bound:.0f} %" for bound in LEVEL_BOUNDS), "burst"]
        for number, one in enumerate(classes):
            name = class_words(one.issuer, one.name, classes)
            data = self._data["classes"][number]
            if one.tally.days:
                rows = histogram_rows(bounds, one.tally.levels, ["plain"] * len(LEVEL_BOUNDS) + ["deny"])
                yield self._histogram(
                    "Highest level of a caller-day", name, rows, f".classes[{number}].levels", data["levels"]
                )
            if one.ready:
                steps = [f"{place / TRUST_STEPS:.1f} – {(place + 1) / TRUST_STEPS:.1f}" for place in range(TRUST_STEPS)]
                rows = histogram_rows(steps, one.trust, ["allow"] * TRUST_STEPS)
                yield self._histogram("Ready callers by trust", name, rows, f".classes[{number}].trust", data["trust"])

    def _histogram(self, title: str, name: str, rows: Sequence[BarRow], path: str, data: object) -> HistogramPanel:
        return HistogramPanel(title, name, rows, self._command(path), json.dumps(data))

    def _tables(self) -> Iterator[TablePanel]:
        report = self._report
        yield self._table("Most alarms", rank_table(report.flagged), "flagged")
        yield self._table("Least trust", rank_table(report.least_trusted), "least_trusted")
        yield self._table("New endpoints of ready callers", endpoint_table(report.endpoints), "new_endpoints")
        yield self._table("New shapes of payloads of ready callers", endpoint_table(report.shapes), "new_shapes")
        if report.payloads is not None:
            checks = [json.dumps(one) for one in self._data["payloads"]["fields"]]
            heads, *rows = payload_table(report.payloads)
            numbers = list(zip(rows, checks, strict=True))
            yield TablePanel(
                payload_line(report.payloads).capitalize(), heads, numbers, self._command(".payloads.fields")
            )

    # ── Groups ────────────────────────────────────────────────────────────────────────────────

    def _groups(self) -> dict[str, object] | None:
        """Return what the page shows about groups; None if the report did not search for groups."""
        found = self._report.groups
        if found is None:
            return None
        data = self._data["groups"]
        tables = (("Groups", named_group_table(found.groups), "found"), ("Crowds", crowd_table(found.crowds), "crowds"))
        return {
            "summary": summary_words(found), "notes": list(group_notes(found)),
            "width": RASTER_WIDTH, "height": RASTER_HEIGHT,
            "rasters": [
                draw_group(group, self._command(f".groups.rasters[{number}]"), json.dumps(data["rasters"][number]))
                for number, group in enumerate(found.rasters)
            ],
            "tables": [
                TablePanel(title, head, list(zip(rows, map(json.dumps, data[name]), strict=True)),
                           self._command(f".groups.{name}"))
                for title, (head, *rows), name in tables
                if rows
            ],
        }  # fmt: skip

    def _table(self, title: str, table: Sequence[Sequence[str]], name: str) -> TablePanel:
        checks = [json.dumps(one) for one in self._data[name]]
        return TablePanel(title, table[0], list(zip(table[1:], checks, strict=True)), self._command(f".{name}"))


def histogram_rows(names: Sequence[str], counts: Sequence[int], styles: Sequence[str]) -> list[BarRow]:
    most = max(counts, default=0)
    return [
        BarRow(name, f"{count:,}", percent(count, most), style)
        for name, count, style in zip(names, counts, styles, strict=True)
    ]


def example_row(one: ExampleDecision) -> tuple[str, str, str]:
    """Return the id of a decision, its endpoint, and the learned facts."""
    facts = ", ".join(f"{name} {str(value).lower()}" for name, value in one.facts.items())
    return one.id, one.endpoint or "no declared endpoint", facts


def skipped_notes(report: BehaviorReport) -> Iterator[str]:
    for file, (count, _) in report.skipped.items():
        yield f"{file}: {count:,} line{'' if count == 1 else 's'} could not be read"


def percent(part: int, most: int) -> float:
    return round(100 * part / most, 2) if most else 0.0
