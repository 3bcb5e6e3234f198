"""Faults in constants: a bound is moved by one, a boolean flipped, or a text changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from itertools import pairwise

from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import replace_span
from policyengine.testing.mutation.faults import FaultChange
from policyengine.vocabulary import DAYS

MOVE_BOUND = "move a bound"
SMALLER_UNITS = {"w": (7, "d"), "d": (24, "h"), "h": (60, "m"), "m": (60, "s"), "s": (1000, "ms")}
LAST_PART = re.compile(r"(?P<before>.*?)(?P<count>\d+)(?P<unit>ms|[smhdw])")
MINUTES_PER_DAY = 24 * 60  # minutes


def literal_faults(node: ast.Node) -> Iterator[FaultChange]:
    match node:
        case ast.Literal("bool", text):
            yield from literal_changes("flip a constant", node, ["false" if text == "true" else "true"])
        case ast.Literal("hash", text):
            yield from literal_changes("change a text", node, [text[:-1] + ("0" if text[-1] != "0" else "1")])
        case ast.Literal("number", text):
            yield from literal_changes(MOVE_BOUND, node, adjacent_numbers(text))
        case ast.Literal("duration", text):
            yield from literal_changes(MOVE_BOUND, node, adjacent_durations(text))
        case ast.Literal("date", text):
            yield from literal_changes(MOVE_BOUND, node, adjacent_times(text))
        case ast.Literal("clock", text):
            yield from literal_changes(MOVE_BOUND, node, adjacent_clocks(text))
        case ast.Literal("ip", text):
            yield from literal_changes(MOVE_BOUND, node, adjacent_addresses(text))


def literal_changes(operator: str, node: ast.Literal, texts: Sequence[str]) -> Iterator[FaultChange]:
    for text in texts:
        yield FaultChange.at(operator, node, replace_span(node.span, text), text=text)


def adjacent_numbers(text: str) -> list[str]:
    """Return the numbers one step above and below in the last written digit."""
    number, places = Decimal(text.replace("_", "")), len(text.partition(".")[2].replace("_", ""))
    step = Decimal(1).scaleb(-places)
    found = [f"{moved:,.{places}f}" for moved in (number - step, number + step) if moved >= 0]
    return [one.replace(",", "_" if "_" in text else "") for one in found]


def adjacent_durations(text: str) -> list[str]:
    """Return the durations one step above and below in the last written unit, or in the next smaller unit if that would
    be zero."""
    found = LAST_PART.fullmatch(text)
    if found is None:
        return []
    before, count, unit = found["before"], int(found["count"]), found["unit"]
    if count == 1 and not before and unit in SMALLER_UNITS:
        count, unit = SMALLER_UNITS[unit]
    return [f"{before}{moved}{unit}" for moved in (count - 1, count + 1) if moved > 0 or before]


def adjacent_times(text: str) -> list[str]:
    """Return the dates or times one step before and after, in the smallest written unit; none at the limits of the
    calendar."""
    try:
        if "T" not in text:
            day = date.fromisoformat(text)
            return [str(day - timedelta(days=1)), str(day + timedelta(days=1))]
        moment, seconds = datetime.fromisoformat(text), text.count(":", 0, 19) == 2
        step = timedelta(seconds=1) if seconds else timedelta(minutes=1)
        found = [
            moved.isoformat(timespec="seconds" if seconds else "minutes") for moved in (moment - step, moment + step)
        ]
    except (ValueError, OverflowError):
        return []
    return [one.replace("+00:00", "Z") if text.endswith("Z") else one for one in found]


def adjacent_clocks(text: str) -> list[str]:
    hours, minutes = map(int, text.split(":"))
    found = (hours * 60 + minutes - 1, hours * 60 + minutes + 1)
    return [f"{moved // 60:02}:{moved % 60:02}" for moved in found if 0 <= moved <= MINUTES_PER_DAY]


def adjacent_addresses(text: str) -> list[str]:
    """Return networks twice and half as large, or the addresses next to an address."""
    address, slash, length = text.partition("/")
    try:
        if slash:
            lengths = (int(length) - 1, int(length) + 1)
            return [str(ip_network(f"{address}/{one}", strict=False)) for one in lengths if one >= 0]
        return [str(ip_address(address) - 1), str(ip_address(address) + 1)]
    except ValueError:  # beyond the last address, or `/33`
        return []


# ── Texts, values of enums, windows of time ───────────────────────────────────────────────────


def text_faults(node: ast.Node) -> Iterator[FaultChange]:
    """Yield faults in compared texts. Messages are left unchanged, because no decision depends on them."""
    for text in compared_texts(node):
        changed = f"{text.value}x"
        quoted = json.dumps(changed, ensure_ascii=False)
        yield FaultChange.at("change a text", text, replace_span(text.span, quoted), value=changed)


def compared_texts(node: ast.Node) -> list[ast.Text]:
    held: tuple[object, ...]
    match node:
        case ast.Binary(_, left, right):
            held = (left, right)
        case ast.ListLiteral(items):
            held = items
        case ast.EntityLiteral(_, id_):
            held = (id_,)
        case ast.Else(_, fallback):
            held = (fallback,)
        case ast.Call(_, arguments):
            held = arguments
        case ast.Reference(_, keys):
            held = keys
        case ast.LetDecl(_, value) | ast.FactAssignment(_, value):
            held = (value,)
        case ast.AttestedModel(name):
            held = (name,)
        case _:
            held = ()
    return [one for one in held if isinstance(one, ast.Text)]


def enum_faults(node: ast.Node, enums: Mapping[str, Sequence[str]]) -> Iterator[FaultChange]:
    """Yield the faults that replace a value of an enum with an adjacent value; `enums` maps each value to its adjacent
    values."""
    if isinstance(node, ast.Reference) and not node.keys:
        for value in enums.get(node.name, ()):
            yield FaultChange.at(MOVE_BOUND, node, replace_span(node.span, value), name=value)


def enum_neighbours(enums: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for values in enums:
        for one, other in pairwise(values):
            found.setdefault(one, []).append(other)
            found.setdefault(other, []).append(one)
    return found


def window_faults(node: ast.Node) -> Iterator[FaultChange]:
    """Yield faults that move a day of a window by one day, or change its zone; its times are mutated as literals."""
    match node:
        case ast.DailyWindow(first, last) | ast.WholeDaysWindow(first, last):
            days = [day for day in (first, last) if day is not None]
        case ast.WeeklyWindow(first, _, last):
            days = [first, last]
        case ast.AbsoluteWindow():
            days = []
        case _:
            return
    for day in days:
        for other in adjacent_days(day.text):
            yield FaultChange.at(MOVE_BOUND, day, replace_span(day.span, other), text=other)
    zone = "UTC" if node.zone.value != "UTC" else "Asia/Tokyo"
    yield FaultChange.at("change a text", node.zone, replace_span(node.zone.span, f'"{zone}"'), value=zone)


def adjacent_days(day: str) -> list[str]:
    if day not in DAYS:
        return []
    names = list(DAYS)
    return [names[names.index(day) - 1], names[(names.index(day) + 1) % len(names)]]
