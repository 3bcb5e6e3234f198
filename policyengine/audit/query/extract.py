"""Reads the fields of a record from a line of a log, in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from policyengine.audit.query.fields import (
    APPROVALS,
    CHAIN_SOURCES,
    DECIMAL_NUMBER,
    FIELDS,
    PATH,
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
    Step,
    field_paths,
    split_path,
    split_source,
)
from policyengine.audit.query.query import Cell, Row, format_time
from policyengine.time_formats import RFC3339, parse_time

LOGGED_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
KIND_STEPS = [(kind, split_path(path)) for kind, path in RECORD_KINDS.items()]
_WHOLE, _DECIMAL = re.compile(WHOLE_NUMBER), re.compile(DECIMAL_NUMBER)
Extract = Callable[[Any], Cell]
decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode


class MalformedLineError(Exception):
    """The error for a line that is not a line of a decision log."""


def get(tree: Any, steps: Sequence[Step]) -> Any:
    """Return the value at a path, or None if the tree has no value there."""
    for step in steps:
        if isinstance(step, str):
            tree = tree.get(step) if tree.__class__ is dict else None
        else:
            tree = tree[step] if tree.__class__ is list and len(tree) > step else None
        if tree is None:
            return None
    return tree


def to_text(value: Any) -> str | None:
    """Return a JSON value as text: a string unchanged, None for null, every other value as JSON."""
    return value if value is None or value.__class__ is str else encode(value).decode()


def parse_log_line(line: bytes) -> tuple[dict[str, Any], str]:
    """Return the line as a tree, with its time normalized, and its kind. Raises MalformedLineError."""
    try:
        tree = decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise MalformedLineError from None
    if tree.__class__ is not dict or to_text(tree.get(VERSION_PATH)) not in VERSIONS:
        raise MalformedLineError
    kind = next((kind for kind, steps in KIND_STEPS if get(tree, steps) is not None), None)
    if kind is None:
        raise MalformedLineError
    if kind != "directory":
        tree[TIME_PATH] = normalize_time(tree.get(TIME_PATH))
    return tree, kind


def normalize_time(found: Any) -> str:
    """Return a time as UTC text of fixed width. Raises MalformedLineError."""
    if found.__class__ is not str:
        raise MalformedLineError
    if LOGGED_TIME.fullmatch(found):
        try:
            datetime.fromisoformat(found)
        except ValueError:
            raise MalformedLineError from None
        return found
    moment = parse_time(found) if RFC3339.fullmatch(found) else None
    if moment is None:
        raise MalformedLineError
    return format_time(moment)


class RowExtractor:
    """Extracts some of the stored fields, in their order."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = tuple(name for name in FIELDS if name in names)
        self._extracts = {kind: [extract_of(FIELDS[name], kind) for name in self.names] for kind in RECORD_KINDS}

    def row(self, tree: Mapping[str, Any], kind: str) -> Row:
        return tuple([extract(tree) for extract in self._extracts[kind]])


def extract_of(field: RecordField, kind: str) -> Extract:
    """Return the function that extracts a field from a record of a kind."""
    if field.name == "kind":
        return lambda tree: kind
    if field.kind is FieldKind.TIME:
        return lambda tree: str(tree[TIME_PATH])
    if not any(may_have(kind, path) for path in field_paths(field)):
        return lambda tree: None
    if field.name in SPECIAL:
        return SPECIAL[field.name]
    first = _first_of([_source(one) for one in field.sources if may_have(kind, *PATH.findall(one))])
    match field.kind:
        case FieldKind.INTEGER:
            return lambda tree: to_whole_number(first(tree))
        case FieldKind.NUMBER:
            return lambda tree: to_decimal_number(first(tree))
        case _:
            return first


def may_have(kind: str, *paths: str) -> bool:
    """Return whether records of the kind can have values at the paths."""
    roots = {split_path(path)[0] for path in paths}
    others = {root for name, (root, *_) in KIND_STEPS if name not in (kind, "directory")}
    return not roots & others


def _first_of(sources: Sequence[Callable[[Any], str | None]]) -> Callable[[Any], str | None]:
    if len(sources) == 1:
        return sources[0]

    def first(tree: Any) -> str | None:
        for source in sources:
            if (found := source(tree)) is not None:
                return found
        return None

    return first


def _source(template: str) -> Callable[[Any], str | None]:
    parts = [(split_path(part) if is_path else None, part) for is_path, part in split_source(template)]
    if len(parts) == 1 and (steps := parts[0][0]) is not None:
        return lambda tree: to_text(get(tree, steps))

    def joined(tree: Any) -> str | None:
        found = [text if steps is None else to_text(get(tree, steps)) for steps, text in parts]
        return None if None in found else "".join(filter(None, found))

    return joined


def to_whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and _WHOLE.fullmatch(text) else None


def to_decimal_number(text: str | None) -> float | None:
    return float(text) if text is not None and _DECIMAL.fullmatch(text) else None


# ── Fields of lists ───────────────────────────────────────────────────────────────────────────

_CHAINS, _USERS = map(split_path, CHAIN_SOURCES), map(split_path, USER_SOURCES)
CHAIN_STEPS, USER_STEPS = tuple(_CHAINS), tuple(_USERS)
REMEDY_STEPS, APPROVAL_STEPS = split_path(REMEDIES), split_path(APPROVALS)


def hops_of(tree: Any) -> list[Any]:
    found = next((one for steps in CHAIN_STEPS if (one := get(tree, steps)) is not None), None)
    return found if found.__class__ is list else []


def has_user(tree: Any) -> bool:
    return any(get(tree, steps) is not None for steps in USER_STEPS)


def join_hops(hops: Sequence[Any]) -> str | None:
    return " > ".join(quote_hop(to_text(hop) or "") for hop in hops) or None


def extract_chain(tree: Any) -> str | None:
    return join_hops(hops_of(tree))


def extract_agents(tree: Any) -> str | None:
    return join_hops(hops_of(tree)[has_user(tree) :])


def quote_hop(name: str) -> str:
    """Quote a name that could look like several hops."""
    if ">" not in name and '"' not in name:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def extract_depth(tree: Any) -> int | None:
    hops = hops_of(tree)
    return len(hops) - has_user(tree) if hops else None


def extract_binding(tree: Any) -> str | None:
    remedies = get(tree, REMEDY_STEPS)
    for remedy in remedies if remedies.__class__ is list else ():
        if remedy.__class__ is dict and remedy.get("kind") == "approval" and remedy.get("binding") is not None:
            return to_text(remedy["binding"])
    return None


def spent_approvals(tree: Any, member: str) -> list[str]:
    spends = tree.get(SPENDS)
    approvals = get(tree, APPROVAL_STEPS) if spends else None
    if approvals.__class__ is not list or spends.__class__ is not list:
        return []
    found = [one for one in approvals if one.__class__ is dict and one.get("id") in spends]
    return [text for one in found if (text := to_text(one.get(member))) is not None]


def extract_spent(tree: Any) -> str | None:
    return " ".join(spent_approvals(tree, "binding")) or None


def extract_approver(tree: Any) -> str | None:
    return ", ".join(spent_approvals(tree, "by")) or None


SPECIAL: dict[str, Extract] = {
    "chain": extract_chain,
    "agents": extract_agents,
    "depth": extract_depth,
    "binding": extract_binding,
    "spent": extract_spent,
    "approver": extract_approver,
}
