"""Lowering of literals to constants: numbers, dates, addresses, time windows."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from decimal import Decimal
from typing import assert_never
from zoneinfo import ZoneInfo

from policyengine import kernel as k
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import join_words
from policyengine.diagnostics.suggest import suggest
from policyengine.runtime import calendar_windows
from policyengine.runtime.literals import parse_cidr, parse_ip
from policyengine.runtime.values import DECIMAL_CONTEXT, MAX_INT, MAX_STRING_LENGTH, Unknown, exact_decimal
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.time_formats import parse_duration
from policyengine.typesystem import EntityRef, RefType, Scalar
from policyengine.vocabulary import DAYS


def lower_literal(literal: ast.Literal, report: Reporter) -> k.Constant | None:
    match literal.kind:
        case "bool":
            return k.Constant(literal.text == "true", Scalar.BOOL, span=literal.span)
        case "number":
            return lower_number(literal.text, literal.span, report)
        case "duration":
            return lower_duration(literal, report)
        case "date":
            return lower_date(literal, report)
        case "ip":
            return lower_address(literal, report)
        case "hash":
            return k.Constant(literal.text, Scalar.STRING, span=literal.span)
        case "clock":
            hint = 'write `time within 08:00..18:00 "Europe/Berlin"`'
            report("E236", "a time of day is valid only in a time window", literal.span, hint)
            return None
        case _:
            assert_never(literal.kind)


def lower_number(text: str, span: Span, report: Reporter) -> k.Constant | None:
    """Lower a number exactly: to an int if it has no decimal point and fits in 64 bits, otherwise to a decimal. Return
    None if an error was reported.
    """
    digits = text.replace("_", "")
    if len(digits.replace(".", "").strip("0")) > DECIMAL_CONTEXT.prec:
        report(
            "E233",
            f"a number can have at most {DECIMAL_CONTEXT.prec} significant digits",
            span,
            "round it: numbers are never rounded silently",
        )
        return None
    if "." not in digits and int(digits) <= MAX_INT:
        return k.Constant(int(digits), Scalar.INT, span=span)
    value = exact_decimal(Decimal(digits), "a number")
    if isinstance(value, Unknown):
        report(
            "E233",
            f"a number can have at most {DECIMAL_CONTEXT.prec} significant digits",
            span,
            "round it: numbers are never rounded silently",
        )
        return None
    return k.Constant(value, Scalar.NUMBER, span=span)


def lower_duration(literal: ast.Literal, report: Reporter) -> k.Constant | None:
    value = parse_duration(literal.text)
    if value is None:
        report(
            "E238",
            f"the duration `{literal.text}` is too long",
            literal.span,
            "a duration can be at most about 2.7 million years",
        )
        return None
    return k.Constant(value, Scalar.DURATION, span=literal.span)


def lower_date(literal: ast.Literal, report: Reporter) -> k.Constant | None:
    """Lower a date to its first moment in UTC, or a time with its zone. Return None if an error was reported."""
    if "T" in literal.text and calendar_windows.LOCAL_TIME.fullmatch(literal.text):
        message = f"the time `{literal.text}` does not name its zone"
        report("E234", message, literal.span, f"write `{literal.text}Z` for UTC, or an offset: `+02:00`")
        return None
    value = calendar_windows.parse_moment(with_seconds(literal.text), ZoneInfo("UTC"))
    if value is None:
        report_bad_date(literal, report)
        return None
    return k.Constant(value.astimezone(UTC), Scalar.TIME, span=literal.span)


def with_seconds(text: str) -> str:
    """Return `2027-01-01T10:00:00Z` for `2027-01-01T10:00Z`."""
    date, separator, clock = text.partition("T")
    return f"{date}T{clock[:5]}:00{clock[5:]}" if separator and clock[5:6] not in ("", ":") else text


def report_bad_date(literal: ast.Literal, report: Reporter) -> None:
    date, separator, _ = literal.text.partition("T")
    whole_day = calendar_windows.parse_moment(date, ZoneInfo("UTC")) is None
    what = (
        f"the date `{date}` does not exist"
        if whole_day or not separator
        else f"the time `{literal.text}` does not exist"
    )
    hint = (
        "write a date as year-month-day"
        if whole_day or not separator
        else "hours range from 00 to 23, minutes from 00 to 59"
    )
    report("E234", what, literal.span, hint)


def lower_address(literal: ast.Literal, report: Reporter) -> k.Constant | None:
    if "/" not in literal.text:
        address = parse_ip(literal.text)
        if address is not None:
            return k.Constant(address, Scalar.IP, span=literal.span)
        report(
            "E235",
            f"`{literal.text}` is not an IP address",
            literal.span,
            "each part ranges from 0 to 255, without leading zeros" if "." in literal.text else None,
        )
        return None
    network = parse_cidr(literal.text)
    if network is None:
        report("E235", f"`{literal.text}` is not a network", literal.span, network_hint(literal.text))
        return None
    return k.Constant(network, Scalar.CIDR, span=literal.span)


def network_hint(text: str) -> str:
    """Return a hint for an invalid network. The usual mistake is a bit set after the prefix."""
    address, _, prefix = text.partition("/")
    known = parse_ip(address)
    if known is None:
        return f"`{address}` is not an IP address"
    if not prefix.isdigit() or int(prefix) > known.max_prefixlen:
        return f"the prefix ranges from 0 to {known.max_prefixlen}"
    kept = int(known) >> (known.max_prefixlen - int(prefix)) << (known.max_prefixlen - int(prefix))
    return f"all bits after the prefix must be zero: `{type(known)(kept)}/{int(prefix)}`"


# ── Texts and ids ─────────────────────────────────────────────────────────────────────────────


def lower_text(text: ast.Text, report: Reporter) -> k.Constant | None:
    if len(text.value) > MAX_STRING_LENGTH:
        report("E240", "a string can have at most 65,536 characters", text.span, "no fact can equal a longer string")
        return None
    return k.Constant(text.value, Scalar.STRING, span=text.span)


def lower_id(id_: ast.Text, report: Reporter) -> str | None:
    """Return the id of an entity, which must be non-empty and in NFC. Returns None if an error was reported."""
    if id_.value == "":
        report("E240", "an id cannot be empty", id_.span, "an empty id counts as absent")
        return None
    normal = unicodedata.normalize("NFC", id_.value)
    if normal != id_.value:
        report(
            "E240",
            "this id is not in Unicode NFC, so it equals no id",
            id_.span,
            f'write `"{normal}"` in its composed form',
        )
        return None
    return id_.value


def entity_constant(name: str, id_: str, span: Span) -> k.Constant:
    return k.Constant(EntityRef(name, id_), RefType(frozenset({name})), span=span)


# ── Windows of time ───────────────────────────────────────────────────────────────────────────


def lower_window(window: ast.Window, report: Reporter) -> calendar_windows.Window | None:
    """Lower a time window and report all of its errors, not only the first. Return None if one was reported."""
    zone = lower_zone(window.zone, report)
    match window:
        case ast.DailyWindow():
            return lower_daily(window, zone, report)
        case ast.WholeDaysWindow(first, last):
            days = lower_days(first, last, report)
            return calendar_windows.WholeDays(days, zone) if days and zone else None
        case ast.WeeklyWindow():
            return lower_weekly(window, zone, report)
        case ast.AbsoluteWindow():
            return lower_absolute(window, zone, report)
        case _:
            assert_never(window)


def lower_zone(zone: ast.Text, report: Reporter) -> ZoneInfo | None:
    try:
        return calendar_windows.load_zone(zone.value)
    except calendar_windows.ZoneError as error:
        report("E237", error.message, zone.span, error.hint or 'use an IANA name such as `"Europe/Berlin"` or `"UTC"`')
        return None


def lower_daily(window: ast.DailyWindow, zone: ZoneInfo | None, report: Reporter) -> calendar_windows.Daily | None:
    days = None
    if window.first_day is not None:
        days = lower_days(window.first_day, window.last_day or window.first_day, report)
        zone = zone if days is not None else None
    start, end = lower_clock(window.start, report), lower_clock(window.end, report)
    if start is None or end is None or zone is None:
        return None
    if start == end:
        span = window.start.span.to(window.end.span)
        report("E236", "this window begins where it ends", span, "write `00:00..24:00` for the whole day")
        return None
    return calendar_windows.Daily(days, start, end, zone)


def lower_weekly(window: ast.WeeklyWindow, zone: ZoneInfo | None, report: Reporter) -> calendar_windows.Weekly | None:
    days = [lower_day(day, report) for day in (window.first_day, window.last_day)]
    clocks = [lower_clock(clock, report) for clock in (window.start, window.end)]
    match days, clocks:
        case [int(first), int(last)], [int(start), int(end)] if zone is not None:
            return calendar_windows.Weekly(first, start, last, end, zone)
        case _:
            return None


def lower_absolute(
    window: ast.AbsoluteWindow, zone: ZoneInfo | None, report: Reporter
) -> calendar_windows.Absolute | None:
    start, end = (with_seconds(literal.text) for literal in (window.start, window.end))
    found = calendar_windows.parse_absolute_window(start, end, zone or ZoneInfo("UTC"))
    if found is None:
        for literal in (window.start, window.end):
            if calendar_windows.parse_moment(with_seconds(literal.text), ZoneInfo("UTC")) is None:
                report_bad_date(literal, report)
        return None
    if found.start >= found.end:
        span = window.start.span.to(window.end.span)
        report("E236", "this window ends before it begins", span, "write the earlier date first")
        return None
    return found if zone is not None else None


def lower_days(first: ast.Name, last: ast.Name, report: Reporter) -> frozenset[int] | None:
    known = [lower_day(day, report) for day in dict.fromkeys((first, last))]
    return None if None in known else calendar_windows.days_between(first.text, last.text)


def lower_day(day: ast.Name, report: Reporter) -> int | None:
    if day.text in DAYS:
        return DAYS.index(day.text)
    meant = suggest(day.text, DAYS) or next((known for known in DAYS if day.text.lower().startswith(known)), None)
    hint = f"did you mean `{meant}`?" if meant else f"the days are {join_words(DAYS)}"
    report("E236", f"`{day.text}` is not a day of the week", day.span, hint)
    return None


def lower_clock(clock: ast.Literal, report: Reporter) -> int | None:
    minutes = calendar_windows.parse_clock(clock.text)
    if minutes is None:
        report(
            "E236",
            f"`{clock.text}` is not a time of day",
            clock.span,
            "hours range from 00 to 23, minutes from 00 to 59; a day ends at `24:00`",
        )
    return minutes
