"""Renders a report for a terminal: lines, and tables as rows of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine.analysis.behavior_report.group_text import group_parts
from policyengine.analysis.behavior_report.payloads import ODD, PayloadReport
from policyengine.analysis.behavior_report.report import (
    TRUST_STEPS,
    BehaviorReport,
    CallerRank,
    ClassReport,
    ConditionReport,
    EndpointCount,
    class_words,
    format_day,
    margin,
)
from policyengine.analysis.behavior_report.tallies import LEVEL_BOUNDS
from policyengine.analysis.behavior_report.words import Table, count_words, format_count, format_minute, trust_words
from policyengine.behavior.events import caller_words
from policyengine.behavior.field_profile import SCALE
from policyengine.behavior.learn import days_to_calibrate
from policyengine.time_formats import format_duration

SHOWN_CALLERS = 3
SHOWN_DAYS = 14


def text_parts(report: BehaviorReport) -> Iterator[str | Table]:
    """Yield lines and tables from top to bottom; the first row of a table is its header."""
    yield summary_line(report)
    yield from notes(report)
    if report.revision is not None:
        yield ""
        yield "what the policies would have done"
        if not report.conditions:
            yield "  the policies read no learned facts"
        for condition in report.conditions:
            yield from condition_lines(condition)
    if report.classes:
        yield ""
        yield "bursts: caller-days of ready callers with a burst"
        yield burst_table(report.classes)
        yield ""
        yield "highest level of a caller-day, as a share of the level that is a burst"
        yield level_table(report.classes)
        yield ""
        yield "ready callers by trust"
        yield trust_table(report.classes)
    if report.days:
        yield ""
        yield "by day" if len(report.days) <= SHOWN_DAYS else f"by day, the last {SHOWN_DAYS} of {len(report.days):,}"
        yield day_table(report)
    for title, ranks in (("most alarms", report.flagged), ("least trust", report.least_trusted)):
        if ranks:
            yield ""
            yield title
            yield rank_table(ranks)
    if report.endpoints:
        yield ""
        yield "endpoints that were new to a ready caller and its class"
        yield endpoint_table(report.endpoints)
    if report.shapes:
        yield ""
        yield "endpoints with payloads of structures that were new to a ready caller and its class"
        yield endpoint_table(report.shapes)
    if report.payloads is not None:
        yield ""
        yield payload_line(report.payloads)
        if report.payloads.fields:
            yield payload_table(report.payloads)
    if report.groups is not None:
        yield ""
        yield from group_parts(report.groups)


def summary_line(report: BehaviorReport) -> str:
    if report.first is None or report.last is None:
        return "no decisions"
    span = f"from {format_minute(report.first)} to {format_minute(report.last)} UTC"
    return f"{count_words(report.decisions, 'decision')} of {count_words(report.callers, 'caller')}, {span}"


def notes(report: BehaviorReport) -> Iterator[str]:
    """Yield notes that a reader of the numbers needs."""
    if report.learned_only:
        yield f"{count_words(report.learned_only, 'earlier decision')} used only for learning"
    if report.left_out:
        many = count_words(report.left_out, "decision")
        yield f"{many} left out: evaluated only, logged twice, or about no known caller"
    if report.unknown:
        yield f"{report.unknown:,} of them without a class in the log: name the policies after the logs"
    if report.late:
        yield f"{count_words(report.late, 'line')} far out of order, counted at the time of the preceding line"


def condition_lines(one: ConditionReport) -> Iterator[str]:
    tally, condition = one.tally, one.condition
    yield f"  {condition.rule}: {condition.words}  ({condition.at})"
    if not tally.requests:
        yield f"    no request{unknown_words(tally.unknown)}"
        return
    yield f"    {hit_words(one)}{unknown_words(tally.unknown)}"
    if condition.lasts is not None and tally.within:
        more = count_words(tally.within, "more request")
        yield f"    {more} of these callers within {format_duration(condition.lasts)}"
    shown = [f"{caller_words(caller)} ({count:,})" for caller, count in one.most[:SHOWN_CALLERS]]
    rest = [f"{one.callers - len(shown):,} more"] if one.callers > len(shown) else []
    yield f"    most often: {', '.join([*shown, *rest])}"


def hit_words(one: ConditionReport) -> str:
    tally = one.tally
    return (
        f"{count_words(tally.requests, 'request')} of {count_words(one.callers, 'caller')} "
        f"on {count_words(len(tally.days), 'day')} ({count_words(tally.caller_days, 'caller-day')}); "
        f"{tally.allowed:,} were allowed"
    )


def unknown_words(count: int) -> str:
    return f"; unknown for {count_words(count, 'request')}" if count else ""


# ── Tables ────────────────────────────────────────────────────────────────────────────────────


def burst_table(classes: Sequence[ClassReport]) -> Table:
    head = ("class", "callers", "ready", "caller-days", "with burst", "observed", "declared", "margins", "learned from")
    return [head, *(burst_row(one, classes) for one in classes)]


def burst_row(one: ClassReport, classes: Sequence[ClassReport]) -> tuple[str, ...]:
    tally, model = one.tally, one.model
    return (
        class_words(one.issuer, one.name, classes), f"{one.callers:,}", f"{one.ready:,}", f"{tally.days:,}",
        f"{tally.bursts:,}", "–" if one.observed is None else f"{100 * one.observed:.2f} %",
        f"{100 * one.declared:.2f} %", margin_words(one), learned_words(one.burst_days, model.days, model.declared),
    )  # fmt: skip


def margin_words(one: ClassReport) -> str:
    model = one.model
    return f"×{margin(model.margin_slow)} ×{margin(model.margin_fast)}" if model.has_margins else "none yet"


def learned_words(burst_days: int, days: int, declared: bool) -> str:
    """Return the number of caller-days from which the margins were computed, and whether it suffices for the declared
    rate.
    """
    found = count_words(days, "caller-day")
    return found if declared else f"{found}; the declared rate needs {days_to_calibrate(burst_days):,}"


def level_table(classes: Sequence[ClassReport]) -> Table:
    head = ("class", *(f"to {100 * bound:.0f} %" for bound in LEVEL_BOUNDS), "burst")
    return [
        head,
        *((class_words(one.issuer, one.name, classes), *map(format_count, one.tally.levels)) for one in classes),
    ]


def trust_table(classes: Sequence[ClassReport]) -> Table:
    head = ("class", *(f"from {place / TRUST_STEPS:.1f}" for place in range(TRUST_STEPS)))
    return [head, *((class_words(one.issuer, one.name, classes), *map(format_count, one.trust)) for one in classes)]


def day_table(report: BehaviorReport) -> Table:
    return [
        ("day", "decisions", "callers", "ready", "bursts", "new endpoints", "new shapes"),
        *(
            (format_day(day), *map(format_count, (tally.decisions, tally.callers, tally.ready, tally.bursts,
                                                  tally.new_endpoints, tally.new_shapes)))
            for day, tally in report.days[-SHOWN_DAYS:]
        ),
    ]  # fmt: skip


def rank_table(ranks: Sequence[CallerRank]) -> Table:
    return [
        ("caller", "class", "requests", "bursts", "new endpoints", "new shapes", "hits", "trust"),
        *(
            (caller_words(one.caller), one.tally.group, *map(format_count, (one.tally.requests, one.tally.bursts,
             one.tally.new_endpoints, one.tally.new_shapes, one.hits)), trust_words(one.trust))
            for one in ranks
        ),
    ]  # fmt: skip


def endpoint_table(endpoints: Sequence[EndpointCount]) -> Table:
    return [
        ("endpoint", "requests", "first", "last", "last caller"),
        *(
            (name or "none declared", f"{tally.requests:,}", format_minute(tally.first), format_minute(tally.last),
             caller_words(tally.caller))
            for name, tally in endpoints
        ),
    ]  # fmt: skip


def payload_line(found: PayloadReport) -> str:
    if not found.judged:
        return "odd payloads: none was judged, because too few payloads were learned on the days before"
    share = f"{100 * found.odd / found.judged:.2f} %"
    return (
        f"odd payloads: {found.odd:,} of {found.judged:,}, {share}; of usual payloads, at most {100 * ODD / SCALE:g} %"
    )


def payload_table(found: PayloadReport) -> Table:
    return [
        ("endpoint", "field", "payloads", "last", "oddest of caller", "oddest decision"),
        *(
            (endpoint or "none declared", field, f"{one.payloads:,}", format_minute(1_000 * one.last),
             caller_words(one.caller), one.decision)
            for (endpoint, field), one in found.fields
        ),
    ]  # fmt: skip
