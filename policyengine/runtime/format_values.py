"""Values and names of facts as people read them in messages, and values as keys of histories hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from policyengine.runtime.values import EXACT, Missing, Unknown
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import STRING_MAPS

LONGEST_SHOWN = 64
BARE = re.compile(rf"[A-Za-z0-9._~:@+-]{{1,{LONGEST_SHOWN}}}")


def shown(value: object) -> str:
    """A value inside a message: strings quoted, escaped and cut; never a line break or a control character."""
    match value:
        case Unknown():
            return "(unknown)"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return format(value, "f") if isinstance(value, Decimal) else str(value)
        case str():
            return quoted(value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…")
        case EntityRef():
            return f"{value.type} {shown(value.id)}"
        case timedelta():
            return duration(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case tuple():
            items = [shown(item) for item in value[:8]]
            return "[" + ", ".join(items + ["…"] * (len(value) > len(items))) + "]"
        case Mapping():
            return "{…}"
        case _:
            return str(value)


def shown_bare(value: object) -> str:
    """A capture of a path, or the id of the resource: as it is in the path, if nobody can take it for other words."""
    text = value.id if isinstance(value, EntityRef) else value
    return text if isinstance(text, str) and BARE.fullmatch(text) else shown(text)


def fact_name(path: Sequence[str]) -> str:
    """`request.headers["x-id"]`, `body.items[0]`: a path as policies write it."""
    first, *others = path
    members = map(_member, others) if tuple(path[:2]) not in STRING_MAPS else map(_named, others)
    return first + "".join(members)


def _member(name: str) -> str:
    return f"[{name}]" if name.isascii() and name.isdigit() else _named(name)


def _named(name: str) -> str:
    return f".{name}" if name.isascii() and name.isidentifier() else f"[{quoted(name)}]"


def quoted(text: str) -> str:
    """All of a text as a policy would spell it."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else json.dumps(char)[1:-1]


@lru_cache(maxsize=4_096)  # policies name few
def duration(value: timedelta) -> str:
    """`1h30m`, as policies write it."""
    milliseconds = round(value / timedelta(milliseconds=1))
    if milliseconds == 0:
        return "0s"
    words, rest = "-" if milliseconds < 0 else "", abs(milliseconds)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, rest = divmod(rest, size)
        words += f"{count}{unit}" if count else ""
    return words


def canonical(value: object) -> object:
    """JSON that is equal exactly when two values are: what a history is kept under. Unknown is a value."""
    match value:
        case Unknown() | Missing():
            return {"unknown": True}
        case bool() | str() | None:
            return value
        case int() | Decimal():
            return {"number": format(EXACT.normalize(Decimal(value)), "f")}
        case tuple() | list():
            return [canonical(item) for item in value]
        case Mapping():
            return {"object": {str(name): canonical(item) for name, item in sorted(value.items())}}
        case _:
            return {type(value).__name__: str(value)}
