"""Renders the answers of a report as one self-contained HTML page, without scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policyengine.audit.query.query import AuditQuery, Cell, Row
from policyengine.audit.query.stream import SkippedLines
from policyengine.audit.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    TimeChart,
    all_buckets,
    counts_by_series,
    short_number,
    short_time,
    stacked_chart,
)
from policyengine.audit.report.questions import ReportAnswers
from policyengine.templates import render_template

OUTCOME_CLASSES = {"allow": "allow", "throttle": "throttle", "confirm": "confirm", "deny": "deny"}  # from the bottom up
OTHERS = "all others"
MAX_TITLE_LOGS = 3
UNITS = {"latency_ms": "ms", "size": "bytes"}


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A number on a card, and the question that it answers. `check` is the row of the answer with the number, or the
    number of groups."""

    label: str
    value: int
    command: str
    check: str
    css_class: str = ""
    share: str = ""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A row of a table: `cells` are the values of the columns, `bar` and `marks` are percentages of the width, and
    `check` is the row of the answer as JSON."""

    cells: tuple[str, ...]
    check: str
    bar: float = 0.0
    marks: tuple[float, ...] = ()
    css_class: str = ""
    hops: tuple[str, ...] = ()
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class ReportPanel:
    """A table with the answer to a question. `kind` selects how rows are drawn."""

    title: str
    kind: str
    heads: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    command: str
    more: int = 0
    empty: str = "none"


class ReportPage:
    """The page of a report. `logs` are named as on the command line."""

    def __init__(self, answers: ReportAnswers, logs: Sequence[str], skipped: SkippedLines, since: str | None) -> None:
        self._answers, self._logs, self._skipped, self._since = answers, logs, skipped, since

    def render(self) -> str:
        names = [Path(log).name for log in self._logs]
        more = f" and {len(names) - MAX_TITLE_LOGS:,} more" if len(names) > MAX_TITLE_LOGS else ""
        [(count, first, last)] = self._answers["all"].rows
        return render_template(
            __file__,
            "report.html.j2",
            title=", ".join(names[:MAX_TITLE_LOGS]) + more,
            records=f"{int(count or 0):,}",
            first=_second(first),
            last=_second(last),
            all_command=self._command("all"),
            all_check=_check(self._answers["all"].rows[0]),
            skipped=self._skipped.count,
            since=self._since,
            bucket=self._answers.bucket,
            figures=self._figures(),
            charts=self._charts(),
            plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP,
                  "bottom": HEIGHT - BOTTOM},
            sections=self._sections(),
        )  # fmt: skip

    def _command(self, name: str) -> str:
        return self._answers[name].query.command(self._logs)

    # ── Figures ───────────────────────────────────────────────────────────────────────────────

    def _figures(self) -> list[ReportFigure]:
        decisions = self._count("decisions", "decisions")
        found = [decisions]
        rows = {row[0]: row for row in self._answers["outcomes"].rows}
        for outcome, label in (
            ("allow", "allowed"),
            ("deny", "denied"),
            ("confirm", "confirms"),
            ("throttle", "throttled"),
        ):
            row = rows.get(outcome)
            number = int(row[1] or 0) if row else 0
            check = _check(row) if row else ""
            share = f"{100 * number / decisions.value:.1f} %" if decisions.value else ""
            found.append(ReportFigure(label, number, self._command("outcomes"), check, outcome, share))
        agents = self._answers["agents"]
        found.append(ReportFigure("agents", agents.total, self._command("agents"), str(agents.total)))
        observed = self._count("observed", "passed by observe mode", "throttle")
        return [*found, observed] if observed.value else found

    def _count(self, name: str, label: str, css_class: str = "") -> ReportFigure:
        [row] = self._answers[name].rows
        return ReportFigure(label, int(row[0] or 0), self._command(name), _check(row), css_class)

    # ── Charts ────────────────────────────────────────────────────────────────────────────────

    def _charts(self) -> list[dict[str, object]]:
        answer = self._answers["over_time"]
        buckets = all_buckets(answer, self._answers.bucket)
        found = [self._chart("Decisions over time, by outcome", "over_time", buckets, OUTCOME_CLASSES)]
        if "agents_over_time" in self._answers.answers:
            found.append(self._agents_chart(buckets))
        return [one for one in found if one["chart"] is not None]

    def _agents_chart(self, buckets: Sequence[str]) -> dict[str, object]:
        totals: dict[str, int] = {}
        for bucket, _, count, *_ in self._answers["over_time"].rows:
            totals[str(bucket)] = totals.get(str(bucket), 0) + int(count or 0)
        counts = counts_by_series(self._answers["agents_over_time"])
        names = sorted(counts, key=lambda name: -sum(counts[name].values()))
        rest = {
            bucket: total - sum(some.get(bucket, 0) for some in counts.values()) for bucket, total in totals.items()
        }
        styles = {name: f"s{place}" for place, name in enumerate(names)}
        if any(rest.values()):
            others = OTHERS if OTHERS not in counts else f"({OTHERS})"
            counts, styles = {**counts, others: rest}, {**styles, others: "rest"}
        return self._chart("Decisions over time, by agent", "agents_over_time", buckets, styles, counts)

    def _chart(
        self,
        title: str,
        name: str,
        buckets: Sequence[str],
        styles: dict[str, str],
        counts: dict[str, dict[str, int]] | None = None,
    ) -> dict[str, object]:
        answer = self._answers[name]
        chart: TimeChart | None = stacked_chart(counts or counts_by_series(answer), buckets, styles)
        numbers = [
            ReportRow((short_time(str(row[0])), _name(row[1]), f"{row[2]:,}"), _check(row)) for row in answer.rows
        ]
        heads = (self._answers.bucket, answer.query.count_by[1], "count")
        return {"title": title, "chart": chart, "command": self._command(name), "heads": heads, "numbers": numbers}

    # ── Tables ────────────────────────────────────────────────────────────────────────────────

    def _sections(self) -> list[tuple[str, list[ReportPanel]]]:
        """Return the sections of the page, each with its heading and its panels that have rows."""
        sections = [
            ("Denied", [self._bars("Rules that denied most", "denied_rules", "deny"),
                        self._bars("Agents denied most", "denied_agents", "deny")]),
            ("New", [self._firsts("Agents, newest first", "new_agents"),
                     self._firsts("Endpoints, newest first", "new_endpoints")]),
            ("Chains", [self._chains(), self._bars("Agents in the chain", "depths", "plain")]),
            ("Confirms", [self._bars("How confirms ended", "confirms", "confirm"),
                          self._bars("By rule", "confirm_rules", "confirm"),
                          self._bars("Who approved", "approvers", "allow")]),
            ("Upstreams", [self._measures("Latency, ms", "latency"), self._measures("Response size, bytes", "sizes"),
                           self._bars("Status", "statuses", "plain")]),
            ("Usage", [self._measures("Reported usage", "usage"), self._measures("By agent", "usage_agents")]),
            ("Tokens", [self._totals("Tokens", ("issued", "refused", "ended")),
                        self._bars("Issued, by client", "clients", "allow"),
                        self._bars("Refused, by client and code", "refusals", "deny"),
                        self._bars("Revoked or completed", "endings", "plain")]),
            ("Operation", [self._bars("Events of the server", "system", "plain")]),
        ]  # fmt: skip
        return [(title, shown) for title, panels in sections if (shown := [one for one in panels if one.rows])]

    def _panel(self, title: str, kind: str, name: str, heads: Sequence[str], rows: Sequence[ReportRow]) -> ReportPanel:
        more = self._answers[name].total - len(rows)
        return ReportPanel(title, kind, tuple(heads), tuple(rows), self._command(name), more)

    def _bars(self, title: str, name: str, css_class: str) -> ReportPanel:
        answer = self._answers[name]
        keys = answer.columns.index("count")
        most = max((int(row[keys] or 0) for row in answer.rows), default=1)
        rows = [
            ReportRow(
                (_join_cells(row[:keys]), f"{int(row[keys] or 0):,}"), _check(row), _percent(row[keys], most), (),
                _status_class(answer.query, row) or css_class,
            )
            for row in answer.rows
        ]  # fmt: skip
        return self._panel(title, "bars", name, (", ".join(answer.query.count_by), "count"), rows)

    def _firsts(self, title: str, name: str) -> ReportPanel:
        rows = [
            ReportRow(
                (_name(key), _second(first), f"{int(count or 0):,}"),
                _check((key, count, first, last)),
                is_new=self._since is not None and str(first) >= self._since,
            )
            for key, count, first, last in self._answers[name].rows
        ]
        return self._panel(title, "firsts", name, (self._answers[name].columns[0], "first", "count"), rows)

    def _chains(self) -> ReportPanel:
        answer = self._answers["chains"]
        most = max((int(row[1] or 0) for row in answer.rows), default=1)
        rows = [
            ReportRow(
                ("", f"{int(row[1] or 0):,}"), _check(row), _percent(row[1], most), hops=tuple(str(row[0]).split(" > "))
            )
            for row in answer.rows
        ]
        heads = ("agents, down to the presenting agent", "count")
        return self._panel("Which agents act through others", "chains", "chains", heads, rows)

    def _measures(self, title: str, name: str) -> ReportPanel:
        answer = self._answers[name]
        keys = answer.columns.index("count")
        most = max((float(row[keys + 5] or 0) for row in answer.rows), default=1.0)
        rows = []
        for row in answer.rows:
            count, total, _, p50, p95, p99, largest = row[keys:]
            shown = (p50, p95, p99, largest) if answer.query.measure != "usage" else (total, p50, p95, largest)
            marks = tuple(_percent(one, most) for one in (p99, p95, p50)) if answer.query.measure != "usage" else ()
            rows.append(
                ReportRow((_join_cells(row[:keys]), f"{count:,}", *map(_number, shown)), _check(row), marks=marks)
            )
        numbers = ("p50", "p95", "p99", "max") if answer.query.measure != "usage" else ("sum", "p50", "p95", "max")
        return self._panel(title, "measures", name, (", ".join(answer.columns[:keys]), "count", *numbers), rows)

    def _totals(self, title: str, names: Sequence[str]) -> ReportPanel:
        """Return a panel with one row for each of several questions, each with its own command."""
        figures = [self._count(name, name) for name in names]
        if not any(one.value for one in figures):
            return ReportPanel(title, "totals", (), (), "")
        rows = [ReportRow((one.label, f"{one.value:,}", one.command), one.check) for one in figures]
        return ReportPanel(title, "totals", ("event", "count"), tuple(rows), "")


def _check(row: Row) -> str:
    return json.dumps(row, ensure_ascii=True)


def _percent(value: Cell, most: float) -> float:
    return round(100 * float(value or 0) / most, 2) if most else 0.0


def _name(value: Cell) -> str:
    return "none" if value is None else str(value)


def _join_cells(cells: Sequence[Cell]) -> str:
    return " · ".join(str(cell) for cell in cells if cell is not None) or "none"


def _number(value: Cell) -> str:
    number = float(value or 0)
    if number >= 10_000:
        return short_number(float(f"{number:.3g}")) if number < 1e15 else f"{number:.3g}"
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}".removesuffix(".0")


def _second(time: Cell) -> str:
    return "" if time is None else str(time)[:16].replace("T", " ")


def _status_class(query: AuditQuery, row: Row) -> str | None:
    """Return the CSS class of a bar whose value determines its color, or None for other bars."""
    if query.count_by == ("status",):
        return {"2": "allow", "3": "allow", "4": "throttle", "5": "deny"}.get(str(row[0])[:1])
    if query.count_by == ("ended",):
        return "allow" if row[0] == "allowed" else "confirm"
    return None
