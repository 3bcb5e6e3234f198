"""SQL of DuckDB for the same fields and questions. Only names from our tables become text of a statement; everything
that a user or a log supplies is a parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from policyengine.audit.query.fields import (
    APPROVALS,
    BUCKETS,
    CHAIN_SOURCES,
    DECIMAL_NUMBER,
    ENDED,
    FIELDS,
    RECORD_KINDS,
    REMEDIES,
    SPENDS,
    TIME_PATH,
    USER_SOURCES,
    VERSION_PATH,
    VERSIONS,
    WHOLE_NUMBER,
    FieldKind,
    RecordField,
    split_source,
)
from policyengine.audit.query.query import QUANTILES, WILDCARD, AuditQuery, FieldFilter

LOGGED_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
BUCKET_FORMATS = {"minute": "%Y-%m-%dT%H:%MZ", "hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
assert BUCKET_FORMATS.keys() == BUCKETS.keys()


TIME = '"time"'


def quote(name: str) -> str:
    return f'"{name}"'


# ── From lines to rows ────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class PathList:
    """The JSON paths that a statement extracts in one pass over each line, as text or, for lists, as JSON."""

    texts: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def text(self, path: str) -> str:
        """Return the expression of the text at a path."""
        return self._place("x", self.texts, path)

    def json(self, path: str) -> str:
        """Return the expression of the JSON at a path."""
        return self._place("y", self.values, path)

    @staticmethod
    def _place(name: str, paths: list[str], path: str) -> str:
        if path not in paths:
            paths.append(path)
        return f"{name}[{paths.index(path) + 1}]"

    @property
    def columns(self) -> str:
        found = [f"json_extract_string(json, [{_paths(self.texts)}]) AS x"]
        found += [f"json_extract(json, [{_paths(self.values)}]) AS y"] if self.values else []
        return ", ".join(found)


def _paths(paths: Sequence[str]) -> str:
    return ", ".join(f"'$.{path}'" for path in paths)


def select_rows(names: Sequence[str], *, with_line: bool = False) -> str:
    """Return the statement that reads stored fields from the lines of files, a parameter. Lines that are malformed, or
    need the care of the streaming reader, have no kind."""
    paths = PathList()
    whole = _line_is_plain(paths)
    kind = f"CASE WHEN {whole} THEN {_kind(paths)} END"
    columns = [f"{_column(FIELDS[name], paths, kind)} AS {quote(name)}" for name in names]
    columns += ["json::VARCHAR AS line"] if with_line else []
    lines = (
        "SELECT filename, json, {} "
        "FROM read_ndjson_objects($files, ignore_errors=true, filename=true, maximum_object_size=$longest)"
    )
    return f"SELECT filename, {', '.join(columns)} FROM ({lines.format(paths.columns)})"


def _line_is_plain(paths: PathList) -> str:
    versions = ", ".join(f"'{one}'" for one in VERSIONS)
    time = f"regexp_full_match({paths.text(TIME_PATH)}, '{LOGGED_TIME}') AND {_time(paths)} IS NOT NULL"
    records = [paths.text(path) for kind, path in RECORD_KINDS.items() if kind != "directory"]
    is_directory = f"(coalesce({', '.join(records)}) IS NULL AND {paths.text('directory')} IS NOT NULL)"
    return f"{paths.text(VERSION_PATH)} IN ({versions}) AND (({time}) OR {is_directory})"


def _time(paths: PathList) -> str:
    return f"TRY_CAST({paths.text(TIME_PATH)} AS TIMESTAMP)"


def _kind(paths: PathList) -> str:
    cases = " ".join(f"WHEN {paths.text(path)} IS NOT NULL THEN '{kind}'" for kind, path in RECORD_KINDS.items())
    return f"CASE {cases} END"


def _column(field_: RecordField, paths: PathList, kind: str) -> str:
    if field_.name == "kind":
        return kind
    if field_.kind is FieldKind.TIME:
        return _time(paths)
    if field_.name in SPECIAL:
        return SPECIAL[field_.name](paths)
    sources = [_source(source, paths) for source in field_.sources]
    text = sources[0] if len(sources) == 1 else f"coalesce({', '.join(sources)})"
    match field_.kind:
        case FieldKind.INTEGER:
            return _number(text, WHOLE_NUMBER, FieldKind.INTEGER)
        case FieldKind.NUMBER:
            return _number(text, DECIMAL_NUMBER, FieldKind.NUMBER)
        case _:
            return text


def _number(text: str, pattern: str, kind: FieldKind) -> str:
    return f"TRY_CAST(CASE WHEN regexp_full_match({text}, '{pattern}') THEN {text} END AS {kind.value})"


def _source(template: str, paths: PathList) -> str:
    return " || ".join(paths.text(part) if is_path else f"'{part}'" for is_path, part in split_source(template))


def _hops(paths: PathList) -> str:
    found = f"coalesce({', '.join(paths.json(path) for path in CHAIN_SOURCES)})"
    return f"""from_json({found}, '["VARCHAR"]')"""


def _has_user(paths: PathList) -> str:
    return f"(coalesce({', '.join(paths.text(path) for path in USER_SOURCES)}) IS NOT NULL)"


def _join_hops(hops: str) -> str:
    quoted = """'"' || replace(replace(h, '\\', '\\\\'), '"', '\\"') || '"'"""
    hop = f"""CASE WHEN contains(h, '>') OR contains(h, '"') THEN {quoted} ELSE h END"""
    names = f"list_transform({hops}, lambda h : coalesce({hop}, ''))"
    return f"nullif(array_to_string({names}, ' > '), '')"


def _depth(paths: PathList) -> str:
    return f"nullif(len({_hops(paths)}), 0) - {_has_user(paths)}::BIGINT"


def _binding(paths: PathList) -> str:
    remedies = f"""from_json({paths.json(REMEDIES)}, '[{{"kind":"VARCHAR","binding":"VARCHAR"}}]')"""
    return f"list_filter({remedies}, lambda r : r.kind = 'approval' AND r.binding IS NOT NULL)[1].binding"


def _spent(paths: PathList, member: str, between: str) -> str:
    approvals = f"""from_json({paths.json(APPROVALS)}, '[{{"id":"VARCHAR","by":"VARCHAR","binding":"VARCHAR"}}]')"""
    spends = f"""from_json({paths.json(SPENDS)}, '["VARCHAR"]')"""
    used = f"list_filter({approvals}, lambda a : list_contains({spends}, a.id))"
    texts = f"list_filter(list_transform({used}, lambda a : a.{member}), lambda t : t IS NOT NULL)"
    return f"nullif(array_to_string({texts}, '{between}'), '')"


SPECIAL: dict[str, Callable[[PathList], str]] = {
    "chain": lambda paths: _join_hops(_hops(paths)),
    "agents": lambda paths: _join_hops(f"({_hops(paths)})[1 + {_has_user(paths)}::BIGINT:]"),
    "depth": _depth,
    "binding": _binding,
    "spent": lambda paths: _spent(paths, "binding", " "),
    "approver": lambda paths: _spent(paths, "by", ", "),
}


# ── Questions to rows ─────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Statement:
    """A statement with its parameters."""

    parameters: list[object] = field(default_factory=list)
    text: str = ""

    def parameter(self, value: object) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"


def expression(name: str) -> str:
    """Return the expression of a field of a question, in the types of the answer."""
    if name in BUCKET_FORMATS:
        return f"strftime(\"time\", '{BUCKET_FORMATS[name]}')"
    if name == ENDED:
        return (
            "CASE WHEN kind = 'decision' AND outcome = 'confirm' "
            "THEN CASE WHEN approved.last >= \"time\" THEN 'allowed' ELSE 'open' END END"
        )
    return f"strftime(\"time\", '{TIME_FORMAT}')" if name == "time" else quote(FIELDS[name].name)


def as_text(name: str) -> str:
    numeric = name in FIELDS and FIELDS[name].kind in (FieldKind.INTEGER, FieldKind.NUMBER)
    return f"CAST({expression(name)} AS VARCHAR)" if numeric else expression(name)


def condition(query: AuditQuery, statement: Statement) -> str:
    """Return the condition of the records that match."""
    parts = ["kind <> 'directory'"]
    for moment, sign in ((query.since, ">="), (query.until, "<")):
        if moment is not None:
            parts.append(f'"time" {sign} CAST({statement.parameter(moment.removesuffix("Z"))} AS TIMESTAMP)')
    parts += [_filter(one, statement) for one in query.filters]
    return " AND ".join(parts)


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
    return f"{text} LIKE {statement.parameter(escaped)} ESCAPE '\\'"


def events(query: AuditQuery) -> str:
    """Return what a question selects from: the rows, with the approvals if it follows them."""
    if not query.links_approvals:
        return "events"
    spent = (
        "SELECT b AS spent_binding, max(t) AS last FROM "
        "(SELECT unnest(string_split(spent, ' ')) AS b, \"time\" AS t FROM events WHERE spent IS NOT NULL) GROUP BY b"
    )
    return f"events LEFT JOIN ({spent}) AS approved ON events.binding = approved.spent_binding"


def list_statement(query: AuditQuery) -> Statement:
    """Return the statement of the newest records, oldest first; with the limit 0 of all records, as they were read."""
    statement = Statement()
    where = condition(query, statement)
    columns = ", ".join(f"{expression(name)} AS {quote(name)}" for name in query.columns)
    order = "{0} {1}, coalesce(id, '') {1}, kind {1}".format
    source = f"FROM {events(query)} WHERE {where}"
    if not query.limit:
        statement.text = f"SELECT {columns} {source}"
        return statement
    limit, newest_first, oldest_first = statement.parameter(query.limit), order(TIME, "DESC"), order("moment", "ASC")
    newest = f"SELECT *, {TIME} AS moment {source} ORDER BY {newest_first} LIMIT {limit}"
    statement.text = f"SELECT {columns} FROM ({newest}) ORDER BY {oldest_first}"
    if query.links_approvals:
        statement.text = statement.text.replace("approved.last", "last")
    return statement


def count_statement(query: AuditQuery) -> Statement:
    statement = Statement()
    statement.text = f"SELECT count(*) FROM {events(query)} WHERE {condition(query, statement)}"
    return statement


def group_statement(query: AuditQuery) -> Statement:
    """Return the statement of the groups, and how many there are as the last column."""
    statement = Statement()
    where = condition(query, statement)
    keys = [expression(name) for name in query.count_by]
    source = f"{events(query)} WHERE {where}"
    if query.measure == "usage":
        inner = ", ".join([*(f"{one} AS k{place}" for place, one in enumerate(keys)), "usage"])
        members = f"SELECT *, unnest(json_keys(TRY_CAST(usage AS JSON))) AS member FROM (SELECT {inner} FROM {source})"
        value = "json_extract(TRY_CAST(usage AS JSON), '/' || replace(replace(member, '~', '~0'), '/', '~1'))"
        numbers = (
            f"SELECT *, CASE WHEN json_type({value}) IN ('UBIGINT', 'BIGINT', 'DOUBLE') THEN {value}::DOUBLE END AS n"
        )
        source = f"({numbers} FROM ({members})) WHERE n IS NOT NULL"
        keys = [*(f"k{place}" for place in range(len(keys))), "member"]
        value = "n"
    elif query.measure:
        value = quote(query.measure)
        source += f" AND {value} IS NOT NULL"
    else:
        value = ""
    columns = _measured(value) if value else _counted()
    groups = ", ".join(keys)
    names = ", ".join(map(quote, query.columns))
    inner = f"SELECT {', '.join([*keys, *columns])} FROM {source}{f' GROUP BY {groups}' if keys else ''}"
    having = ' WHERE "count" > 0' if value and not keys else ""
    statement.text = (
        f"SELECT *, count(*) OVER () FROM ({inner}) AS t({names}){having} ORDER BY {_order(query)} "
        f"LIMIT {statement.parameter(query.limit or 2**62)}"
    )
    return statement


def _counted() -> list[str]:
    return ["count(*)", f"strftime(min(\"time\"), '{TIME_FORMAT}')", f"strftime(max(\"time\"), '{TIME_FORMAT}')"]


def _measured(value: str) -> list[str]:
    number = f"CAST({value} AS DOUBLE)"
    ranks = [f"quantile_disc({number}, {one})" for one in QUANTILES]
    return ["count(*)", f"round(fsum({number}), 6)", f"min({number})", *ranks, f"max({number})"]


def _order(query: AuditQuery) -> str:
    keys = query.columns[: query.columns.index("count")]
    in_order = [f"coalesce(CAST({quote(name)} AS VARCHAR), '')" for name in keys]
    if query.by_time:
        return ", ".join(f"{one} DESC" for one in in_order)
    first = "coalesce(\"first\", '') DESC" if query.newest_first and query.measure is None else '"count" DESC'
    return ", ".join([first, *in_order])
