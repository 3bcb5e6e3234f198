"""Finds values of filters that no record has, and the most similar value that a record has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policyengine.audit.query.query import NAMED_FILTERS, WILDCARD, AuditQuery, FieldFilter, QueryError
from policyengine.audit.query.source import Reader
from policyengine.diagnostics.suggest import suggest

MAX_NAMES = 10_000  # maximum values of a field to compare with a missing name, the most frequent first
EXACT_FIELDS = frozenset({"id", "outcome"})  # fields whose values are not names that a user could misspell


class MissingName(NamedTuple):
    """A value of a filter that no record has, and the most similar value that a record has."""

    field: str
    value: str
    near: str | None

    def words(self) -> str:
        meant = "" if self.near is None else f": did you mean `{self.near}`?"
        return f"no record has the {self.field} `{self.value}`{meant}"


def find_missing_names(query: AuditQuery, reader: Reader) -> list[MissingName]:
    """Return the names among the filters that no record of the logs has, whatever its kind and time. Reads the logs
    again. Raises OSError."""
    wanted = list(filter_names(query))
    if not wanted:
        return []
    counts = [AuditQuery((FieldFilter(name, (value,)),), count=True) for name, value in wanted]
    fields = list(dict.fromkeys(name for name, _ in wanted))
    groups = [AuditQuery(count_by=(name,), limit=MAX_NAMES) for name in fields]
    try:
        answers = reader.answer([*counts, *groups])
    except QueryError:  # the log has too many different values to group them
        return []
    known = {
        name: [str(row[0]) for row in answer.rows if row[0] is not None]
        for name, answer in zip(fields, answers[len(counts) :], strict=True)
    }
    return [
        MissingName(name, value, suggest(value, known[name]))
        for (name, value), answer in zip(wanted, answers, strict=False)
        if not answer.rows[0][0]
    ]


def filter_names(query: AuditQuery) -> Iterator[tuple[str, str]]:
    """Yield the fields and values of the filters by names, except patterns."""
    for condition in query.filters:
        if condition.field in NAMED_FILTERS and condition.field not in EXACT_FIELDS:
            yield from ((condition.field, value) for value in condition.values if value and WILDCARD not in value)
