"""A question about a log: which records to select, and whether to list, count or measure them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeAlias

from policyengine.audit.query.fields import BUCKETS, COMPUTED, ENDED, FIELDS, MEASURES, is_field, stored_fields
from policyengine.control_characters import shell_command
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.time_formats import RFC3339, format_rfc3339, parse_duration, parse_time

DECISION = "decision"
ANY_KIND = "all"
DEFAULT_LIMIT = 1_000
OUTCOMES = ("allow", "deny", "confirm", "throttle")
MAX_LIMIT = 100_000  # maximum records that are sorted in memory
WILDCARD = "*"
NAMED_FILTERS = ("agent", "issuer", "user", "endpoint", "resource", "outcome", "rule", "id")  # options of the command
GROUP_COLUMNS = ("count", "first", "last")
MEASURE_COLUMNS = ("count", "sum", "min", "p50", "p95", "p99", "max")
QUANTILES = (0.5, 0.95, 0.99)
LIST_COLUMNS = (
    "time", "kind", "id", "outcome", "agent", "issuer", "user", "chain", "agents", "depth", "client", "task", "model",
    "endpoint", "target", "resource", "gate", "rule", "observed", "ended", "approver", "event", "status", "latency_ms",
    "size", "usage", "package", "revision", "trace",
)  # fmt: skip
Cell: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Cell, ...]


class QueryError(Exception):
    """The error for a question that cannot be answered; `hint` says how to correct that."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class FieldFilter:
    """A filter: the field of a record must have one of the values. `*` stands for any text, and an empty value matches
    a missing field."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """A question. Without `count_by`, `count` and `measure` it lists the newest `limit` records (0: all, in the order
    of the log). Times are text of fixed width, as `format_time` returns it. Raises QueryError."""

    filters: tuple[FieldFilter, ...] = ()
    since: str | None = None
    until: str | None = None
    count_by: tuple[str, ...] = ()
    count: bool = False
    measure: str | None = None
    newest_first: bool = False  # sort groups by the time of their first record, latest first
    limit: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        for name in (*(one.field for one in self.filters), *self.count_by):
            if not is_field(name):
                hint = did_you_mean(name, (*FIELDS, *COMPUTED)) or "docs/audit-query.md lists the fields"
                raise QueryError(f"records have no field `{name}`", hint)
        for each in self.filters:
            check_outcomes(each)
        if self.measure is not None and self.measure not in MEASURES:
            hint = did_you_mean(self.measure, MEASURES) or f"measure {', '.join(f'`{name}`' for name in MEASURES)}"
            raise QueryError(f"`{self.measure}` is not measured", hint)
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise QueryError("no time is both after `--since` and before `--until`", "exchange the two times")
        if not 0 <= self.limit <= MAX_LIMIT:
            raise QueryError(f"the limit is at most {MAX_LIMIT:,}", "0 prints all records, in the order of the log")

    @property
    def lists(self) -> bool:
        """Whether the question lists records."""
        return not (self.count_by or self.count or self.measure)

    @property
    def columns(self) -> tuple[str, ...]:
        if self.lists:
            return LIST_COLUMNS
        member = ("usage",) if self.measure == "usage" else ()
        return (*self.count_by, *member, *(MEASURE_COLUMNS if self.measure else GROUP_COLUMNS))

    @property
    def names(self) -> frozenset[str]:
        """The fields that the answer reads."""
        shown = LIST_COLUMNS if self.lists else (*self.count_by, *filter(None, [self.measure]))
        return frozenset(shown) | self.filter_names

    @property
    def filter_names(self) -> frozenset[str]:
        """The fields that decide which records match."""
        return frozenset(one.field for one in self.filters)

    @property
    def stored(self) -> frozenset[str]:
        return stored_fields(self.names)

    @property
    def links_approvals(self) -> bool:
        return ENDED in self.names

    @property
    def by_time(self) -> bool:
        """Whether the groups are in the order of time."""
        return bool(self.count_by) and self.count_by[0] in BUCKETS

    def where(self, name: str, *values: str) -> AuditQuery:
        """Return the question with another filter."""
        return replace(self, filters=(*self.filters, FieldFilter(name, values)))

    def command(self, logs: Sequence[str]) -> str:
        """Return the command line that asks the question."""
        files = [f"./{log}" if log.startswith("-") else log for log in logs]
        return shell_command(["policyengine", "audit", "query", *files, *self.options()])

    def options(self) -> Iterator[str]:
        """Yield the options of the command line that asks the question."""
        yield from self._kind_options()
        for condition in self.filters:
            if condition.field != "kind":
                option = condition.field if condition.field in NAMED_FILTERS else f"where={condition.field}"
                yield from (f"--{option}={value}" for value in condition.values)
        yield from (f"--{name}={moment}" for name, moment in (("since", self.since), ("until", self.until)) if moment)
        yield from (f"--count-by={name}" for name in self.count_by)
        yield from ("--count",) if self.count else ()
        yield from (f"--measure={self.measure}",) if self.measure else ()
        yield from ("--newest-first",) if self.newest_first else ()
        yield from (f"--limit={self.limit}",) if self.limit != DEFAULT_LIMIT else ()

    def _kind_options(self) -> Iterator[str]:
        kinds = [condition.values for condition in self.filters if condition.field == "kind"]
        if not kinds:
            yield f"--kind={ANY_KIND}"
        elif kinds != [(DECISION,)] or any(condition.field == "id" for condition in self.filters):
            yield from (f"--kind={value}" for values in kinds for value in values)


@dataclass(slots=True)
class QueryAnswer:
    """An answer: rows under `columns`, and the number of matching records, or of groups, before the limit."""

    query: AuditQuery
    rows: list[Row] = field(default_factory=list)
    total: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        return self.query.columns


# ── Times ─────────────────────────────────────────────────────────────────────────────────────

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TO_THE_MINUTE = re.compile(r"([0-9-]{10}[T ][0-9]{2}:[0-9]{2})(Z|[+-][0-9]{2}:[0-9]{2})")


def format_time(moment: datetime) -> str:
    """Return a time in UTC with microseconds, so that the order of texts is the order of times."""
    return format_rfc3339(moment.astimezone(UTC), "microseconds")


def check_outcomes(wanted: FieldFilter) -> None:
    """Refuse an outcome that no record can have, because a misspelled outcome would silently find nothing. Raises
    QueryError."""
    for value in wanted.values if wanted.field == "outcome" else ():
        if value and WILDCARD not in value and value not in OUTCOMES:
            names = ", ".join(f"`{name}`" for name in OUTCOMES)
            raise QueryError(f"there is no outcome `{value}`", did_you_mean(value, OUTCOMES, 0.5) or f"choose {names}")


def parse_moment(text: str, now: datetime) -> str:
    """Parse `2026-12-01`, `2026-12-01T10:00Z`, an RFC 3339 time, or a duration before `now` such as `7d`. Raises
    QueryError."""
    span = parse_duration(text)
    if span is not None:
        try:
            return format_time(now - span)
        except OverflowError:
            raise QueryError(f"`{text}` is too long ago") from None
    whole = f"{text}T00:00:00Z" if DATE.fullmatch(text) else TO_THE_MINUTE.sub(r"\1:00\2", text)
    found = parse_time(whole) if RFC3339.fullmatch(whole) else None
    if found is None:
        if RFC3339.fullmatch(TO_THE_MINUTE.sub(r"\1:00\2", f"{text}Z")):
            raise QueryError(f"`{text}` has no zone", f"write `{text}Z` for UTC")
        raise QueryError(
            f"`{text}` is neither a time nor a duration",
            "write `2026-12-01`, `2026-12-01T10:00Z`, or `7d` for a week ago",
        )
    return format_time(found)
