"""DuckDB SQL for questions about the rows of logs. Only names from this project's tables become text of a statement;
everything that a user or a log supplies is a parameter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from policyengine.audit.query.extract_sql import quote
from policyengine.audit.query.fields import BUCKETS, ENDED, FIELDS, FieldKind
from policyengine.audit.query.query import QUANTILES, WILDCARD, AuditQuery, FieldFilter

TIME = "events.time"
LAST_BEFORE_SURROGATES, FIRST_AFTER_SURROGATES = 0xD7FF, 0xE000
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
BUCKET_FORMATS = {"minute": "%Y-%m-%dT%H:%MZ", "hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
assert BUCKET_FORMATS.keys() == BUCKETS.keys()
JOIN_APPROVALS = """LEFT JOIN (
  SELECT b AS spent_binding, max(t) AS last FROM (
    SELECT unnest(string_split(spent, ' ')) AS b, "time" AS t FROM events WHERE spent IS NOT NULL
  ) GROUP BY b
) AS approved ON events.binding = approved.spent_binding"""
COUNT_NAMES, COUNTED_COLUMNS = ("n", "a", "b"), ("n", f"strftime(a, '{TIME_FORMAT}')", f"strftime(b, '{TIME_FORMAT}')")
NUMBER_NAMES = ("n", "total", "least", "ranks", "most")
MEASURED_COLUMNS = ("n", "round(total, 6)", "least", "ranks[1]", "ranks[2]", "ranks[3]", "most")


@dataclass(slots=True)
class Statement:
    """A statement with its parameters, named `p1`, `p2` …"""

    parameters: dict[str, object] = field(default_factory=dict)
    text: str = ""

    def parameter(self, value: object) -> str:
        name = f"p{len(self.parameters) + 1}"
        self.parameters[name] = value
        return f"${name}"


def expression(name: str) -> str:
    """Return the SQL expression of a field, in the type of the answer."""
    if name in BUCKET_FORMATS:
        return f"strftime({TIME}, '{BUCKET_FORMATS[name]}')"
    if name == ENDED:
        return (
            "CASE WHEN kind = 'decision' AND outcome = 'confirm' "
            "THEN CASE WHEN approved.last >= events.time THEN 'allowed' ELSE 'open' END END"
        )
    return f"strftime({TIME}, '{TIME_FORMAT}')" if name == "time" else quote(FIELDS[name].name)


def as_text(name: str) -> str:
    numeric = name in FIELDS and FIELDS[name].kind in (FieldKind.INTEGER, FieldKind.NUMBER)
    return f"CAST({expression(name)} AS VARCHAR)" if numeric else expression(name)


def condition(query: AuditQuery, statement: Statement) -> str:
    """Return the SQL condition for the records that match."""
    parts = ["kind <> 'directory'"]
    for moment, sign in ((query.since, ">="), (query.until, "<")):
        if moment is not None:
            parts.append(f"{TIME} {sign} CAST({statement.parameter(moment.removesuffix('Z'))} AS TIMESTAMP)")
    parts += [_filter(one, statement) for one in query.filters]
    return " AND ".join(parts)


def loading_condition(query: AuditQuery) -> Statement | None:
    """Return the condition for the rows that a question needs from JSON Lines logs; None if no condition would leave
    out many rows."""
    filtered = query.filter_names - {"kind"} or query.since or query.until
    if not filtered or ENDED in query.filter_names:
        return None
    statement = Statement()
    text = condition(query, statement)
    statement.text = f"{text} OR contains(json::VARCHAR, '\"spends\"')" if query.links_approvals else text
    return statement


def _filter(one: FieldFilter, statement: Statement) -> str:
    text = as_text(one.field)
    found = [_value(text, value, statement) for value in one.values]
    return f"({' OR '.join(found) or 'FALSE'})"


def _value(text: str, value: str, statement: Statement) -> str:
    if not value:
        return f"{text} IS NULL"
    if WILDCARD not in value:
        return f"{text} = {statement.parameter(value)}"
    escaped = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace(WILDCARD, "%")
    like = f"{text} LIKE {statement.parameter(escaped)} ESCAPE '\\'"
    return f"({like}{_prefix_range(text, value.partition(WILDCARD)[0], statement)})"


def _prefix_range(text: str, prefix: str, statement: Statement) -> str:
    """Return a further condition, the range of texts with this prefix, with which DuckDB can skip columns and parts of
    files."""
    last = ord(prefix[-1]) if prefix else sys.maxunicode
    if last == sys.maxunicode:
        return ""
    after = prefix[:-1] + chr(FIRST_AFTER_SURROGATES if last == LAST_BEFORE_SURROGATES else last + 1)
    return f" AND {text} >= {statement.parameter(prefix)} AND {text} < {statement.parameter(after)}"


def events(query: AuditQuery) -> str:
    """Return the source of the rows of a question: `events`, joined with the approvals if the question follows them."""
    return f"events {JOIN_APPROVALS}" if query.links_approvals else "events"


def list_statement(query: AuditQuery) -> Statement:
    """Return the statement for the newest records, oldest first; with the limit 0, for all records in the order of
    reading."""
    statement = Statement()
    columns = ", ".join(f"{expression(name)} AS {quote(name)}" for name in query.columns)
    rows, where = filtered_events(query), condition(query, statement)
    if not query.limit:
        statement.text = f"SELECT {columns} FROM (SELECT * FROM {rows} WHERE {where}) AS events {JOIN_APPROVALS}"
        return statement
    limit = statement.parameter(query.limit)
    newest = f"SELECT events.* FROM {rows} WHERE {where} ORDER BY {_by_moment('DESC')} LIMIT {limit}"
    statement.text = f"SELECT {columns} FROM ({newest}) AS events {JOIN_APPROVALS} ORDER BY {_by_moment('ASC')}"
    return statement


def _by_moment(direction: str) -> str:
    return ", ".join(f"{key} {direction}" for key in ("events.time", "coalesce(events.id, '')", "events.kind"))


def filtered_events(query: AuditQuery) -> str:
    """Return the source of the rows that the filters of a question read."""
    return f"events {JOIN_APPROVALS}" if ENDED in query.filter_names else "events"


def oldest_statement(query: AuditQuery) -> Statement:
    """Return the statement for the time of the oldest record within the limit."""
    statement = Statement()
    where = condition(query, statement)
    statement.text = (
        f"SELECT strftime({TIME}, '{TIME_FORMAT}') FROM {filtered_events(query)} WHERE {where} "
        f"ORDER BY {TIME} DESC LIMIT 1 OFFSET {statement.parameter(query.limit - 1)}"
    )
    return statement


def count_statement(query: AuditQuery) -> Statement:
    statement = Statement()
    statement.text = f"SELECT count(*) FROM {filtered_events(query)} WHERE {condition(query, statement)}"
    return statement


def group_statement(query: AuditQuery) -> Statement:
    """Return the statement for the groups; its last column is the number of groups."""
    statement = Statement()
    keys = [group_key(name) for name in query.count_by]
    source, value = f"{events(query)} WHERE {condition(query, statement)}", ""
    if query.measure == "usage":
        source, value = _usage_numbers(keys, source), "n"
        keys = [*(f"k{place}" for place in range(len(keys))), "member"]
    elif query.measure:
        value = quote(query.measure)
        source += f" AND {value} IS NOT NULL"
    groups = f" GROUP BY {', '.join(keys)}" if keys else ""
    names = [f"g{place}" for place in range(len(keys))]
    inner = (
        f"SELECT {', '.join([*keys, *(_measure_columns(value) if value else _count_columns())])} FROM {source}{groups}"
    )
    numbers = MEASURED_COLUMNS if value else COUNTED_COLUMNS
    shown = ", ".join([*map(shown_key, query.columns, names), *numbers])
    named = ", ".join(map(quote, query.columns))
    having = ' WHERE "count" > 0' if value and not keys else ""
    table = f"SELECT {shown} FROM ({inner}) AS t({', '.join([*names, *(NUMBER_NAMES if value else COUNT_NAMES)])})"
    statement.text = (
        f"SELECT *, count(*) OVER () FROM ({table}) AS u({named}){having} ORDER BY {_order(query)} "
        f"LIMIT {statement.parameter(query.limit or 2**62)}"
    )
    return statement


def group_key(name: str) -> str:
    """Return the expression by which rows are grouped; times are formatted later, once per group."""
    return f"date_trunc('{name}', {TIME})" if name in BUCKET_FORMATS else expression(name)


def shown_key(name: str, group: str) -> str:
    return f"strftime({group}, '{BUCKET_FORMATS[name]}')" if name in BUCKET_FORMATS else group


def _usage_numbers(keys: Sequence[str], source: str) -> str:
    """Return the source of the numbers in usages: one row for each number, with the name of its member."""
    inner = ", ".join([*(f"{key} AS k{place}" for place, key in enumerate(keys)), "TRY_CAST(usage AS JSON) AS usage"])
    members = f"SELECT *, unnest(json_keys(usage)) AS member FROM (SELECT {inner} FROM {source})"
    value = "json_extract(usage, '/' || replace(replace(member, '~', '~0'), '/', '~1'))"
    number = f"CASE WHEN json_type({value}) IN ('UBIGINT', 'BIGINT', 'DOUBLE') THEN {value}::DOUBLE END AS n"
    return f"(SELECT *, {number} FROM ({members})) WHERE n IS NOT NULL"


def _count_columns() -> list[str]:
    return ["count(*)", f"min({TIME})", f"max({TIME})"]


def _measure_columns(value: str) -> list[str]:
    number = f"CAST({value} AS DOUBLE)"
    return [
        "count(*)",
        f"fsum({number})",
        f"min({number})",
        f"quantile_disc({number}, {list(QUANTILES)})",
        f"max({number})",
    ]


def _order(query: AuditQuery) -> str:
    keys = query.columns[: query.columns.index("count")]
    in_order = [f"coalesce(CAST({quote(name)} AS VARCHAR), '')" for name in keys]
    if query.by_time:
        return ", ".join(f"{one} DESC" for one in in_order)
    first = "coalesce(\"first\", '') DESC" if query.newest_first and query.measure is None else '"count" DESC'
    return ", ".join([first, *in_order])
