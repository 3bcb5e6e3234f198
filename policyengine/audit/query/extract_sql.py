"""DuckDB SQL that extracts the fields of records from lines of logs, as `extract` does in Python. Only names from the
table of fields become text of a statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from policyengine.audit.query.fields import (
    APPROVALS,
    CHAIN_SOURCES,
    DECIMAL_NUMBER,
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

LOGGED_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
LINES = "read_ndjson_objects($files, ignore_errors=true, filename=true, maximum_object_size=$longest)"
RAW_RECORD, RAW_LINE = "record", "line"  # members of the lines that `raw_lines` writes
Columns = Sequence[str]


def quote(name: str) -> str:
    return f'"{name}"'


@dataclass(slots=True)
class PathList:
    """The JSON paths that a statement extracts in one pass over each line, as text or, for lists, as JSON. The record
    is at the path `root`."""

    root: str = "$"
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
        found = [f"json_extract_string(json, [{self._paths(self.texts)}]) AS x"]
        found += [f"json_extract(json, [{self._paths(self.values)}]) AS y"] if self.values else []
        return ", ".join(found)

    def _paths(self, paths: Sequence[str]) -> str:
        return ", ".join(f"'{self.root}.{path}'" for path in paths)


def select_rows(names: Columns) -> str:
    """Return the statement that reads stored fields from the lines of files; the files are a parameter. Lines that are
    malformed, or that only the streaming reader can read, have no kind."""
    return _select(names, LINES, [])


def select_lines(names: Columns) -> str:
    """Return the statement that reads stored fields as `select_rows` does, and each line unchanged."""
    return f"SELECT * EXCLUDE filename FROM ({_select(names, LINES, ['json::VARCHAR AS line'])})"


def select_raw_lines(names: Columns) -> str:
    """Return the statement that reads files of `raw_lines`: stored fields of the records, and each line unchanged."""
    line = f"json_extract_string(json, '$.{RAW_LINE}') AS line"
    return f"SELECT * EXCLUDE filename FROM ({_select(names, LINES, [line], f'$.{RAW_RECORD}')})"


def select_matching_rows(names: Columns, filtered: Columns, condition: str) -> str:
    """Return the statement that reads malformed lines, and only those rows that meet a condition on the `filtered`
    fields. The other fields are extracted only from these rows."""
    matching = f"SELECT * FROM ({_select(filtered, LINES, ['json'])}) AS events WHERE kind IS NULL OR ({condition})"
    return _select(names, f"({matching})", [])


def _select(names: Columns, source: str, more: Columns, root: str = "$") -> str:
    paths = PathList(root)
    kind = f"CASE WHEN {_line_is_plain(paths)} THEN {_kind(paths)} END"
    columns = [f"{_column(FIELDS[name], paths, kind)} AS {quote(name)}" for name in names]
    return (
        f"SELECT {', '.join(['filename', *columns, *more])} FROM (SELECT filename, json, {paths.columns} FROM {source})"
    )


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
