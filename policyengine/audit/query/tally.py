"""Answers questions from rows in Python: matches, lists, counts and measures rows in bounded memory."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from policyengine.audit.query.fields import BUCKETS, ENDED
from policyengine.audit.query.query import (
    QUANTILES,
    WILDCARD,
    AuditQuery,
    Cell,
    FieldFilter,
    QueryAnswer,
    QueryError,
    Row,
)

MAX_GROUPS = 1_000_000
MAX_MEASURED = 50_000_000  # numbers, of eight bytes each
Read: TypeAlias = Callable[[Row], Cell]
Key: TypeAlias = tuple[str, ...]
decode = msgspec.json.Decoder().decode


class ApprovedBindings:
    """The latest time at which an approval with each binding was spent."""

    def __init__(self) -> None:
        self.times: dict[str, str] = {}

    def add(self, spent: Cell, time: Cell) -> None:
        for binding in str(spent).split(" ") if spent is not None else ():
            self.times[binding] = max(self.times.get(binding, ""), str(time))
            if len(self.times) > MAX_GROUPS:
                raise QueryError("the log has too many approvals to follow", "narrow the time with `--since`")


class RowReader:
    """Reads stored and computed fields from rows with the named columns."""

    def __init__(self, columns: Sequence[str], approved: ApprovedBindings) -> None:
        self._at = {name: place for place, name in enumerate(columns)}
        self._approved = approved

    def read(self, name: str) -> Read:
        if name in BUCKETS:
            width, rest = BUCKETS[name]
            time = self._at["time"]
            return lambda row: f"{str(row[time])[:width]}{rest}"
        if name == ENDED:
            return self._read_end()
        place = self._at[name]
        return lambda row: row[place]

    def _read_end(self) -> Read:
        kind, outcome, time, binding = (self._at[name] for name in ("kind", "outcome", "time", "binding"))
        times = self._approved.times

        def ended(row: Row) -> Cell:
            if row[kind] != "decision" or row[outcome] != "confirm":
                return None
            return "allowed" if times.get(str(row[binding]), "") >= str(row[time]) else "open"

        return ended

    def matches(self, one: FieldFilter) -> Callable[[Row], bool]:
        """Return a function that returns whether a row passes the filter."""
        read = self.read(one.field)
        literal = {value or None for value in one.values if WILDCARD not in value}
        patterns = [value.split(WILDCARD) for value in one.values if WILDCARD in value]

        def matched(row: Row) -> bool:
            found = read(row)
            text = None if found is None else str(found)
            return text in literal or (text is not None and any(has_parts(text, parts) for parts in patterns))

        return matched


def has_parts(text: str, parts: Sequence[str]) -> bool:
    """Return whether a text consists of these parts, at least two, with any text between them. The time is linear,
    because a client may have chosen the text."""
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class Matcher:
    """Decides which rows match a question."""

    def __init__(self, query: AuditQuery, reader: RowReader) -> None:
        self._time = reader.read("time")
        self._since, self._until = query.since or "", query.until
        self._filters = [reader.matches(one) for one in query.filters]

    def accepts(self, row: Row) -> bool:
        time = str(self._time(row))
        if time < self._since or (self._until is not None and time >= self._until):
            return False
        return all(matches(row) for matches in self._filters)  # most rows end here


class Tally:
    """Collects the answer to one question."""

    def __init__(self, query: AuditQuery, columns: Sequence[str], approved: ApprovedBindings) -> None:
        self.query = query
        reader = RowReader(columns, approved)
        self._time = reader.read("time")
        self._matcher = Matcher(query, reader)
        self._shown = [reader.read(name) for name in (query.columns if query.lists else query.count_by)]
        self._measure = None if query.measure is None else reader.read(query.measure)
        self._newest: list[tuple[tuple[str, str, str], int, Row]] = []
        self._groups: dict[tuple[Cell, ...], list[Any]] = {}
        self._values: dict[tuple[Cell, ...], array[float]] = {}
        self.matched = self._measured = 0
        self._order = reader.read("id") if query.lists else None, reader.read("kind")

    def add(self, row: Row) -> None:
        if self._matcher.accepts(row):
            self.collect(row)

    def collect(self, row: Row) -> None:
        """Add a matching row."""
        self.matched += 1
        if self.query.lists:
            self._list(row)
        elif self._measure is not None:
            self._add_numbers(tuple(read(row) for read in self._shown), self._measure(row))
        else:
            self._count(tuple(read(row) for read in self._shown), str(self._time(row)))

    def shown(self, row: Row) -> Row:
        """Return the cells of a row in the columns of the answer."""
        return tuple(read(row) for read in self._shown)

    def _list(self, row: Row) -> None:
        id_, kind = self._order
        key = (str(self._time(row)), str((id_(row) if id_ else None) or ""), str(kind(row)))
        entry = key, self.matched, row
        if len(self._newest) < self.query.limit:
            heapq.heappush(self._newest, entry)
        elif self.query.limit and key >= self._newest[0][0]:
            heapq.heapreplace(self._newest, entry)

    def _count(self, key: tuple[Cell, ...], time: str) -> None:
        found = self._groups.get(key)
        if found is None:
            self._check_groups(self._groups)
            self._groups[key] = [1, time, time]
            return
        found[0] += 1
        found[1], found[2] = min(found[1], time), max(found[2], time)

    def _add_numbers(self, key: tuple[Cell, ...], value: Cell) -> None:
        if self.query.measure == "usage":
            for member, number in usage_members(value).items():
                self._add_number((*key, member), number)
        elif isinstance(value, int | float):
            self._add_number(key, float(value))

    def _add_number(self, key: tuple[Cell, ...], number: float) -> None:
        self._measured += 1
        if self._measured > MAX_MEASURED:
            raise QueryError("the log has too many numbers to measure", "narrow the time with `--since` and `--until`")
        if key not in self._values:
            self._check_groups(self._values)
            self._values[key] = array("d")
        self._values[key].append(number)

    @staticmethod
    def _check_groups(groups: Mapping[Any, Any]) -> None:
        if len(groups) >= MAX_GROUPS:
            raise QueryError(f"there are more than {MAX_GROUPS:,} groups", "count by a field with fewer values")

    def answer(self) -> QueryAnswer:
        if self.query.lists:
            rows = [self.shown(row) for *_, row in sorted(self._newest, key=lambda entry: entry[:2])]
            return QueryAnswer(self.query, rows, self.matched)
        if self._measure is not None:
            measured = [(*key, *measure(values)) for key, values in self._values.items()]
            return limit_groups(self.query, measured)
        if self.query.count and not self.query.count_by:
            self._groups = self._groups or {(): [0, None, None]}
        return limit_groups(self.query, [(*key, *found) for key, found in self._groups.items()])


def limit_groups(query: AuditQuery, rows: Iterable[Row]) -> QueryAnswer:
    """Return the groups in the order of the answer, up to the limit."""
    keys = query.columns.index("count")
    ordered = sorted(rows, key=lambda row: [("" if cell is None else str(cell)) for cell in row[:keys]])
    total, limit = len(ordered), query.limit or None
    if query.by_time:
        return QueryAnswer(query, ordered[-limit:] if limit else ordered, total)
    if query.newest_first and query.measure is None:
        ordered.sort(key=lambda row: str(row[query.columns.index("first")]), reverse=True)
    else:
        ordered.sort(key=lambda row: -int(row[keys] or 0))
    return QueryAnswer(query, ordered[:limit], total)


def usage_members(usage: Cell) -> dict[str, float]:
    """Return the numbers in a usage, by member."""
    try:
        tree = decode(str(usage)) if usage is not None else None
    except msgspec.DecodeError:
        return {}
    found = tree.items() if isinstance(tree, dict) else ()
    return {
        name: float(value) for name, value in found if isinstance(value, int | float) and not isinstance(value, bool)
    }


def measure(values: array[float]) -> Row:
    """Return count, sum, minimum, percentiles by nearest rank, and maximum."""
    ordered = sorted(values)
    count = len(ordered)
    ranks = [ordered[max(0, math.ceil(one * count) - 1)] for one in QUANTILES]
    return (count, round(math.fsum(ordered), 6), ordered[0], *ranks, ordered[-1])
