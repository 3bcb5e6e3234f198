"""Format values and names of facts for messages, and values for the keys of histories."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from policyengine.runtime.values import DECIMAL_CONTEXT, MissingValue, Unknown
from policyengine.time_formats import format_duration, format_rfc3339
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import STRING_MAPS

MAX_SHOWN_LENGTH = 64
BARE = re.compile(rf"[A-Za-z0-9._~:@+-]{{1,{MAX_SHOWN_LENGTH}}}")


def format_value(value: object) -> str:
    """Return a value for a message: strings are quoted, escaped and truncated; the result contains no line breaks or
    control characters.
    """
    if type(value) is int:  # most values in messages are amounts
        return str(value)
    match value:
        case Unknown():
            return "(absent)" if value.absent else "(unknown)"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return format(value, "f") if isinstance(value, Decimal) else str(value)
        case str():
            return quote_string(value if len(value) <= MAX_SHOWN_LENGTH else value[: MAX_SHOWN_LENGTH - 1] + "…")
        case EntityRef():
            return f"{value.type} {format_value(value.id)}"
        case timedelta():
            return format_duration(value)
        case datetime():
            return format_rfc3339(value)
        case tuple():
            items = [format_value(item) for item in value[:8]]
            return "[" + ", ".join(items + ["…"] * (len(value) > len(items))) + "]"
        case Mapping():
            return "{…}"
        case _:
            return str(value)


def format_bare_value(value: object) -> str:
    """Return a path capture or resource id without quotes if it has only safe characters."""
    text = value.id if isinstance(value, EntityRef) else value
    return text if isinstance(text, str) and BARE.fullmatch(text) else format_value(text)


def format_fact_path(path: Sequence[str]) -> str:
    """Return a path as policies write it: `request.headers["x-id"]`, `body.items[0]`."""
    first, *others = path
    members = map(_format_member, others) if tuple(path[:2]) not in STRING_MAPS else map(_format_root, others)
    return first + "".join(members)


def _format_member(name: str) -> str:
    return f"[{name}]" if name.isascii() and name.isdigit() else _format_root(name)


def _format_root(name: str) -> str:
    return f".{name}" if name.isascii() and name.isidentifier() else f"[{quote_string(name)}]"


def quote_string(text: str) -> str:
    """Return the whole text as a string literal of a policy."""
    return '"' + "".join(_escape_character(char) for char in text) + '"'


def _escape_character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else json.dumps(char)[1:-1]


def canonical_json(value: object) -> object:
    """Return the JSON of a value, for keys of histories. Two results are equal if and only if the values are equal.
    Unknown is treated as a value.
    """
    match value:
        case Unknown() | MissingValue():
            return {"unknown": True}
        case bool() | str() | None:
            return value
        case int() | Decimal():
            return {"number": format(DECIMAL_CONTEXT.normalize(Decimal(value)), "f")}
        case tuple() | list():
            return [canonical_json(item) for item in value]
        case Mapping():
            return {"object": {str(name): canonical_json(item) for name, item in sorted(value.items())}}
        case _:
            return {type(value).__name__: str(value)}
